//! Who votes, and how that changes (rule R3).
//!
//! The configuration says where members are reached. Who of them votes is written down in the in-sync record, as soon
//! as each of them was heard; from then on a changed configuration adds and takes away no vote. A primary changes the
//! voting set by a record that is durable at a quorum of the old set *and* of the new one, and until it is, everything
//! that the primary decides needs both: its lease, its in-sync set.
//!
//! Sets change by one member at a time, so any majority of the one meets any majority of the next, whichever of them a
//! member knows (Ongaro, "Consensus: Bridging Theory and Practice", section 4.1). A reign changes nothing before a
//! record of its own is at a quorum (the correction to that section of July 2015), and a candidate needs a majority of
//! every newer set that one of its voters knows. To replace a member takes two such steps, which follow one another by
//! themselves.

use std::collections::BTreeSet;

use holdfast_heartbeat::packet::SAYS_WHO_VOTES;
use holdfast_heartbeat::{InSyncRecord, MemberKind, NodeId, Role, Time, planted};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::event::{Answer, Declined};
use super::handover::{ANSWER_WITHIN, decline};
use super::peer::Peer;
use super::quorum::{Electorate, Quota, Seat};
use super::settings::PeerSettings;
use super::transition::Cause;
use super::view::View;
use super::{Node, Phase};

/// Of fewer it is not written down by itself.
const LEAST_VOTERS: usize = 3;

/// A change of the voting set that an operator ordered and that is not complete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reform {
    /// The order, until it is answered.
    id: Option<u64>,
    since: Time,
    remove: Option<NodeId>,
    add: Option<NodeId>,
}

impl Node {
    /// Who decides at this moment.
    pub(super) fn electorate(&self) -> Electorate {
        let mut newest = self.recorded_voters();
        let Phase::Reigning(reign) = &self.phase else { return Electorate::new(self.seats(newest), None) };
        if reign.opened.is_none() {
            newest = reign.voters.as_ref();
        }
        // What is confirmed is in force until the next one is; a reign begins with the newest that it knows.
        match &reign.in_sync.confirmed {
            Some(confirmed)
                if confirmed.voters.as_ref() != newest && !planted::is("voters-change-at-once") =>
            {
                Electorate::new(self.seats(confirmed.voters.as_ref()), Some(self.seats(newest)))
            }
            _ => Electorate::new(self.seats(newest), None),
        }
    }

    /// Who must elect a candidate: the voters that it knows, and those that one of its `votes` says there are since. A
    /// set of which it has not heard is in force only if some of its own voters stand behind it, and say so with their
    /// votes.
    pub(super) fn electorate_of(&self, votes: &BTreeSet<usize>) -> Electorate {
        let own = self.hard.record.as_ref();
        let newer = self.newer_records(votes).map(|record| self.seats(record.voters.as_ref()));
        Electorate::new(self.seats(own.and_then(|record| record.voters.as_ref())), newer)
    }

    /// Who votes, by the newest record that this member or one that voted for it has.
    pub(super) fn newest_voters(&self, votes: &BTreeSet<usize>) -> Option<Vec<NodeId>> {
        let newest =
            self.newer_records(votes).max_by_key(|record| record.rank()).or(self.hard.record.as_ref());
        newest.and_then(|record| record.voters.clone())
    }

    /// The records of those who gave `votes` that are newer than the own one and name other voters.
    fn newer_records(&self, votes: &BTreeSet<usize>) -> impl Iterator<Item = &InSyncRecord> {
        let own = self.hard.record.as_ref();
        let records = votes.iter().filter_map(|slot| self.peers[*slot].state.as_ref()?.record.as_ref());
        let collected: Vec<_> = records.collect();
        collected.into_iter().filter(move |record| {
            record.voters.is_some()
                && own.is_none_or(|own| own.rank() < record.rank() && own.voters != record.voters)
        })
    }

    /// The places of a voting set; of those who are configured since the start where none was written down.
    fn seats(&self, voters: Option<&Vec<NodeId>>) -> Vec<Seat> {
        let Some(voters) = voters.filter(|_| !planted::is("voters-of-the-configuration")) else {
            let configured = self.peers.iter().enumerate().filter(|(_, peer)| !peer.settings.added);
            return std::iter::once(Seat::Own).chain(configured.map(|(slot, _)| Seat::Peer(slot))).collect();
        };
        let seat = |id: &NodeId| match self.slot_of(id) {
            _ if *id == self.settings.me.id => Seat::Own,
            Some(slot) => Seat::Peer(slot),
            None => Seat::Unknown,
        };
        voters.iter().map(seat).collect()
    }

    /// Who votes, by the newest record that this member has; `None` where nobody wrote it down.
    pub(super) fn recorded_voters(&self) -> Option<&Vec<NodeId>> {
        self.hard.record.as_ref()?.voters.as_ref()
    }

    fn slot_of(&self, id: &NodeId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.member.as_ref().is_some_and(|member| member.id == *id))
    }

    /// Whether `assents` holds for enough voters besides this one.
    pub(super) fn carried(&self, now: Time, quota: Quota, assents: impl Fn(&Peer) -> bool) -> bool {
        let heard = |slot: usize| self.peers[slot].alive(now);
        self.electorate().carries(quota, heard, |slot| assents(&self.peers[slot]))
    }

    /// Whether a majority can be heard.
    pub(super) fn hears_majority(&self, now: Time) -> bool {
        self.carried(now, Quota::Majority, |peer| peer.alive(now))
    }

    /// Whether this member has a vote, as far as it knows.
    pub(super) fn has_vote(&self) -> bool {
        !self.hard.record.as_ref().is_some_and(|record| record.leaves_out(&self.settings.me.id))
    }

    /// Whether `peer` has a vote, as far as this member knows.
    pub(super) fn votes(&self, peer: &Peer) -> bool {
        let voters = self.recorded_voters();
        match (voters, &peer.member) {
            (Some(voters), Some(member)) => voters.contains(&member.id),
            (Some(_), None) => false,
            (None, _) => !peer.settings.added,
        }
    }

    /// What configuration and votes say of each other.
    pub(super) fn warn_of_votes(&self, now: Time, view: &View, warnings: &mut Vec<String>) {
        let me = &self.settings.me.id;
        if !view.has_vote {
            warnings.push(format!("{me} has no vote in this cluster: it follows the log and is never primary. To give it one, on the primary: holdfast ha members add {me}"));
        }
        for (peer, shown) in self.peers.iter().zip(&view.peers) {
            if shown.configured && shown.alive && !shown.has_vote && view.has_vote {
                warnings.push(format!("{0} is configured and has no vote: it follows the log and is never primary. On the primary: holdfast ha members add {0}, or holdfast ha members replace OLD {0}", shown.name));
            }
            let older = peer.speaks < self.settings.speaks && peer.alive(now);
            if older && view.voters > 2 {
                warnings.push(format!(
                    "{} runs an older release: the members cannot be changed before it is upgraded",
                    shown.name
                ));
            }
        }
        let voters = self.hard.record.iter().filter_map(|record| record.voters.as_ref()).flatten();
        for id in voters.filter(|id| *id != me) {
            // Who was never heard since the start has no name here, but may well be configured.
            let unnamed = self.peers.iter().any(|peer| peer.configured() && peer.member.is_none());
            if !self.slot_of(id).is_some_and(|slot| self.peers[slot].configured()) && !unnamed {
                warnings.push(format!("{id} has a vote and is not configured here. If it is gone for good, on the primary: holdfast ha members remove {id}"));
            }
        }
    }

    /// Two data members and nobody else: a majority is lost with either. Where it was written down who votes, that
    /// has to say the same, and to be in force: until then the third may decide with the other half.
    pub(super) fn is_two_node(&self) -> bool {
        let voters = self.recorded_voters();
        let both = voters.is_none_or(|voters| voters.len() == 2) && self.hard.voters_proposed.is_none();
        let mut configured = self.peers.iter().enumerate().filter(|(_, peer)| !peer.settings.added);
        let (other, third) = (configured.next(), configured.next());
        let Some((slot, other)) = other.filter(|_| third.is_none()) else { return false };
        let same = voters.is_none_or(|voters| {
            self.peers.len() == 1 && other.member.as_ref().is_none_or(|member| voters.contains(&member.id))
        });
        both && same
            && slot == 0
            && other.settings.kind == MemberKind::Data
            && self.settings.kind == MemberKind::Data
    }

    /// Writes down who votes, once, when everybody was heard and can keep it.
    pub(super) fn write_voters_down(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &self.phase else { return };
        let set = &reign.in_sync;
        let quiet = set.pending.is_none() && set.joining.is_none() && reign.role == Role::Primary;
        let Some(confirmed) = set.confirmed.as_ref().filter(|_| quiet && !self.is_two_node()) else { return };
        if confirmed.voters.is_some() || !keeps_voters(self.settings.speaks) {
            return;
        }
        let mut voters = vec![self.settings.me.id.clone()];
        for peer in self.peers.iter().filter(|peer| !peer.settings.added) {
            match &peer.member {
                Some(member) if peer.alive(now) && keeps_voters(peer.speaks) => {
                    voters.push(member.id.clone())
                }
                _ => return,
            }
        }
        // One member, or two, may become a pair by their configurations, as ever.
        if voters.len() < LEAST_VOTERS {
            return;
        }
        voters.sort_unstable();
        let record = InSyncRecord { voters: Some(voters.clone()), ..confirmed.clone() };
        if record.within_bounds() {
            self.propose_record(now, record.members, Some(voters), out);
        }
    }

    /// Notes which record of this member's changes who votes and is not in force: on the same disk, in the same write.
    pub(super) fn note_voters_proposed(&mut self, record: &InSyncRecord) {
        let Phase::Reigning(reign) = &self.phase else { return };
        let confirmed = reign.in_sync.confirmed.as_ref();
        let changes = confirmed.is_some_and(|confirmed| confirmed.voters != record.voters);
        let earlier = self.hard.voters_proposed.filter(|_| confirmed.is_none());
        self.hard.voters_proposed = changes.then_some(record.rank()).or(earlier);
    }

    /// Tells who votes from now on.
    pub(super) fn note_voters(&self, record: &InSyncRecord, out: &mut Vec<Effect>) {
        let names = listed(record.voters.as_deref().unwrap_or_default());
        let message = format!("{names} vote (epoch {}, version {})", record.epoch, record.version);
        out.push(Effect::Note { message });
    }

    /// An operator orders another voting set.
    pub(super) fn order_voters(
        &mut self,
        now: Time,
        id: u64,
        remove: Option<NodeId>,
        add: Option<NodeId>,
        out: &mut Vec<Effect>,
    ) -> Option<Answer> {
        let Phase::Reigning(reign) = &self.phase else { return Some(self.only_primary_changes_voters()) };
        let settled = reign.in_sync.confirmed.is_some() && reign.role == Role::Primary;
        if !settled || reign.reform.is_some() {
            return Some(decline(
                "busy",
                "a takeover, a switchover or another change of the members is under way; nothing was changed. Try again when holdfast ha status shows that it is over".into(),
            ));
        }
        if let Err(declined) = self.judge_reform(now, remove.as_ref(), add.as_ref()) {
            return Some(Err(declined));
        }
        let Phase::Reigning(reign) = &mut self.phase else { return None };
        reign.reform = Some(Reform { id: Some(id), since: now, remove, add });
        self.progress_reform(now, out);
        None
    }

    fn only_primary_changes_voters(&self) -> Answer {
        let message = match self.leader {
            Some((_, peer)) => {
                format!(
                    "{} is primary, and only the primary changes who votes: run it there",
                    self.peers[peer].name()
                )
            }
            None => "there is no primary now, and only a primary changes who votes. See: holdfast ha status"
                .to_owned(),
        };
        decline("not_primary", message)
    }

    /// Whether the order could be carried out as things are; why not, and what to do first.
    fn judge_reform(&self, now: Time, remove: Option<&NodeId>, add: Option<&NodeId>) -> Result<(), Declined> {
        let no = |code, message: String| {
            Err(Declined { code, message: format!("{message}. Nothing was changed") })
        };
        let me = &self.settings.me.id;
        if remove == Some(me) {
            return no(
                "is_primary",
                format!(
                    "{me} is primary and cannot take its own vote away. First: holdfast ha failover; then ask the new primary"
                ),
            );
        }
        let voters = match self.known_voters(remove) {
            Ok(voters) => voters,
            Err(unknown) => {
                return no(
                    "unknown_voter",
                    format!(
                        "the member at {unknown} has a vote and was not heard since this agent started, so its name is not known here. Start it, or take it away too"
                    ),
                );
            }
        };
        if let Some(id) = remove.filter(|id| !voters.contains(id)) {
            return no("no_such_voter", format!("{id} has no vote; those who have one: {}", listed(&voters)));
        }
        if self.is_two_node() && add.is_none() {
            return no(
                "pair",
                "two members without a witness decide by their two_node policy, and a dead half needs no order to be replaced: give the other host its peer_addrs and reload. To have a witness: holdfast ha members add NAME".into(),
            );
        }
        if let Some(id) = add {
            let peer = self.slot_of(id).map(|slot| &self.peers[slot]);
            let Some(peer) = peer.filter(|peer| peer.alive(now)) else {
                return no(
                    "not_heard",
                    format!(
                        "{id} is not heard here. Name its address in peer_addrs (a witness: witness_addrs) on every member and reload them (systemctl reload holdfast), start it, and try again"
                    ),
                );
            };
            let missing: Vec<_> = self.deaf_to(now, peer, remove).collect();
            if !missing.is_empty() {
                return no(
                    "not_heard",
                    format!(
                        "{id} is not heard by {0} yet. Name its address there too and reload: on {0}: systemctl reload holdfast",
                        listed(&missing)
                    ),
                );
            }
        }
        let mut next: Vec<_> = voters.iter().filter(|id| Some(*id) != remove).cloned().collect();
        next.extend(add.filter(|id| !voters.contains(id)).cloned());
        for id in next.iter().filter(|id| *id != me) {
            let peer = self.slot_of(id).map(|slot| &self.peers[slot]);
            if peer.is_some_and(|peer| peer.state.is_some() && !keeps_voters(peer.speaks)) {
                return no(
                    "older_release",
                    format!("{id} runs an older release, which cannot keep who votes. Upgrade it first"),
                );
            }
        }
        let Phase::Reigning(reign) = &self.phase else { return Ok(()) };
        let largest = reign.in_sync.confirmed.clone().map(|record| InSyncRecord {
            members: record.members,
            voters: Some(voters.iter().chain(add).cloned().collect()),
            ..record
        });
        if add.is_some_and(|id| !voters.contains(id)) && largest.is_some_and(|record| !record.within_bounds())
        {
            return no(
                "too_long",
                "the names of so many members do not fit into a heartbeat. Choose shorter ones".into(),
            );
        }
        // A pair has no majority without its other half, and needs one for as long as the change takes.
        let quota = if reign.answered_for { Quota::Heard } else { Quota::Majority };
        let heard = |slot: usize| self.peers[slot].alive(now);
        let after = Electorate::new(self.seats(Some(&next)), None);
        if !self.electorate().carries(quota, heard, heard) || !after.carries(quota, heard, heard) {
            return no(
                "no_quorum",
                format!(
                    "too few of {} are heard to decide it, or to decide anything afterwards. Bring one more of them back first",
                    listed(&next)
                ),
            );
        }
        Ok(())
    }

    /// Who has a vote now, by name. `Err`: the address of one whose name is not known; it is taken for `gone` where
    /// that is the only one.
    fn known_voters(&self, gone: Option<&NodeId>) -> Result<Vec<NodeId>, String> {
        if let Some(voters) = self.recorded_voters() {
            return Ok(voters.clone());
        }
        let mut voters = vec![self.settings.me.id.clone()];
        let mut gone = gone.filter(|id| self.slot_of(id).is_none());
        for peer in self.peers.iter().filter(|peer| !peer.settings.added) {
            match (&peer.member, gone.take_if(|_| peer.member.is_none())) {
                (Some(member), _) => voters.push(member.id.clone()),
                (None, Some(id)) => voters.push(id.clone()),
                (None, None) => return Err(peer.settings.label.clone()),
            }
        }
        Ok(voters)
    }

    /// Which voters that are heard here do not hear `newcomer`, as they say. A witness need hear nobody but the others
    /// hear it, so this asks everybody.
    fn deaf_to<'a>(
        &'a self,
        now: Time,
        newcomer: &'a Peer,
        leaving: Option<&'a NodeId>,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let incarnation = newcomer.member.as_ref().map(|member| member.incarnation);
        let hears = move |peer: &Peer| {
            let sights = peer.state.iter().flat_map(|state| &state.hears);
            sights.into_iter().any(|sight| Some(sight.member) == incarnation && sight.paths != 0)
        };
        let seats = self.seats(self.recorded_voters());
        let voters = seats.into_iter().filter_map(|seat| match seat {
            Seat::Peer(slot) => Some(&self.peers[slot]),
            Seat::Own | Seat::Unknown => None,
        });
        voters.filter(move |peer| peer.alive(now) && !hears(peer)).filter_map(move |peer| {
            let id = &peer.member.as_ref()?.id;
            (Some(id) != leaving && newcomer.member.as_ref().is_some_and(|member| member.id != *id))
                .then(|| id.clone())
        })
    }

    /// The next step of a change, when the one before is in force.
    pub(super) fn progress_reform(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let Some(reform) = &mut reign.reform else { return };
        if let Some(id) = reform.id.filter(|_| now >= reform.since + ANSWER_WITHIN) {
            reform.id = None;
            let message = "the change is written down here and waits for a quorum of the old and of the new members; it takes effect when they are heard. See: holdfast ha status".to_owned();
            out.push(Effect::Answer { id, answer: Err(Declined { code: "pending", message }) });
        }
        let (remove, add) = (reform.remove.clone(), reform.add.clone());
        let set = &reign.in_sync;
        if set.pending.is_some() || set.joining.is_some() || reign.role != Role::Primary {
            return;
        }
        let Some(confirmed) = set.confirmed.clone() else { return };
        let Ok(voters) = confirmed.voters.clone().map_or_else(|| self.known_voters(remove.as_ref()), Ok)
        else {
            return;
        };
        let leaves = remove.as_ref().filter(|id| voters.contains(id));
        let comes = add.as_ref().filter(|id| !voters.contains(id));
        // One vote at a time. Where a newcomer replaces a member that is lost, the lost one goes first: it cannot
        // agree to anything any more.
        let (members, next) = match (leaves, comes) {
            (Some(id), Some(newcomer)) if planted::is("voters-replaced-in-one-step") => {
                let mut next: Vec<_> = voters.iter().filter(|voter| *voter != id).cloned().collect();
                next.push(newcomer.clone());
                (without(&confirmed, id), next)
            }
            (Some(id), _) => {
                (without(&confirmed, id), voters.iter().filter(|voter| *voter != id).cloned().collect())
            }
            (None, Some(id)) => {
                (confirmed.members.clone(), voters.iter().chain(std::iter::once(id)).cloned().collect())
            }
            (None, None) => return self.end_reform(&voters, out),
        };
        let mut next: Vec<NodeId> = next;
        next.sort_unstable();
        self.propose_record(now, members, Some(next), out);
    }

    fn end_reform(&mut self, voters: &[NodeId], out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &mut self.phase else { return };
        let Some(reform) = reign.reform.take() else { return };
        let message = format!("votes now have: {} (a majority of {} decides)", listed(voters), voters.len());
        out.push(Effect::Note { message: message.clone() });
        if let Some(id) = reform.id {
            out.push(Effect::Answer { id, answer: Ok(message) });
        }
    }

    /// A reign ends: what it was changing is for the next primary to look at.
    pub(super) fn drop_reform(&mut self, out: &mut Vec<Effect>) {
        let Phase::Reigning(reign) = &mut self.phase else { return };
        if let Some(id) = reign.reform.take().and_then(|reform| reform.id) {
            let message = "this member is primary no longer, and the change of the members may or may not take effect. See: holdfast ha status; ask the new primary again if need be".to_owned();
            out.push(Effect::Answer { id, answer: Err(Declined { code: "not_primary", message }) });
        }
    }

    /// The configuration names other peers: where a member is reached has changed, and not who votes.
    pub(super) fn take_peers(&mut self, now: Time, peers: Vec<PeerSettings>, out: &mut Vec<Effect>) {
        let detect = self.settings.timers.detect;
        if matches!(self.phase, Phase::Campaigning(_)) {
            // Votes are kept by slot.
            self.end_campaign(Cause::VotesMissing, None, out);
        }
        self.pending_votes.retain(|pending| peers.get(pending.peer) == self.settings.peers.get(pending.peer));
        for (slot, settings) in peers.iter().enumerate() {
            match self.peers.get_mut(slot) {
                Some(known) if known.settings == *settings => {}
                Some(known) => {
                    *known = known.replaced(settings.clone(), detect);
                    let gone =
                        |of: Option<(holdfast_heartbeat::Epoch, usize)>| of.filter(|(_, at)| *at != slot);
                    (self.leader, self.following) = (gone(self.leader), gone(self.following));
                }
                None => self.peers.push(Peer::new(slot, settings.clone(), detect)),
            }
        }
        self.settings.peers = peers;
        self.broadcast(now, true, out);
    }
}

/// Whether a release that speaks no later version can keep who votes.
fn keeps_voters(speaks: u8) -> bool {
    speaks >= SAYS_WHO_VOTES
}

/// The members of `record` but the one of this name.
fn without(record: &InSyncRecord, id: &NodeId) -> Vec<holdfast_heartbeat::Member> {
    record.members.iter().filter(|member| member.id != *id).cloned().collect()
}

fn listed(names: &[NodeId]) -> String {
    let names: Vec<&str> = names.iter().map(NodeId::as_str).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
