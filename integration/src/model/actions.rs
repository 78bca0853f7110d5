//! Every step that a member, a disk, a clock or the network can take, and what follows from it.
//!
//! A member may take any step that its safety rules allow, at any time: what the code adds for liveness (silence
//! before standing, turns, back-off, the first question of a campaign) only takes steps away. An action that is possible
//! and not taken is a lost packet, a slow disk or a stopped process.

use super::Protocol;
use super::mutations::Mutation;
use super::sizes::Size;
use super::state::{EPOCHS, Grant, LogRole, MEMBERS, Member, Phase, Record, Reign, START, State, has, only};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The clock of a host moves on.
    Tick(usize),
    /// A data member promises itself an epoch and asks for votes.
    Stand {
        /// Who.
        candidate: usize,
        /// For which epoch.
        epoch: u8,
        /// Without a majority (a pair).
        alone: bool,
    },
    /// A voter takes a ballot in and promises.
    Vote {
        /// Who votes.
        voter: usize,
        /// For whom.
        candidate: usize,
        /// In which epoch.
        epoch: u8,
    },
    /// What a member promised and recorded reaches its disk.
    Persist(usize),
    /// A candidate has the votes; its reign begins with these members of the former in-sync set.
    Win {
        /// Who.
        candidate: usize,
        /// Whom it keeps, itself included.
        members: u8,
    },
    /// A member hears that somebody reigns in an epoch.
    HeedPrimary {
        /// Who hears.
        member: usize,
        /// Of which epoch.
        epoch: u8,
    },
    /// A member takes over a newer record from what another one has on its disk.
    AdoptRecord {
        /// Who takes it.
        member: usize,
        /// From whom.
        from: usize,
    },
    /// A voter hears a heartbeat of the primary that was sent some ticks ago, and renews its lease.
    Grant {
        /// Who.
        voter: usize,
        /// Whose lease.
        primary: usize,
        /// Ticks of the primary's clock since the heartbeat was sent.
        age: u8,
    },
    /// The renewal comes back.
    Renew {
        /// To whom.
        primary: usize,
        /// From whom.
        voter: usize,
    },
    /// A primary finds that a quorum has its record.
    Confirm(usize),
    /// A primary proposes a record without a member.
    Shrink {
        /// Who.
        primary: usize,
        /// Without whom.
        lost: usize,
    },
    /// A primary's log begins to wait for a member that caught up.
    BeginToWait {
        /// Who.
        primary: usize,
        /// For whom.
        newcomer: usize,
    },
    /// It is not waited for any more.
    CallOff(usize),
    /// The newcomer has everything; the record with it is proposed.
    Admit(usize),
    /// A primary hands over to a member of the set that holds everything.
    HandOver {
        /// Who.
        primary: usize,
        /// To whom.
        heir: usize,
    },
    /// A primary gives up.
    StepDown(usize),
    /// A voter hears of a resignation.
    HeedResignation {
        /// Who.
        voter: usize,
        /// Of which epoch.
        epoch: u8,
    },
    /// A supervisor's word that a life of the lease's holder has ended reaches a voter.
    HeedNotice(usize),
    /// A client submits a write.
    Write(usize),
    /// The log of a member begins to follow the primary of an epoch and cuts what is not in that one's log.
    Follow {
        /// Who.
        member: usize,
        /// Which epoch.
        epoch: u8,
    },
    /// The next record of the log that a member leads or follows becomes durable on its disk.
    Append(usize),
    /// A log that leads answers a write.
    Answer {
        /// Who.
        leader: usize,
        /// Which one.
        write: u8,
    },
    /// A member loses its memory and starts again.
    Restart(usize),
}

impl Protocol {
    /// The steps that `state` allows, in a fixed order.
    pub(super) fn possible(&self, state: &State, out: &mut Vec<Action>) {
        for at in 0..self.size.members {
            self.own_steps(state, at, out);
            if self.size.in_sync && self.is_data(at) {
                self.log_steps(state, at, out);
            }
            if matches!(state.members[at].phase, Phase::Reigning) {
                self.reign_steps(state, at, out);
            } else {
                self.voter_steps(state, at, out);
            }
        }
    }

    fn own_steps(&self, state: &State, at: usize, out: &mut Vec<Action>) {
        let member = &state.members[at];
        if self.size.lease > 0 && !member.ahead {
            out.push(Action::Tick(at));
        }
        if member.promise != member.durable {
            out.push(Action::Persist(at));
        }
        if state.crashes < self.size.crashes {
            out.push(Action::Restart(at));
        }
        for epoch in member.promise.epoch..=self.size.epochs {
            let leader = state.eras[usize::from(epoch)].leader();
            let news = epoch > member.promise.epoch || matches!(member.phase, Phase::Campaigning { .. });
            if leader.is_some_and(|leader| leader != at) && news {
                out.push(Action::HeedPrimary { member: at, epoch });
            }
        }
    }

    fn voter_steps(&self, state: &State, at: usize, out: &mut Vec<Action>) {
        let member = &state.members[at];
        for other in (0..self.size.members).filter(|other| *other != at) {
            for epoch in member.promise.epoch..=self.size.epochs {
                if self.would_vote(state, at, other, epoch) {
                    out.push(Action::Vote { voter: at, candidate: other, epoch });
                }
            }
            let record = state.members[other].durable.record;
            let current = record.epoch >= member.promise.epoch || self.is(Mutation::PromisedVoterAssents);
            if record.rank() > member.promise.record.rank() && current {
                out.push(Action::AdoptRecord { member: at, from: other });
            }
            self.grants(state, at, other, out);
        }
        if member.grant.ticks > 0 {
            for epoch in member.grant.epoch..=self.size.epochs {
                let era = &state.eras[usize::from(epoch)];
                if era.resigned > 0 && era.leader() == Some(usize::from(member.grant.holder)) {
                    out.push(Action::HeedResignation { voter: at, epoch });
                }
            }
            let late = self.is(Mutation::NoticeOfAnEarlierLife)
                && state.members[usize::from(member.grant.holder)].mourned;
            if member.grant.outlived || late {
                out.push(Action::HeedNotice(at));
            }
        }
        if let Phase::Campaigning { alone } = member.phase {
            self.wins(state, at, alone, out);
        }
        if self.is_data(at) && member.silence == 0 && !self.blocked(member, at) {
            let outside = !has(member.promise.record.members, at) && !self.is(Mutation::VoteIgnoresRecord);
            let heard = (0..self.size.members).map(|m| state.members[m].durable.epoch).max();
            let highest = heard.unwrap_or_default().max(member.promise.epoch);
            for epoch in member.promise.epoch + 1..=self.size.epochs.min(highest + 1) {
                if outside {
                    break;
                }
                out.push(Action::Stand { candidate: at, epoch, alone: false });
            }
            if self.size.members == 2 {
                // The halves of a pair take alternate numbers when they stand alone.
                for epoch in member.promise.epoch + 1..=self.size.epochs.min(highest + 2) {
                    if usize::from(epoch) % 2 == at || self.is(Mutation::PairWithoutParity) {
                        out.push(Action::Stand { candidate: at, epoch, alone: true });
                    }
                }
            }
        }
    }

    /// Whether a lease that `member` renewed keeps it from helping `candidate`.
    fn blocked(&self, member: &Member, candidate: usize) -> bool {
        member.grant.ticks > 0
            && usize::from(member.grant.holder) != candidate
            && !self.is(Mutation::RenewalBlocksNobody)
    }

    fn would_vote(&self, state: &State, at: usize, candidate: usize, epoch: u8) -> bool {
        let member = &state.members[at];
        let era = &state.eras[usize::from(epoch)];
        let asked = era.ballots[candidate];
        if asked.version == 0 || member.silence > 0 || self.blocked(member, candidate) {
            return false;
        }
        let promise = member.promise;
        if epoch == promise.epoch
            && usize::from(promise.voted_for) != candidate
            && !self.is(Mutation::TwoVotesInAnEpoch)
        {
            return false;
        }
        let known = promise.epoch == epoch && usize::from(promise.voted_for) == candidate;
        if known && (has(era.votes[candidate], at) || member.promise != member.durable) {
            return false;
        }
        // The ballot states what the candidate had on its disk when it was sent: at first, or lately.
        let stated = state.members[candidate].durable.record;
        let fits = |ballot: Record| match () {
            () if self.is(Mutation::VoteIgnoresRecord) => true,
            () if self.is(Mutation::VoteOnTheCandidatesRecord) => has(ballot.members, candidate),
            () if promise.record.rank() >= ballot.rank() => has(promise.record.members, candidate),
            () => has(ballot.members, candidate),
        };
        fits(asked) || fits(stated)
    }

    fn grants(&self, state: &State, at: usize, primary: usize, out: &mut Vec<Action>) {
        let (member, holder) = (&state.members[at], &state.members[primary]);
        let epoch = holder.promise.epoch;
        let promised = member.promise.epoch == epoch && member.durable.epoch == epoch;
        if self.size.lease == 0 || !matches!(holder.phase, Phase::Reigning) || !promised {
            return;
        }
        for age in 0..self.size.lease.min(holder.reign.ticks + 1) {
            let known = holder.reign.renewals[at];
            // A renewal that is no fresher than one on its way adds nothing.
            if known == 0 || age + 1 < known {
                out.push(Action::Grant { voter: at, primary, age });
            }
        }
    }

    fn wins(&self, state: &State, at: usize, alone: bool, out: &mut Vec<Action>) {
        let member = &state.members[at];
        let epoch = member.promise.epoch;
        let own = member.durable.epoch == epoch && usize::from(member.durable.voted_for) == at;
        let votes = 1 + state.eras[usize::from(epoch)].votes[at].count_ones() as usize;
        let needed = if alone { 1 } else { self.majority() };
        if votes < needed || !own && !self.is(Mutation::OwnVoteBeforeDurable) {
            return;
        }
        if !self.size.in_sync {
            return out.push(Action::Win { candidate: at, members: member.promise.record.members });
        }
        let others = member.promise.record.members & !only(at);
        for kept in 0..1 << MEMBERS {
            if kept & !others == 0 {
                out.push(Action::Win { candidate: at, members: kept | only(at) });
            }
        }
    }

    fn reign_steps(&self, state: &State, at: usize, out: &mut Vec<Action>) {
        let member = &state.members[at];
        let epoch = member.promise.epoch;
        let era = &state.eras[usize::from(epoch)];
        for voter in 0..self.size.members {
            if member.reign.renewals[voter] > 0 {
                out.push(Action::Renew { primary: at, voter });
            }
        }
        out.push(Action::StepDown(at));
        if !self.size.in_sync {
            for heir in (0..self.size.members).filter(|heir| *heir != at && self.is_data(*heir)) {
                if self.serving(state, at) {
                    out.push(Action::HandOver { primary: at, heir });
                }
            }
            return;
        }
        let newest = member.promise.record;
        let pending = member.pending();
        if pending.is_some() && self.at_quorum(member, at) {
            out.push(Action::Confirm(at));
        }
        let room = newest.version < self.size.versions;
        if member.reign.joining > 0 {
            out.push(Action::CallOff(at));
            let needed = state.first_of(epoch) | START | state.answered & state.writes_of(epoch);
            let there = |m: usize| !has(member.log.waits_for, m) || needed & !member.log.acknowledged[m] == 0;
            let reached = (0..self.size.members).all(there) || self.is(Mutation::AdmitBeforeCaughtUp);
            if room && pending.is_none() && reached {
                out.push(Action::Admit(at));
            }
        }
        let serving = self.serving(state, at);
        for other in (0..self.size.members).filter(|other| *other != at && self.is_data(*other)) {
            if room && has(newest.members, other) && usize::from(member.reign.joining) != other + 1 {
                out.push(Action::Shrink { primary: at, lost: other });
            }
            if room
                && pending.is_none()
                && member.reign.joining == 0
                && self.log_started(state, at)
                && !has(newest.members, other)
                && state.members[other].log.role == LogRole::Follows(epoch)
            {
                out.push(Action::BeginToWait { primary: at, newcomer: other });
            }
            let all = era.log | START;
            let in_set = has(era.confirmed, other) && pending.is_none_or(|record| has(record.members, other));
            if serving
                && in_set
                && all & !member.log.acknowledged[other] == 0
                && all & !member.log.acknowledged[at] == 0
            {
                out.push(Action::HandOver { primary: at, heir: other });
            }
        }
        if serving && state.writes < self.size.writes {
            out.push(Action::Write(at));
        }
    }

    /// Whether a quorum is known to have the pending record.
    fn at_quorum(&self, member: &Member, at: usize) -> bool {
        if member.durable.record != member.promise.record {
            return false;
        }
        let version = member.promise.record.version;
        let assents = (0..self.size.members).filter(|v| *v != at && member.reign.assents[*v] >= version);
        1 + assents.count() >= self.majority() || self.is(Mutation::RecordWithoutQuorum)
    }

    /// Whether the epoch's first record is durable on everybody whom the log waits for.
    fn log_started(&self, state: &State, at: usize) -> bool {
        let log = &state.members[at].log;
        (0..self.size.members).all(|m| !has(log.waits_for, m) || log.acknowledged[m] & START != 0)
    }

    /// Whether clients are answered: lease, recorded set and log are there.
    pub(super) fn serving(&self, state: &State, at: usize) -> bool {
        let member = &state.members[at];
        let leased = self.size.lease == 0 || member.holds_lease();
        matches!(member.phase, Phase::Reigning)
            && leased
            && (!self.size.in_sync || member.reign.confirmed > 0 && self.log_started(state, at))
    }

    fn log_steps(&self, state: &State, at: usize, out: &mut Vec<Action>) {
        let member = &state.members[at];
        let epoch = member.promise.epoch;
        let led_by = state.eras[usize::from(epoch)].leader();
        let promised = member.durable.epoch == epoch;
        let other_role =
            member.log.role != LogRole::Follows(epoch) && member.log.role != LogRole::Leads(epoch);
        if matches!(member.phase, Phase::Waiting)
            && promised
            && other_role
            && led_by.is_some_and(|leader| leader != at)
        {
            out.push(Action::Follow { member: at, epoch });
        }
        if self.next_record(state, at).is_some() {
            out.push(Action::Append(at));
        }
        if let LogRole::Leads(epoch) = member.log.role {
            let open = state.writes_of(epoch) & !state.answered;
            for write in (0..state.writes).filter(|write| open >> write & 1 == 1) {
                let on = |m: usize| member.log.acknowledged[m] >> write & 1 == 1;
                let whole = (0..self.size.members).all(|m| !has(member.log.waits_for, m) || on(m));
                if whole || self.is(Mutation::AnswerWithoutStandby) && on(at) {
                    out.push(Action::Answer { leader: at, write });
                }
            }
        }
    }

    /// The bit of the record that the log of `at` takes in next, if it lacks one.
    fn next_record(&self, state: &State, at: usize) -> Option<u8> {
        let log = &state.members[at].log;
        let (LogRole::Leads(epoch) | LogRole::Follows(epoch)) = log.role else { return None };
        let missing = state.eras[usize::from(epoch)].log & !log.holds;
        let old = missing & state.first_of(epoch);
        if old != 0 {
            return Some(old & old.wrapping_neg());
        }
        let leader = state.eras[usize::from(epoch)].leader()?;
        let leading = &state.members[leader].log;
        if leading.role == LogRole::Leads(epoch) && leading.acknowledged[at] & START == 0 {
            return Some(START);
        }
        (missing != 0).then(|| missing & missing.wrapping_neg())
    }

    /// The state after `action`.
    pub(super) fn after(&self, last: &State, action: Action) -> State {
        let mut state = last.clone();
        match action {
            Action::Tick(at) => self.tick(&mut state, at),
            Action::Stand { candidate, epoch, alone } => {
                let member = &mut state.members[candidate];
                let stated = member.durable.record;
                member.phase = Phase::Campaigning { alone };
                member.promise.epoch = epoch;
                member.promise.voted_for = candidate as u8;
                let ballot = &mut state.eras[usize::from(epoch)].ballots[candidate];
                if ballot.version == 0 {
                    *ballot = stated;
                }
            }
            Action::Vote { voter, candidate, epoch } => self.vote(&mut state, voter, candidate, epoch),
            Action::Persist(at) => {
                state.members[at].durable = state.members[at].promise;
                let promise = state.members[at].promise;
                let voted_for = usize::from(promise.voted_for);
                if voted_for != at {
                    state.eras[usize::from(promise.epoch)].votes[voted_for] |= only(at);
                }
                self.assent(&mut state, at);
            }
            Action::Win { candidate, members } => self.begin_reign(&mut state, candidate, members),
            Action::HeedPrimary { member: at, epoch } => {
                let leader = state.eras[usize::from(epoch)].leader().unwrap_or_default();
                if matches!(state.members[at].phase, Phase::Reigning) {
                    self.step_down(&mut state, at, 1);
                }
                let member = &mut state.members[at];
                member.phase = Phase::Waiting;
                if epoch > member.promise.epoch {
                    member.promise.epoch = epoch;
                    member.promise.voted_for = leader as u8;
                }
            }
            Action::AdoptRecord { member: at, from } => {
                state.members[at].promise.record = state.members[from].durable.record;
                if self.is(Mutation::AssentBeforeDurable) {
                    self.assent(&mut state, at);
                }
            }
            Action::Grant { voter, primary, age } => {
                let epoch = state.members[primary].promise.epoch;
                state.members[voter].grant =
                    Grant { ticks: self.voter_wait(), holder: primary as u8, epoch, outlived: false };
                state.members[primary].reign.renewals[voter] = age + 1;
            }
            Action::Renew { primary, voter } => {
                let member = &mut state.members[primary];
                let age = member.reign.renewals[voter] - 1;
                member.reign.renewals[voter] = 0;
                let counted = if self.is(Mutation::LeaseFromAnswer) { 0 } else { age };
                let left = self.size.lease - counted;
                if !member.leased || left > member.lease {
                    member.lease = left;
                    member.leased = true;
                }
            }
            Action::Confirm(at) => {
                let member = &mut state.members[at];
                let record = member.promise.record;
                member.reign.confirmed = record.version;
                member.log.waits_for = record.members;
                if member.reign.joining > 0 {
                    member.log.waits_for |= only(usize::from(member.reign.joining) - 1);
                }
                let era = &mut state.eras[usize::from(record.epoch)];
                era.confirmed = record.members;
                era.proposed = 0;
            }
            Action::Shrink { primary, lost } => {
                let member = &mut state.members[primary];
                member.promise.record.version += 1;
                member.promise.record.members &= !only(lost);
                if self.is(Mutation::ShrinkBeforeRecord) {
                    member.log.waits_for &= !only(lost);
                }
            }
            Action::BeginToWait { primary, newcomer } => {
                let member = &mut state.members[primary];
                if self.is(Mutation::GrowBeforeWaiting) {
                    member.promise.record.version += 1;
                    member.promise.record.members |= only(newcomer);
                    state.eras[usize::from(member.promise.epoch)].proposed |= only(newcomer);
                } else {
                    member.reign.joining = newcomer as u8 + 1;
                    member.log.waits_for |= only(newcomer);
                }
            }
            Action::CallOff(at) => {
                let confirmed = state.eras[usize::from(state.members[at].promise.epoch)].confirmed;
                let member = &mut state.members[at];
                let newcomer = usize::from(member.reign.joining) - 1;
                member.reign.joining = 0;
                if !has(confirmed | member.promise.record.members, newcomer) {
                    member.log.waits_for &= !only(newcomer);
                }
            }
            Action::Admit(at) => {
                let member = &mut state.members[at];
                member.promise.record.version += 1;
                let newcomer = only(usize::from(member.reign.joining) - 1);
                member.promise.record.members |= newcomer;
                member.reign.joining = 0;
                state.eras[usize::from(member.promise.epoch)].proposed |= newcomer;
            }
            Action::HandOver { primary, heir } => self.step_down(&mut state, primary, 2 + heir as u8),
            Action::StepDown(at) => self.step_down(&mut state, at, 1),
            Action::HeedResignation { voter, .. } | Action::HeedNotice(voter) => {
                state.members[voter].grant = Grant::default();
            }
            Action::Write(at) => {
                let epoch = state.members[at].promise.epoch;
                state.written_in[usize::from(state.writes)] = epoch;
                state.eras[usize::from(epoch)].log |= 1 << state.writes;
                state.writes += 1;
            }
            Action::Follow { member: at, epoch } => {
                let era = &state.eras[usize::from(epoch)];
                let (leader, shared) = (era.leader().unwrap_or_default(), era.log);
                let log = &mut state.members[at].log;
                log.holds &= shared;
                log.role = LogRole::Follows(epoch);
                let holds = log.holds;
                let leading = &mut state.members[leader].log;
                if leading.role == LogRole::Leads(epoch) {
                    leading.acknowledged[at] |= holds;
                }
            }
            Action::Append(at) => self.append(&mut state, at),
            Action::Answer { write, .. } => state.answered |= 1 << write,
            Action::Restart(at) => self.restart(&mut state, at),
        }
        state.forget_the_irrelevant();
        state
    }

    fn tick(&self, state: &mut State, at: usize) {
        let member = &mut state.members[at];
        member.silence = member.silence.saturating_sub(1);
        member.grant.ticks = member.grant.ticks.saturating_sub(1);
        member.reign.ticks = (member.reign.ticks + 1).min(self.size.lease - 1);
        for age in &mut member.reign.renewals {
            *age = if *age == 0 || *age >= self.size.lease { 0 } else { *age + 1 };
        }
        let reigns = matches!(member.phase, Phase::Reigning);
        if member.leased || reigns {
            member.lease = member.lease.saturating_sub(1);
            if member.lease == 0 {
                member.leased = false;
                if reigns {
                    self.step_down(state, at, 1);
                }
            }
        }
        state.members[at].ahead = true;
        if state.members[..self.size.members].iter().all(|m| m.ahead) {
            state.members.iter_mut().for_each(|m| m.ahead = false);
        }
    }

    fn vote(&self, state: &mut State, voter: usize, candidate: usize, epoch: u8) {
        let member = &mut state.members[voter];
        member.phase = Phase::Waiting;
        member.promise.epoch = epoch;
        member.promise.voted_for = candidate as u8;
        member.grant = Grant::default();
        let durable = member.durable.epoch == epoch && usize::from(member.durable.voted_for) == candidate;
        if durable || self.is(Mutation::VoteBeforeDurable) {
            state.eras[usize::from(epoch)].votes[candidate] |= only(voter);
        }
    }

    /// What `at` now says of its record counts with the primary of that record's epoch.
    fn assent(&self, state: &mut State, at: usize) {
        let member = &state.members[at];
        let said = if self.is(Mutation::AssentBeforeDurable) { member.promise } else { member.durable };
        let (epoch, record) = (said.epoch, said.record);
        if epoch != record.epoch && !self.is(Mutation::PromisedVoterAssents) {
            return;
        }
        for (other, primary) in state.members.iter_mut().enumerate() {
            let theirs = matches!(primary.phase, Phase::Reigning) && primary.promise.epoch == record.epoch;
            if other != at && theirs {
                primary.reign.assents[at] = primary.reign.assents[at].max(record.version);
            }
        }
    }

    fn begin_reign(&self, state: &mut State, at: usize, members: u8) {
        let member = &mut state.members[at];
        let epoch = member.promise.epoch;
        member.phase = Phase::Reigning;
        member.reign = Reign::default();
        member.grant = Grant::default();
        member.lease = self.size.lease;
        member.leased = false;
        let era = &mut state.eras[usize::from(epoch)];
        era.leaders |= only(at);
        if self.size.in_sync {
            member.promise.record = Record { epoch, version: 1, members };
            era.log = member.log.holds;
            member.log.role = LogRole::Leads(epoch);
            member.log.waits_for = members;
            member.log.acknowledged = [0; MEMBERS];
            member.log.acknowledged[at] = member.log.holds;
        }
    }

    /// The gate shuts first; only then is the resignation said.
    fn step_down(&self, state: &mut State, at: usize, said: u8) {
        let member = &mut state.members[at];
        member.phase = Phase::Waiting;
        member.reign = Reign::default();
        if !self.is(Mutation::ResignsBeforeGateShuts) {
            member.lease = 0;
            member.leased = false;
        }
        state.eras[usize::from(member.promise.epoch)].resigned = said;
    }

    fn append(&self, state: &mut State, at: usize) {
        let Some(bit) = self.next_record(state, at) else { return };
        let log = &mut state.members[at].log;
        log.holds |= bit & !START;
        let (LogRole::Leads(epoch) | LogRole::Follows(epoch)) = log.role else { return };
        let holds = log.holds;
        let Some(leader) = state.eras[usize::from(epoch)].leader() else { return };
        let leading = &mut state.members[leader].log;
        if leading.role == LogRole::Leads(epoch) {
            leading.acknowledged[at] |= holds | bit & START;
        }
    }

    fn restart(&self, state: &mut State, at: usize) {
        state.crashes += 1;
        for voter in &mut state.members {
            if usize::from(voter.grant.holder) == at && voter.grant.ticks > 0 {
                voter.grant.outlived = true;
            }
        }
        let old = &state.members[at];
        let silence = if self.is(Mutation::NoWaitAfterRestart) { 0 } else { self.voter_wait() };
        state.members[at] = Member {
            promise: old.durable,
            durable: old.durable,
            silence,
            ahead: old.ahead,
            mourned: self.size.lease > 0,
            log: super::state::Log { holds: old.log.holds, ..Default::default() },
            ..Default::default()
        };
        // Renewals of the life that ended may still arrive; what they say stays true, since this one waits.
    }

    /// Ticks for which a voter helps nobody else after a renewal or a restart.
    fn voter_wait(&self) -> u8 {
        // Two clocks that are never more than a tick apart can differ by two ticks in any one interval.
        match self.size.lease {
            0 => 0,
            lease if self.is(Mutation::MarginTooShort) => lease + 1,
            lease => lease + 2,
        }
    }

    fn majority(&self) -> usize {
        self.size.members / 2 + 1
    }

    pub(super) fn is_data(&self, member: usize) -> bool {
        member < self.size.data
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// A cluster in its first reign: everybody has promised epoch 1 to member 0 and recorded the set of all
    /// data members, and the logs are in step. No lease has been renewed yet.
    pub(super) fn first(&self) -> State {
        let Size { members, data, .. } = self.size;
        assert!(members <= MEMBERS && data <= members && usize::from(self.size.epochs) < EPOCHS);
        let set = (1 << data) - 1;
        let record = Record { epoch: 1, version: 1, members: set };
        let mut state = State::default();
        for member in &mut state.members[..members] {
            member.promise = super::state::Promise { epoch: 1, voted_for: 0, record };
            member.durable = member.promise;
        }
        // Who is not part of a smaller cluster must not look like somebody who is still to be won.
        for absent in &mut state.members[members..] {
            absent.durable.epoch = u8::MAX;
        }
        state.eras[1].leaders = only(0);
        state.eras[1].confirmed = set;
        let first = &mut state.members[0];
        first.phase = Phase::Reigning;
        first.lease = self.size.lease;
        first.reign.confirmed = 1;
        // It is not its host's first life: somebody may still hold news of the end of an earlier one.
        first.mourned = self.size.lease > 0;
        if self.size.in_sync {
            first.log.role = LogRole::Leads(1);
            first.log.waits_for = set;
            for at in 0..data {
                state.members[0].log.acknowledged[at] = START;
                if at > 0 {
                    state.members[at].log.role = LogRole::Follows(1);
                }
            }
        }
        state.forget_the_irrelevant();
        state
    }
}
