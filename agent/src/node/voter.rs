//! The voter's side: which candidate to help, whose lease to renew, whom to follow.
//!
//! Invariants kept here: a vote and a promise are durable before they leave (R1); while a lease that
//! this member renewed may still be believed by its holder, no other candidate is helped (R4); a
//! candidate outside the newest known in-sync set is never helped unless an operator forced it (R3).

use holdfast_heartbeat::{
    Ballot, Epoch, Heartbeat, InSyncRecord, Lsn, Member, MemberKind, Notice, Refusal, Resignation, Role,
    Time, Vote, planted,
};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::peer::reigning;
use super::transition::Cause;
use super::{Node, Phase};

/// The renewal that this voter gave last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Grant {
    pub holder: Member,
    pub epoch: Epoch,
    /// On this member's own clock, margin included; until then no other candidate is helped.
    pub until: Time,
}

/// A vote that leaves when its token is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PendingVote {
    pub token: u64,
    pub peer: usize,
    pub vote: Vote,
}

impl Node {
    /// Judges a ballot of `peer` and answers: at once, or when the vote is durable.
    pub(super) fn consider_ballot(
        &mut self,
        now: Time,
        peer: usize,
        heartbeat: &Heartbeat,
        ballot: Ballot,
        out: &mut Vec<Effect>,
    ) {
        let refusal = self.refusal(now, &heartbeat.from, heartbeat, ballot);
        let vote = Vote { round: ballot.round, epoch: ballot.epoch, pre: ballot.pre, refusal };
        if refusal.is_some() || ballot.pre {
            self.send_vote(now, peer, vote, out);
            return;
        }
        // A member has one vote in an epoch: whoever gives it to another cannot stand in that epoch any
        // more, and must not win a lower one that it has just promised to refuse.
        if matches!(self.phase, Phase::Campaigning(_)) {
            self.end_campaign(Cause::VotedForAnother, Some(heartbeat.from.id.clone()), out);
            self.stand_after = now + self.settings.timers.detect;
        }
        if self.hard.epoch != ballot.epoch || self.hard.voted_for.as_ref() != Some(&heartbeat.from) {
            self.hard.epoch = ballot.epoch;
            self.hard.voted_for = Some(heartbeat.from.clone());
            // Whoever it is may reign from now on, and fall silent before it says so.
            self.remember_reigning(&heartbeat.from.id, Role::Promoting);
            self.persist(out);
        }
        // A grant to the candidate itself would otherwise outlive the epoch it was given for.
        self.grant = None;
        self.pending_votes.retain(|pending| pending.peer != peer);
        self.pending_votes.push(PendingVote { token: self.persist_token, peer, vote });
        self.release_votes(now, out);
    }

    /// Sends the votes whose promise has reached the disk.
    pub(super) fn release_votes(&mut self, now: Time, out: &mut Vec<Effect>) {
        let durable = self.durable_token;
        let (ready, waiting) = std::mem::take(&mut self.pending_votes)
            .into_iter()
            .partition(|p: &PendingVote| p.token <= durable || planted::is("vote-before-durable"));
        self.pending_votes = waiting;
        for PendingVote { peer, vote, .. } in ready {
            // The promise may have moved on to another candidate while this one was being written.
            if self.hard.epoch == vote.epoch {
                self.send_vote(now, peer, vote, out);
            }
        }
    }

    fn send_vote(&mut self, now: Time, peer: usize, vote: Vote, out: &mut Vec<Effect>) {
        for path in 0..self.peers[peer].settings.paths {
            self.send_to(now, peer, path, false, Some(vote), out);
        }
    }

    fn refusal(
        &self,
        now: Time,
        candidate: &Member,
        heartbeat: &Heartbeat,
        ballot: Ballot,
    ) -> Option<Refusal> {
        if self.phase.reigns() {
            return Some(Refusal::IsPrimary);
        }
        if now < self.votes_from {
            return Some(Refusal::JustStarted);
        }
        let promised_to_another = ballot.epoch < self.hard.epoch
            || ballot.epoch == self.hard.epoch
                && self.hard.voted_for.as_ref() != Some(candidate)
                && !planted::is("second-vote-in-epoch");
        // Who helped a candidate in this very epoch says so again, as often as it is asked.
        let over = ballot.epoch > self.hard.epoch && self.has_record_of(ballot.epoch);
        if promised_to_another || over {
            return Some(Refusal::EpochPromised);
        }
        if self.grant_blocks(now, candidate) {
            return Some(Refusal::LeaseHeld);
        }
        // By the newer of the two records: whose vote was taken away has none, by force either.
        let theirs = heartbeat.state.record.as_ref();
        if newer(self.hard.record.as_ref(), theirs).is_some_and(|record| record.leaves_out(&candidate.id)) {
            return Some(Refusal::NotAVoter);
        }
        if ballot.forced {
            return None;
        }
        // Whoever has a record and an empty log was stopped at the very beginning of a new cluster:
        // nothing can have been acknowledged anywhere.
        let blank = heartbeat.state.pristine || heartbeat.state.durable == Lsn::ZERO;
        if self.memoryless && !blank && !planted::is("vote-without-memory") {
            return Some(Refusal::NotBootstrapped);
        }
        let own = self.hard.record.as_ref().filter(|_| !planted::is("candidate-judged-by-its-own-record"));
        match newer(own, theirs) {
            Some(record) if !record.contains(candidate) && !only_by_name(record, candidate) => {
                Some(Refusal::NotInSync)
            }
            Some(_) => None,
            None if heartbeat.state.pristine && self.pristine_or_witness() => None,
            None => Some(Refusal::NotBootstrapped),
        }
    }

    /// Whether a lease that this member renewed for another than `candidate` may still be in force.
    pub(super) fn grant_blocks(&self, now: Time, candidate: &Member) -> bool {
        let grant = self.grant.as_ref().filter(|_| !planted::is("renewed-lease-forgotten"));
        grant.is_some_and(|grant| grant.holder != *candidate && now < grant.until)
    }

    fn pristine_or_witness(&self) -> bool {
        self.settings.kind == MemberKind::Witness || self.is_pristine()
    }

    /// The reign of `peer` that this member renews with its next packet, noting the renewal.
    ///
    /// The renewal counts from when the echoed packet *came*: that is later than the holder, who
    /// counts from when it was sent, believes; and echoing an old packet again renews nothing.
    pub(super) fn grant_for(&mut self, now: Time, peer: usize) -> Option<Epoch> {
        let known = &self.peers[peer];
        let (member, state) = (known.member.clone()?, known.state.as_ref()?);
        let epoch = state.epoch;
        let promised = self.durable.epoch == epoch && self.hard.epoch == epoch
            || planted::is("renewal-after-another-promise");
        if !promised || !reigning(state.role) || self.phase.reigns() || !known.alive(now) {
            return None;
        }
        if state.resigned.as_ref().is_some_and(|resigned| resigned.epoch >= epoch) {
            return None;
        }
        if self.durable.lease_ns < state.lease_ns {
            return None;
        }
        if self.grant.as_ref().is_some_and(|grant| grant.epoch > epoch) {
            return None;
        }
        let stated = std::time::Duration::from_nanos(state.lease_ns);
        let lease =
            if planted::is("own-lease-instead-of-stated") { self.settings.timers.lease } else { stated };
        let wait = self.settings.timers.voter_wait(lease);
        let until = known.echo_at + wait;
        self.grant = Some(Grant { holder: member, epoch, until });
        Some(epoch)
    }

    /// A believed peer states that it reigns: promise its epoch, take over its record, follow it.
    pub(super) fn heed_primary(
        &mut self,
        now: Time,
        peer: usize,
        heartbeat: &Heartbeat,
        out: &mut Vec<Effect>,
    ) {
        let epoch = heartbeat.state.epoch;
        if epoch < self.hard.epoch {
            return;
        }
        let name = Some(heartbeat.from.id.clone());
        match &self.phase {
            Phase::Reigning(reign) if reign.epoch == epoch => {
                let message = format!(
                    "{} states that it reigns in epoch {epoch} as this member does; both must stop. Check that no two members share a state directory or a node_id",
                    heartbeat.from
                );
                out.push(Effect::Warn { message });
                self.step_down(now, Cause::OtherPrimary, name, out);
            }
            Phase::Reigning(_) => self.step_down(now, Cause::OtherPrimary, name, out),
            Phase::Campaigning(_) => self.end_campaign(Cause::OtherPrimary, name, out),
            Phase::Waiting => {}
        }
        let mut changed = false;
        if epoch > self.hard.epoch {
            self.hard.epoch = epoch;
            self.hard.voted_for = Some(heartbeat.from.clone());
            changed = true;
        }
        if heartbeat.state.lease_ns > self.hard.lease_ns {
            self.hard.lease_ns = heartbeat.state.lease_ns;
            changed = true;
        }
        changed |= self.remember_reigning(&heartbeat.from.id, heartbeat.state.role);
        if changed {
            self.persist(out);
        }
        self.leader = Some((epoch, peer));
        self.memoryless = false;
        self.vacancy = None;
        // An operator's consent was given for the situation that it was asked in.
        self.forced = false;
        self.patience = self.settings.timers.interval.max(std::time::Duration::from_millis(100));
        self.answer_awaited(now, &heartbeat.from, heartbeat.state.role, epoch, out);
    }

    /// Takes over a newer in-sync record that a peer has on its disk.
    ///
    /// A record of an epoch below the own promise is not taken: the vote that made the promise was
    /// given on the older knowledge, and the old primary must not count this member's assent.
    pub(super) fn adopt_record(&mut self, record: Option<&InSyncRecord>, out: &mut Vec<Effect>) {
        let Some(record) = record else { return };
        let newer = self.hard.record.as_ref().is_none_or(|own| own.rank() < record.rank());
        let own_voters = self.hard.record.as_ref().and_then(|own| own.voters.as_ref());
        // An older release has left out who votes, and which of the sets that there were it left out nobody knows.
        if record.voters.is_none() && own_voters.is_some() {
            return;
        }
        let in_time = record.epoch >= self.hard.epoch || planted::is("record-below-promise-counts");
        if newer && !self.memoryless && in_time && !self.phase.reigns() {
            self.hard.record = Some(record.clone());
            self.hard.voters_proposed = None;
            self.persist(out);
        }
    }

    /// A peer states that it gave up a reign.
    pub(super) fn heed_resignation(
        &mut self,
        now: Time,
        peer: usize,
        resigned: &Resignation,
        out: &mut Vec<Effect>,
    ) {
        let Some(member) = self.peers[peer].member.clone() else { return };
        let ours = self.grant.as_ref().is_some_and(|grant| {
            let of_it = grant.epoch <= resigned.epoch || planted::is("resignation-of-earlier-reign");
            grant.holder == member && of_it
        });
        let led = self.leader == Some((resigned.epoch, peer));
        if !ours && !led {
            return;
        }
        if ours {
            self.grant = None;
        }
        self.forget_owed(Some(&member.id), out);
        let successor = resigned.successor.as_ref();
        if successor == Some(&self.settings.me.id) {
            self.vacate(now, Cause::PrimaryResigned, true);
            // Whatever made this member hold back before, it is asked for now.
            self.stand_after = now;
        } else {
            self.vacate(now, Cause::PrimaryResigned, false);
            // The chosen successor goes first.
            if let Some(heir) = successor.and_then(|id| self.member_named(id)) {
                let until = now + self.settings.timers.detect;
                self.grant = Some(Grant { holder: heir, epoch: resigned.epoch, until });
            }
        }
    }

    /// A supervisor states that its agent has died and its addresses are cleared.
    pub(super) fn heed_notice(&mut self, now: Time, notice: &Notice, out: &mut Vec<Effect>) {
        let Some(peer) = self.peers.iter().position(|peer| peer.member.as_ref() == Some(&notice.member))
        else {
            return;
        };
        let of_this_life = self.peers[peer].guard.current_boot() == Some(notice.boot);
        if !of_this_life && !planted::is("notice-of-earlier-life") {
            return;
        }
        self.peers[peer].dead_boot = Some(notice.boot);
        self.forget_owed(Some(&notice.member.id), out);
        if self.grant.as_ref().is_some_and(|grant| grant.holder == notice.member) {
            self.grant = None;
        }
        if self.leader.is_some_and(|(_, leader)| leader == peer) {
            self.vacate(now, Cause::PrimaryDied, false);
        }
    }
}

/// Planted: takes a member that came back with an empty or damaged log for the one that was recorded.
pub(super) fn only_by_name(record: &InSyncRecord, member: &Member) -> bool {
    planted::is("incarnation-ignored") && record.members.iter().any(|recorded| recorded.id == member.id)
}

/// The record of the higher rank.
pub(super) fn newer<'a>(
    a: Option<&'a InSyncRecord>,
    b: Option<&'a InSyncRecord>,
) -> Option<&'a InSyncRecord> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.rank() >= b.rank() { a } else { b }),
        (a, b) => a.or(b),
    }
}
