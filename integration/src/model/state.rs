//! One state of the modelled cluster: what every member has on its disk and in its memory, and what has
//! ever been said.
//!
//! A statement on the network is kept as a fact and never taken back where its age does not matter (a vote,
//! a ballot, a reign, a resignation, an assent): whoever may take it in may do so at any later time, any number of
//! times, or never. So loss, delay, duplication, reordering and one-way cuts need no model of their own. Where
//! the age does matter (the renewal of a lease) it is kept with the fact.

/// Members of the largest modelled cluster.
pub const MEMBERS: usize = 3;
/// Epochs that can be told apart, zero included.
pub const EPOCHS: usize = 4;
/// The bit in an acknowledgement that stands for the epoch's own first record.
pub const START: u8 = 1 << 7;

/// The set of one member.
pub fn only(member: usize) -> u8 {
    1 << member
}

/// Whether `member` is in `set`.
pub fn has(set: u8, member: usize) -> bool {
    set & only(member) != 0
}

/// An in-sync record: its rank and its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// The epoch of the primary that wrote it.
    pub epoch: u8,
    /// Counts within the epoch, from 1.
    pub version: u8,
    /// The members, one bit each.
    pub members: u8,
}

impl Record {
    /// The order of records.
    pub fn rank(self) -> (u8, u8) {
        (self.epoch, self.version)
    }
}

/// What a member must not forget; `HardState` in the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Promise {
    /// The highest promised epoch.
    pub epoch: u8,
    /// To whom.
    pub voted_for: u8,
    /// The newest record it has.
    pub record: Record,
}

/// What a member does about the role. The epoch of a campaign or a reign is always the promised one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Votes and follows.
    #[default]
    Waiting,
    /// Asks for votes; `alone` where the own one is to be enough (a pair).
    Campaigning {
        /// Decides without a majority.
        alone: bool,
    },
    /// Won its epoch and has not given it up.
    Reigning,
}

/// The renewal that a voter gave last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grant {
    /// For how many ticks of the voter's clock it still binds; zero where there is none.
    pub ticks: u8,
    /// To whom.
    pub holder: u8,
    /// For which reign.
    pub epoch: u8,
    /// The life of the holder that it was given to has ended.
    pub outlived: bool,
}

/// What the log of a member does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LogRole {
    /// Neither leads nor follows.
    #[default]
    Idle,
    /// Leads this epoch. It goes on after the reign is over, until it hears of that.
    Leads(u8),
    /// Follows the primary of this epoch.
    Follows(u8),
}

/// The log of a data member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    /// The writes that are durable here, one bit each; the order is that of their numbers.
    pub holds: u8,
    /// What it does.
    pub role: LogRole,
    /// As leader: whom it waits for.
    pub waits_for: u8,
    /// As leader: what each member has acknowledged under this epoch; [`START`] for the first record.
    pub acknowledged: [u8; MEMBERS],
}

/// The primary's own knowledge of its reign, beside its promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reign {
    /// Ticks since it began, as far as a packet's age can tell.
    pub ticks: u8,
    /// The version that a quorum is known to have, or zero.
    pub confirmed: u8,
    /// Waited for and not recorded yet: the member's number plus one, or zero.
    pub joining: u8,
    /// The newest version that each voter has said, under this epoch, to have on its disk.
    pub assents: [u8; MEMBERS],
    /// Renewals on their way back: ticks since the renewed packet was sent, plus one; or zero.
    pub renewals: [u8; MEMBERS],
}

/// One member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// In memory.
    pub promise: Promise,
    /// On disk.
    pub durable: Promise,
    /// What it does about the role.
    pub phase: Phase,
    /// Ticks until it votes and stands again after a restart.
    pub silence: u8,
    /// Whose lease it renewed.
    pub grant: Grant,
    /// Ticks until the reign ends for want of a renewal; with `leased`, until the gate shuts.
    pub lease: u8,
    /// A majority has renewed the lease: the gate may be open.
    pub leased: bool,
    /// The clock of this host is one tick ahead of the slowest.
    pub ahead: bool,
    /// A supervisor has told of a life of it that ended.
    pub mourned: bool,
    /// Its reign.
    pub reign: Reign,
    /// Its log.
    pub log: Log,
}

impl Member {
    /// Whether it believes, and its gate with it, that it may answer clients.
    pub fn holds_lease(&self) -> bool {
        self.leased && self.lease > 0
    }

    /// The record that it proposed and that no quorum is known to have.
    pub fn pending(&self) -> Option<Record> {
        (self.promise.record.version > self.reign.confirmed).then_some(self.promise.record)
    }
}

/// What was said and decided in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Era {
    /// Who began a reign in it.
    pub leaders: u8,
    /// The log of its primary, what is not durable anywhere included.
    pub log: u8,
    /// The members of the record that its primary last knew at a quorum.
    pub confirmed: u8,
    /// The members of newer records that were proposed: a voter may have one of those already.
    pub proposed: u8,
    /// Zero; or one: its primary said that it let go; or two and more: in favour of member `n - 2`.
    pub resigned: u8,
    /// Who voted for each candidate, durably and with the vote sent.
    pub votes: [u8; MEMBERS],
    /// The record that each candidate stated when it first asked; version zero where it did not.
    pub ballots: [Record; MEMBERS],
}

impl Era {
    /// Its primary, where it has one.
    pub fn leader(&self) -> Option<usize> {
        (self.leaders != 0).then(|| self.leaders.trailing_zeros() as usize)
    }
}

/// The whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// Its members; those beyond the modelled size stay as they are.
    pub members: [Member; MEMBERS],
    /// Its epochs, by number.
    pub eras: [Era; EPOCHS],
    /// The epoch in which each write was submitted, in the order of submission.
    pub written_in: [u8; 2],
    /// Writes so far.
    pub writes: u8,
    /// Crashes so far.
    pub crashes: u8,
    /// What clients were told is safe.
    pub answered: u8,
}

impl State {
    /// The writes that were submitted in `epoch`.
    pub fn writes_of(&self, epoch: u8) -> u8 {
        (0..self.writes).filter(|w| self.written_in[usize::from(*w)] == epoch).fold(0, |set, w| set | 1 << w)
    }

    /// The newest epoch that was won.
    pub fn newest_reign(&self) -> Option<(u8, usize)> {
        (0..EPOCHS as u8).rev().find_map(|epoch| Some((epoch, self.eras[usize::from(epoch)].leader()?)))
    }

    /// What the epoch's own first record makes everybody hold: all that its primary had at its beginning.
    pub fn first_of(&self, epoch: u8) -> u8 {
        self.eras[usize::from(epoch)].log & !self.writes_of(epoch)
    }

    /// Forgets what can have no effect any more, so that states which differ in nothing else are one.
    pub fn forget_the_irrelevant(&mut self) {
        for epoch in 0..EPOCHS as u8 {
            let era = &self.eras[usize::from(epoch)];
            let mut next = *era;
            for candidate in 0..MEMBERS {
                let member = &self.members[candidate];
                let asks = matches!(member.phase, Phase::Campaigning { .. }) && member.promise.epoch == epoch;
                if !asks {
                    next.votes[candidate] = 0;
                }
                let voters_left = (0..MEMBERS)
                    .any(|voter| voter != candidate && self.members[voter].durable.epoch <= epoch);
                // Once won, the reign itself says what the ballot said.
                if has(era.leaders, candidate) || !voters_left {
                    next.ballots[candidate] = Record::default();
                }
            }
            if let Some(leader) = era.leader() {
                let in_office = matches!(self.members[leader].phase, Phase::Reigning)
                    && self.members[leader].promise.epoch == epoch;
                let granted = self.members.iter().any(|m| {
                    m.grant.ticks > 0 && usize::from(m.grant.holder) == leader && m.grant.epoch <= epoch
                });
                if next.resigned == 1 && !in_office && !granted {
                    next.resigned = 0;
                }
                let used = |m: &Member| {
                    m.durable.epoch <= epoch
                        || m.log.role == LogRole::Leads(epoch)
                        || m.log.role == LogRole::Follows(epoch)
                };
                let newest = self.newest_reign().is_some_and(|(newest, _)| newest == epoch);
                if !newest && !self.members.iter().any(used) {
                    next.log = 0;
                }
            }
            self.eras[usize::from(epoch)] = next;
        }
        for at in 0..MEMBERS {
            let reigns = matches!(self.members[at].phase, Phase::Reigning);
            match self.members[at].log.role {
                LogRole::Leads(epoch) => {
                    let open = self.writes_of(epoch) & !self.answered;
                    if !reigns && open == 0 {
                        self.members[at].log.role = LogRole::Idle;
                    }
                }
                LogRole::Follows(epoch) => {
                    let era = &self.eras[usize::from(epoch)];
                    let led = era
                        .leader()
                        .is_some_and(|leader| self.members[leader].log.role == LogRole::Leads(epoch));
                    if !led && self.members[at].log.holds == era.log {
                        self.members[at].log.role = LogRole::Idle;
                    }
                }
                LogRole::Idle => {}
            }
            let member = &mut self.members[at];
            if !matches!(member.log.role, LogRole::Leads(_)) {
                member.log.waits_for = 0;
                member.log.acknowledged = [0; MEMBERS];
            }
            if !reigns {
                member.reign = Reign::default();
            }
            if member.grant.ticks == 0 {
                member.grant = Grant::default();
            }
            if !member.leased && !reigns {
                member.lease = 0;
            }
        }
    }
}
