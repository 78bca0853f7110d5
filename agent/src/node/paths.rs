//! What is said of the heartbeat paths: which direction works, what is lost on the way, and who hears whom.
//!
//! Nothing is decided here. A dead path, or a dead direction of one, is a warning with a name and never a
//! change of role; that a peer is silent on every path is another module's business.

use std::time::Duration;

use holdfast_heartbeat::{Incarnation, Loss, MemberKind, Time};

use super::Node;
use super::peer::Peer;
use super::view::{Hearing, PathView, PeerView, View};

/// A direction that loses more than this share of its packets is worth a warning: three in a row are lost, and
/// a member looks silent with the usual threshold, once in some 8000 beats from here on.
const LOSSY_PERCENT: f64 = 5.0;
/// So many packets must have been lost in the last minute: one or two may be lost on any network.
const LOSSY_PACKETS: u32 = 5;
/// A packet from a peer that does not hear us tells of the present for this many detection times.
const UNHEARD_FOR: u32 = 3;

impl Node {
    /// What is wrong with the paths, for `ha status`.
    pub(super) fn warn_of_paths(&self, now: Time, view: &View, warnings: &mut Vec<String>) {
        for (slot, peer) in self.peers.iter().zip(&view.peers) {
            if !slot.configured() {
                continue;
            }
            if !peer.alive {
                let what = if peer.kind == MemberKind::Witness { "witness " } else { "" };
                let how = if self.does_not_hear_us(slot, now) {
                    ": its packets arrive here, ours do not arrive there"
                } else {
                    ""
                };
                warnings.push(format!("{what}{} is not heard{how}", peer.name));
                continue;
            }
            for (at, path) in peer.paths.iter().enumerate() {
                warnings.extend(words(&self.path_name(at), &peer.name, path));
            }
        }
    }

    /// Whether authentic packets of a silent peer come that show that it does not hear this member.
    fn does_not_hear_us(&self, peer: &Peer, now: Time) -> bool {
        let lately = self.settings.timers.detect.max(Duration::from_millis(100)) * UNHEARD_FOR;
        peer.detector.paths().iter().any(|path| path.unproven_at.is_some_and(|at| now.since(at) <= lately))
    }

    fn path_name(&self, at: usize) -> String {
        self.settings.path_names.get(at).cloned().unwrap_or_else(|| at.to_string())
    }

    /// One other voter, as this member sees it.
    pub(super) fn peer_view(&self, peer: &Peer, now: Time) -> PeerView {
        let detect = self.settings.timers.detect;
        let alive = peer.alive(now);
        let state = peer.state.as_ref();
        let path = |path: &holdfast_heartbeat::PathHealth| PathView {
            alive: path.alive(now, detect),
            heard_at: path.heard_at,
            // What a silent peer said last is not what is now.
            reaches: path.outbound.carries(detect).filter(|_| alive),
            rtt_us: path.rtt.map(|rtt| rtt.as_micros() as u64),
            rtt_longest_us: path.longest_round_trip(now).map(|rtt| rtt.as_micros() as u64),
            lost_here: path.lost_here(),
            lost_there: path.lost_there(),
            received: path.received,
            sent: path.sent,
            unproven: path.unproven,
        };
        PeerView {
            name: peer.name(),
            kind: peer.settings.kind,
            configured: peer.configured(),
            has_vote: self.votes(peer),
            speaks: state.map(|_| peer.speaks),
            alive,
            heard_at: peer.detector.heard_at(),
            role: state.map(|state| state.role),
            epoch: state.map(|state| state.epoch),
            priority: state.map(|state| state.priority),
            drained: state.is_some_and(|state| state.drained),
            penalty: state.map_or(0, |state| state.penalty),
            disk_stalled: state.is_some_and(|state| state.disk_stalled),
            electable: state.is_some_and(|state| state.electable),
            boot: peer.guard.current_boot(),
            hears: self.hearings(peer),
            paths: peer.detector.paths().iter().map(path).collect(),
        }
    }

    /// Whom the peer says it hears, by name.
    fn hearings(&self, peer: &Peer) -> Vec<Hearing> {
        let of = |member: Incarnation| {
            if member == self.settings.me.incarnation {
                return Some((self.settings.me.id.to_string(), peer.settings.paths));
            }
            let known = |other: &&Peer| other.member.as_ref().is_some_and(|m| m.incarnation == member);
            self.peers.iter().find(known).map(|other| {
                // A path exists between two others where both have it.
                (other.name(), peer.settings.paths.min(other.settings.paths))
            })
        };
        let sights = peer.state.iter().flat_map(|state| &state.hears);
        let hearing = |sight: &holdfast_heartbeat::Sight| {
            let (member, count) = of(sight.member)?;
            let paths = (0..count.min(8)).map(|at| sight.paths >> at & 1 == 1).collect();
            Some(Hearing { member, paths })
        };
        sights.filter_map(hearing).collect()
    }
}

/// What is wrong with a path to a peer that is heard, if anything is.
fn words(name: &str, peer: &str, path: &PathView) -> Option<String> {
    let dead = |how: String| {
        Some(format!("heartbeat path {name} to {peer} is dead ({how}); the other paths carry on"))
    };
    match (path.alive, path.reaches) {
        (false, Some(true)) => {
            return dead(format!(
                "one way: nothing of {peer} arrives here, what is sent from here arrives there"
            ));
        }
        (false, Some(false)) => return dead("nothing arrives, in either direction".to_owned()),
        (false, None) => return dead("nothing arrives".to_owned()),
        (true, Some(false)) => {
            return dead(format!(
                "one way: nothing from here arrives at {peer}, what {peer} sends arrives here"
            ));
        }
        (true, _) => {}
    }
    let lossy = |loss: Option<Loss>| {
        loss.filter(|loss| loss.lost >= LOSSY_PACKETS && loss.percent() >= LOSSY_PERCENT)
    };
    let part = |loss: Loss, way: &str| format!("{:.0} % of {} heartbeats {way}", loss.percent(), loss.sent);
    let parts: Vec<_> = [
        lossy(path.lost_here).map(|loss| part(loss, &format!("from {peer} to here"))),
        lossy(path.lost_there).map(|loss| part(loss, &format!("from here to {peer}"))),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| {
        format!("heartbeat path {name} to {peer} loses packets: {} in the last minute", parts.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(alive: bool, reaches: Option<bool>) -> PathView {
        PathView {
            alive,
            heard_at: None,
            reaches,
            rtt_us: None,
            rtt_longest_us: None,
            lost_here: None,
            lost_there: None,
            received: 0,
            sent: 0,
            unproven: 0,
        }
    }

    #[test]
    fn a_dead_direction_is_named() {
        assert_eq!(words("cable", "b", &path(true, Some(true))), None);
        assert_eq!(words("cable", "b", &path(true, None)), None, "an older peer does not say");
        let said = |alive, reaches| words("cable", "b", &path(alive, reaches)).unwrap();
        assert!(
            said(true, Some(false))
                .contains("path cable to b is dead (one way: nothing from here arrives at b")
        );
        assert!(said(false, Some(true)).contains("is dead (one way: nothing of b arrives here"));
        assert!(said(false, Some(false)).contains("in either direction"));
    }

    #[test]
    fn losses_are_named_with_their_direction_and_a_few_are_none() {
        let with = |here, there| PathView { lost_here: here, lost_there: there, ..path(true, Some(true)) };
        let loss = |lost| Some(Loss { sent: 600, lost });
        assert_eq!(words("main", "b", &with(loss(4), loss(29))), None);
        assert_eq!(
            words("main", "b", &with(loss(4), loss(90))).unwrap(),
            "heartbeat path main to b loses packets: 15 % of 600 heartbeats from here to b in the last minute"
        );
    }
}
