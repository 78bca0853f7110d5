//! The primary's side of the in-sync set (rule R3): when it shrinks and grows, and in which order.
//!
//! - *Shrink*: the record first; only when a quorum has it does the log stop waiting for who left.
//! - *Grow*: the log waits for the newcomer first; only when that one holds everything that was
//!   acknowledged before is it recorded.
//!
//! At each moment the log waits for the union of every set that a voter may have on its disk as the
//! newest, so whoever could be elected holds whatever was acknowledged.

use std::time::Duration;

use holdfast_heartbeat::{Epoch, InSyncRecord, Lsn, Member, MemberKind, NodeId, Time, planted};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::quorum::Quota;
use super::{Node, Phase};
use holdfast_heartbeat::Role;

/// How often a member may leave the set in [`DAMPING_WINDOW`] before its return is slowed down.
const FREE_DEPARTURES: usize = 2;
/// Departures older than this are forgotten; those of a member that is slow, when it could have been back for so long and
/// did not leave again.
const DAMPING_WINDOW: Duration = Duration::from_secs(60);
/// So many of a slow one are remembered, and the newest: beyond, its return is not slowed down any further.
const MOST_DEPARTURES: usize = 8;
/// The longest that a flapping member is kept out.
const LONGEST_DAMPING: Duration = Duration::from_secs(30);

/// The in-sync set of a reign.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InSync {
    epoch: Epoch,
    /// The newest record that a quorum has.
    pub confirmed: Option<InSyncRecord>,
    /// The newest record that was proposed and is not at a quorum yet, with its hard-state token.
    pub pending: Option<(InSyncRecord, u64)>,
    /// Waited for, not recorded yet; with the version that names the wait.
    pub joining: Option<(Member, u64)>,
    /// Whom the log waits for.
    pub waiting: Vec<Member>,
    version: u64,
}

impl InSync {
    pub(super) fn new(epoch: Epoch, members: Vec<Member>) -> InSync {
        InSync { epoch, confirmed: None, pending: None, joining: None, waiting: members, version: 0 }
    }

    /// Whether a quorum has a record of this epoch.
    pub(super) fn recorded(&self) -> bool {
        self.confirmed.is_some()
    }

    /// Whether `member` is in the set that a quorum has, and in no set that may replace it missing.
    pub(super) fn holds(&self, member: &Member) -> bool {
        self.confirmed.as_ref().is_some_and(|record| record.contains(member))
            && self.pending.as_ref().is_none_or(|(record, _)| record.contains(member))
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

impl Node {
    /// Writes another in-sync set down here, among the same voters, and offers it to the others with every heartbeat.
    pub(super) fn propose_in_sync(&mut self, now: Time, members: Vec<Member>, out: &mut Vec<Effect>) {
        let voters = self.recorded_voters().cloned();
        self.propose_record(now, members, voters, out);
    }

    /// Writes a record here and offers it to the others with every heartbeat.
    pub(super) fn propose_record(
        &mut self,
        now: Time,
        members: Vec<Member>,
        voters: Option<Vec<NodeId>>,
        out: &mut Vec<Effect>,
    ) {
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let version = reign.in_sync.next_version();
        let record = InSyncRecord { epoch: reign.in_sync.epoch, version, members, voters };
        reign.in_sync.pending = Some((record.clone(), self.persist_token + 1));
        if self.removing_other_half() {
            // Said first, then written: who is left out must not be the one who does not know.
            self.broadcast(now, true, out);
        }
        self.note_voters_proposed(&record);
        self.hard.record = Some(record);
        self.memoryless = false;
        self.persist(out);
        self.confirm_in_sync(now, out);
    }

    /// Whether this half of a pair is writing down that it goes on alone. It may act upon that at any moment, so
    /// the other half, should it hear anything, is told ahead of the disk: it must not take over from what it
    /// knew before. The record itself is stated when it is durable, as always.
    pub(super) fn removing_other_half(&self) -> bool {
        let Phase::Reigning(reign) = &self.phase else { return false };
        let Some((pending, _)) = reign.in_sync.pending.as_ref().filter(|_| self.is_two_node()) else {
            return false;
        };
        let confirmed = reign.in_sync.confirmed.iter().flat_map(|record| &record.members);
        confirmed.into_iter().any(|member| !pending.contains(member))
    }

    /// A reign ends. What it was writing down and never acted upon is taken back: the other half of a pair may
    /// take over now, and this one must not think later that it was the last one.
    pub(super) fn take_back_removal(&mut self, out: &mut Vec<Effect>) {
        if !self.removing_other_half() {
            return;
        }
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let version = reign.in_sync.next_version();
        let Some(confirmed) = &reign.in_sync.confirmed else { return };
        self.hard.record = Some(InSyncRecord { version, ..confirmed.clone() });
        reign.in_sync.pending = None;
        self.persist(out);
    }

    /// Counts who has the pending record; at a quorum it takes effect.
    fn confirm_in_sync(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        let Some((record, token)) = &reign.in_sync.pending else { return };
        if *token > self.durable_token && !planted::is("own-record-not-durable") {
            return;
        }
        // A voter that promised a later epoch does not count: its vote there was given on what it
        // knew before, and the primary of that epoch need not have seen this record.
        let assents = |peer: &super::peer::Peer| {
            peer.state.as_ref().is_some_and(|state| {
                (state.epoch == reign.epoch || planted::is("record-below-promise-counts"))
                    && state
                        .record
                        .as_ref()
                        .is_some_and(|has| has.epoch == record.epoch && has.rank() >= record.rank())
            })
        };
        if !self.carried(now, self.record_quota(now), assents) && !planted::is("solo-not-recorded") {
            return;
        }
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let set = &mut reign.in_sync;
        let (record, _) = set.pending.take().expect("looked at above");
        let mut waiting = record.members.clone();
        if let Some((joining, _)) = &set.joining
            && !waiting.contains(joining)
        {
            waiting.push(joining.clone());
        }
        let newly = set.confirmed.as_ref().map(|old| old.members.clone());
        let voters_before = set.confirmed.as_ref().map(|old| old.voters.clone());
        set.confirmed = Some(record.clone());
        let alone = record.members == [self.settings.me.clone()];
        if set.waiting != waiting {
            set.waiting = waiting.clone();
            let version = set.next_version();
            // The log answers only for the newest wait: whoever joins is admitted by that one.
            if let Some((_, waited)) = &mut set.joining {
                *waited = version;
            }
            out.push(Effect::WaitFor { epoch: reign.epoch, version, members: waiting });
        }
        if newly.as_ref() != Some(&record.members) {
            let names: Vec<_> = record.members.iter().map(Member::to_string).collect();
            let message = format!(
                "in-sync set is now {{{}}} (epoch {}, version {})",
                names.join(", "),
                record.epoch,
                record.version
            );
            out.push(Effect::Note { message });
        }
        if voters_before.is_some_and(|before| before != record.voters) {
            self.note_voters(&record, out);
        }
        if self.hard.voters_proposed.take().is_some() {
            self.persist(out);
        }
        if alone && self.is_fencing_pair() && self.hard.alone_since != Some(record.rank()) {
            self.hard.alone_since = Some(record.rank());
            self.persist(out);
        }
    }

    /// How many voters must have a record. A pair whose other half is silent decides alone, by the
    /// policy of `two_node`; so does one that begins its reign while the other half, which has let go, says that
    /// it can write nothing down. Nobody is left out of a set that way: for that the other half must assent.
    fn record_quota(&self, now: Time) -> Quota {
        let stalled = |peer: &super::peer::Peer| peer.state.as_ref().is_some_and(|state| state.disk_stalled);
        let first = matches!(&self.phase, Phase::Reigning(reign) if reign.alone && !reign.in_sync.recorded());
        let both = self.is_two_node() && self.peers[0].alive(now) && !(first && stalled(&self.peers[0]));
        if both || self.removes_unfenced(first) { Quota::Count(2) } else { self.quota() }
    }

    /// Whether the pending record leaves out the other half of a pair under `two_node = "fence"` while that one may
    /// still go on by itself. Whoever began a reign alone had the proof before it stood.
    fn removes_unfenced(&self, first_alone: bool) -> bool {
        if !self.is_fencing_pair() {
            return false;
        }
        let Phase::Reigning(reign) = &self.phase else { return false };
        let Some((record, _)) = &reign.in_sync.pending else { return false };
        let keeps = self.peers[0].member.as_ref().is_some_and(|member| record.contains(member));
        !keeps
            && !first_alone
            && !reign.forced
            && !self.other_half_is_out()
            && !planted::is("pair-primary-goes-on-alone-unfenced")
    }

    /// Drops who is lost, admits who has caught up.
    pub(super) fn progress_in_sync(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.confirm_in_sync(now, out);
        self.shrink_if_lost(now, out);
        self.grow_if_caught_up(now, out);
        self.write_voters_down(now, out);
        self.progress_reform(now, out);
    }

    fn shrink_if_lost(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        let me = &self.settings.me;
        if let Some((joining, _)) = &reign.in_sync.joining
            && self.lost(now, joining).is_some()
        {
            return self.call_off_joining(out);
        }
        // The other half of a pair fell silent before it could assent to being left out.
        let first_alone = reign.alone && !reign.in_sync.recorded();
        if self.removes_unfenced(first_alone) && !self.peers[0].alive(now) {
            if let Some(other) = self.other_half().filter(|_| !self.paused()) {
                self.want_off(now, other, now, out);
            }
            return;
        }
        let Phase::Reigning(reign) = &self.phase else { return };
        let newest = match (&reign.in_sync.pending, &reign.in_sync.confirmed) {
            (Some((record, _)), _) | (None, Some(record)) => record.members.clone(),
            (None, None) => return,
        };
        let mut reasons = Vec::new();
        let mut staying = Vec::new();
        let mut unfenced = None;
        for member in newest {
            match (member != *me).then(|| self.lost(now, &member)).flatten() {
                Some(_) if member.id != me.id && self.must_be_off_first(now) => {
                    unfenced = Some(member.id.clone());
                    staying.push(member);
                }
                Some(why) => {
                    let slow = self.peers.iter().any(|peer| {
                        peer.member.as_ref() == Some(&member)
                            && peer.alive(now)
                            && self.falls_behind(now, peer)
                    });
                    reasons.push((member, why, slow));
                }
                None => staying.push(member),
            }
        }
        if let Some(id) = unfenced.filter(|_| !self.paused()) {
            self.want_off(now, id, now, out);
        }
        if reasons.is_empty() {
            return;
        }
        for (member, why, slow) in reasons {
            let message = format!("{member} leaves the in-sync set: {why}");
            out.push(Effect::Note { message });
            if let Some(peer) =
                self.peers.iter_mut().find(|peer| peer.member.as_ref().is_some_and(|m| m.id == member.id))
            {
                if slow {
                    // While that goes on nothing is forgotten: else it would go in and out all the time.
                    if now.since(readmission(&peer.departures)) >= DAMPING_WINDOW {
                        peer.departures.clear();
                    }
                    peer.departures.truncate(MOST_DEPARTURES);
                } else {
                    peer.departures.retain(|at| now.since(*at) < DAMPING_WINDOW);
                }
                peer.departures.push(now);
            }
        }
        if planted::is("waits-no-longer-before-recorded") {
            let Phase::Reigning(reign) = &mut self.phase else { return };
            let version = reign.in_sync.next_version();
            out.push(Effect::WaitFor { epoch: reign.epoch, version, members: staying.clone() });
        }
        self.propose_in_sync(now, staying, out);
    }

    /// Whether the other half of a pair under `two_node = "fence"` is silent and may still go on by itself: it has
    /// to be off before it is left out.
    fn must_be_off_first(&self, now: Time) -> bool {
        self.is_fencing_pair()
            && !self.peers[0].alive(now)
            && !self.other_half_is_out()
            && !planted::is("pair-primary-goes-on-alone-unfenced")
    }

    /// Why `member` can no longer be waited for, if it cannot.
    fn lost(&self, now: Time, member: &Member) -> Option<String> {
        let Phase::Reigning(reign) = &self.phase else { return None };
        let Some(peer) =
            self.peers.iter().find(|peer| peer.member.as_ref().is_some_and(|m| m.id == member.id))
        else {
            return Some("it is not among the configured members that were heard".into());
        };
        if self.hard.record.as_ref().is_some_and(|record| record.leaves_out(&member.id)) {
            return Some("it has no vote any more".into());
        }
        if peer.member.as_ref() != Some(member) {
            return Some("it came back with another (new or damaged) log".into());
        }
        if self.is_off(&member.id) {
            return Some("it was switched off".into());
        }
        if peer.is_dead() {
            return Some("its supervisor reported that its agent died".into());
        }
        if !peer.alive(now) {
            return self.is_heard_otherwise(now, peer).then(|| {
                let within = self.settings.timers.detect.as_millis();
                format!("it was silent on every path for {within} ms")
            });
        }
        if peer.state.as_ref().is_some_and(|state| state.leaving) {
            return Some("it is shutting down".into());
        }
        if peer.state.as_ref().is_some_and(|state| state.drained) {
            return Some("it is taken out for maintenance (drained)".into());
        }
        let timers = &self.settings.timers;
        let patience =
            if reign.role == Role::Promoting { timers.promotion_patience() } else { timers.standby_timeout };
        let follower = &peer.follower;
        if !follower.streaming && now.since(follower.lost_at) > patience {
            return Some(format!("it did not follow the log for {} ms", patience.as_millis()));
        }
        if self.falls_behind(now, peer) {
            let within = timers.standby_timeout.as_millis();
            return Some(match follower.taken_since() {
                0 => format!("it acknowledged nothing for {within} ms"),
                taken => format!("it lacks what was written {within} ms ago, and took {taken} bytes since"),
            });
        }
        None
    }

    /// Whether it is `peer` that is silent, and not this member that hears nobody: a quorum acknowledged what this
    /// one said well after it heard `peer` last. Who hears nobody may still be heard; the record that it sends would
    /// shut out the very member that is to take over. If nobody acknowledges anything, the lease ends this reign.
    fn is_heard_otherwise(&self, now: Time, peer: &super::peer::Peer) -> bool {
        let Some(heard_at) = peer.detector.heard_at() else { return true };
        // Members answer at different moments, and packets get lost: that can be an interval and a bit.
        let well_after = heard_at + self.settings.timers.detect / 2;
        self.quorum_acknowledged(now).is_some_and(|sent| sent >= well_after)
    }

    /// Whether `peer` lacks something and takes too little of it.
    fn falls_behind(&self, now: Time, peer: &super::peer::Peer) -> bool {
        let timeout = self.settings.timers.standby_timeout;
        self.held_by(peer) < self.log.durable && now.since(peer.follower.kept_up_at) > timeout
    }

    /// How much of this reign's log `peer` holds durably: as the own log heard it, or as it says itself while it
    /// follows. An own log that hangs hears no acknowledgement, and must not take a healthy follower for a slow one.
    pub(super) fn held_by(&self, peer: &super::peer::Peer) -> Lsn {
        let Phase::Reigning(reign) = &self.phase else { return peer.follower.durable };
        let follows = |state: &&holdfast_heartbeat::MemberState| {
            let of = state.follows.as_ref();
            of.is_some_and(|(epoch, id)| *epoch == reign.epoch && *id == self.settings.me.id)
        };
        let stated = peer.state.as_ref().filter(follows).map_or(Lsn::ZERO, |state| state.durable);
        peer.follower.durable.max(stated)
    }

    fn call_off_joining(&mut self, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let set = &mut reign.in_sync;
        let Some((member, _)) = set.joining.take() else { return };
        let recorded = set
            .confirmed
            .iter()
            .chain(set.pending.iter().map(|(record, _)| record))
            .any(|record| record.contains(&member));
        if !recorded {
            set.waiting.retain(|waited| *waited != member);
            let version = set.next_version();
            out.push(Effect::WaitFor { epoch: reign.epoch, version, members: set.waiting.clone() });
        }
    }

    fn grow_if_caught_up(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        let set = &reign.in_sync;
        if set.pending.is_some()
            || set.joining.is_some()
            || !reign.log_started
            || reign.role == Role::HandingOver
        {
            return;
        }
        let Some(confirmed) = &set.confirmed else { return };
        // Close enough that the wait for the rest is not felt by a writer.
        const CLOSE_BYTES: u64 = 4 << 20;
        let candidate = self.peers.iter().find_map(|peer| {
            let (member, state) = (peer.member.as_ref()?, peer.state.as_ref()?);
            let follows = state
                .follows
                .as_ref()
                .is_some_and(|(epoch, id)| *epoch == reign.epoch && *id == self.settings.me.id);
            let ready = peer.settings.kind == MemberKind::Data
                && !confirmed.contains(member)
                && !confirmed.leaves_out(&member.id)
                && peer.alive(now)
                && peer.follower.streaming
                && follows
                && state.electable
                && !state.leaving
                && self.log.durable.bytes_since(peer.follower.durable) <= CLOSE_BYTES
                && now >= readmission(&peer.departures)
                && self.lost(now, member).is_none();
            ready.then(|| member.clone())
        });
        let Some(member) = candidate else { return };
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let set = &mut reign.in_sync;
        let version = set.next_version();
        set.joining = Some((member.clone(), version));
        if !planted::is("recorded-before-waited-for") {
            set.waiting.push(member);
        }
        out.push(Effect::WaitFor { epoch: reign.epoch, version, members: set.waiting.clone() });
    }

    /// The newcomer holds everything that was acknowledged before the log began to wait for it.
    pub(super) fn admit_joined(&mut self, now: Time, epoch: Epoch, version: u64, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let joins = |(_, waited): &(Member, u64)| *waited == version || planted::is("any-wait-admits");
        if reign.epoch != epoch || !reign.in_sync.joining.as_ref().is_some_and(joins) {
            return;
        }
        // A shrink may have been proposed meanwhile: the newcomer waits for its outcome.
        if reign.in_sync.pending.is_some() {
            return self.call_off_joining(out);
        }
        let (member, _) = reign.in_sync.joining.take().expect("looked at above");
        let confirmed = reign.in_sync.confirmed.as_ref().expect("growth follows a confirmed record");
        let mut members = confirmed.members.clone();
        members.push(member);
        self.propose_in_sync(now, members, out);
    }
}

/// When a member that left this often may come back: at once at first, then after 1, 2, 4 ... seconds.
fn readmission(departures: &[Time]) -> Time {
    let Some(last) = departures.last() else { return Time::ZERO };
    let excess = departures.len().saturating_sub(FREE_DEPARTURES);
    if excess == 0 {
        return *last;
    }
    *last + (Duration::from_secs(1) * (1 << (excess - 1).min(5))).min(LONGEST_DAMPING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_member_comes_back_ever_more_slowly() {
        let t = Time(7_000_000_000);
        assert_eq!(readmission(&[]), Time::ZERO);
        assert_eq!(readmission(&[t, t]), t);
        assert_eq!(readmission(&[t, t, t]), t + Duration::from_secs(1));
        assert_eq!(readmission(&[t; 5]), t + Duration::from_secs(4));
        assert_eq!(readmission(&[t; 50]), t + LONGEST_DAMPING);
    }
}
