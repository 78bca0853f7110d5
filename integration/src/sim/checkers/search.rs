//! Whether operations on one register could have happened one after the other.
//!
//! A history is linearizable if every operation can be given a moment between its beginning and its end at
//! which it happens at once, so that each answer is right (Herlihy and Wing, 1990). This is the just-in-time
//! search of Lowe ("Testing for linearizability", 2017), a descendant of Wing and Gong's: it walks through
//! the events in order and keeps every configuration that explains all answers so far: the register's
//! state, and which of the operations under way have happened already. An operation is made to happen only
//! when its own answer, or somebody else's, needs it. Wherever nothing is under way, all that is left is
//! the states that the register may have: long histories cost what their busiest moments cost.
//!
//! What never got an answer may happen at any later time, or never. Three rules keep such operations from
//! adding up; none of them loses an explanation:
//!
//! - Of two configurations that differ only in this, the one in which fewer of them happened explains
//!   whatever the other explains: what has not happened still may. The other one is dropped.
//! - Two of them with the same effect are alike once both have begun, so the older one goes first.
//! - One is forgotten when no answer is left that could depend on its effect: no observation, and no
//!   condition, that would accept the state that it leaves behind. Any explanation in which it happens from
//!   then on stays one without it, since the state that it leaves is overwritten before anybody looks.

use std::collections::{BTreeMap, BTreeSet};

/// Most operations under way at once on one key.
const SLOTS: u32 = u128::BITS;

/// Most configurations kept.
const CONFIGS: usize = 20_000;

/// Configurations kept by a first, narrow search: if these few lead to an explanation, there is one, and
/// all others need not be looked at.
const FEW_CONFIGS: usize = 48;

/// What the register holds: nothing, a value, or some value that nobody looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State(pub(super) u32);

impl State {
    pub(super) const ABSENT: State = State(0);
    pub(super) const OTHER: State = State(1);
    /// The first number that stands for a value.
    pub(super) const VALUES: u32 = 2;
}

/// What an answer or a condition says about the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pattern {
    /// It is this one.
    Is(State),
    /// There is some value.
    Present,
    /// There is some value, but not this one.
    PresentBut(State),
}

impl Pattern {
    fn accepts(self, state: State) -> bool {
        match self {
            Pattern::Is(wanted) => state == wanted,
            Pattern::Present => state != State::ABSENT,
            Pattern::PresentBut(unwanted) => state != State::ABSENT && state != unwanted,
        }
    }
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// Changes nothing and tells something.
    See(Pattern),
    /// Leaves a state behind, if a condition holds.
    Write { to: State, only_if: Option<Pattern> },
    /// As a write, once; asked again it succeeds without effect while its value is there. Deeds of one
    /// number are tries of the same.
    WriteOnce { to: State, only_if: Option<Pattern>, number: u32 },
    /// Leaves one of several states behind.
    WriteOneOf(Vec<State>),
}

/// An operation, with the places of its begin and end in the order of all events.
#[derive(Clone, Debug)]
pub(super) struct Operation<T> {
    pub(super) of: T,
    pub(super) begun: u32,
    /// `None`: it may happen at any later time or never. Only for what is not [`Deed::See`].
    pub(super) ended: Option<u32>,
    pub(super) deed: Deed,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is an explanation.
    Legal,
    /// There is none for the answer of operation `at`, whatever was under way (`open`, by index): the
    /// register could only have been in one of `states`.
    Illegal { at: usize, states: Vec<State>, open: Vec<usize> },
    /// The search was given up.
    Undecided(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Config {
    state: State,
    /// The slots whose operations have happened.
    happened: u128,
}

struct Search<'a, T> {
    ops: &'a [Operation<T>],
    /// By operation: the place after which nobody depends on it any more, if it never ended.
    useful_until: Vec<u32>,
    /// By operation: equal for unanswered operations of equal effect.
    class: Vec<u32>,
    slot: Vec<u32>,
    /// What is under way, in the order of beginning.
    open: Vec<usize>,
    free: u128,
    /// By class: what has begun and is not needed yet, because enough of its like is under way, unused.
    spare: BTreeMap<u32, Vec<usize>>,
    /// Slots of operations that only see, and of those that may never happen.
    seeing: u128,
    doubtful: u128,
    done_once: BTreeSet<u32>,
    configs: Vec<Config>,
    /// Most configurations kept; beyond, the less promising ones are dropped.
    breadth: usize,
    budget: u64,
}

/// Judges the operations on one register that began in one of the states `initial`. `budget` is about the
/// number of elementary steps that may be taken.
pub(super) fn judge<T>(ops: &[Operation<T>], initial: &[State], budget: u64) -> Verdict {
    match search(ops, initial, budget, FEW_CONFIGS) {
        Verdict::Legal => Verdict::Legal,
        // It may have lost the right one.
        Verdict::Illegal { .. } | Verdict::Undecided(_) => search(ops, initial, budget, CONFIGS),
    }
}

fn search<T>(ops: &[Operation<T>], initial: &[State], budget: u64, breadth: usize) -> Verdict {
    let useful_until = usefulness(ops);
    let mut events: Vec<(u32, bool, usize)> = Vec::with_capacity(ops.len() * 2);
    let mut classes: BTreeMap<&Deed, u32> = BTreeMap::new();
    let mut class = vec![0; ops.len()];
    for (i, op) in ops.iter().enumerate() {
        match op.ended {
            Some(ended) => events.extend([(op.begun, false, i), (ended, true, i)]),
            None if useful_until[i] >= op.begun => {
                let next = classes.len() as u32;
                class[i] = *classes.entry(&op.deed).or_insert(next);
                events.push((op.begun, false, i));
            }
            None => {}
        }
    }
    events.sort_unstable();
    let configs = initial.iter().map(|state| Config { state: *state, happened: 0 }).collect();
    let mut search = Search {
        ops,
        useful_until,
        class,
        slot: vec![0; ops.len()],
        open: Vec::new(),
        free: u128::MAX,
        spare: BTreeMap::new(),
        seeing: 0,
        doubtful: 0,
        done_once: BTreeSet::new(),
        configs,
        breadth,
        budget,
    };
    for (order, ends, i) in events {
        let stopped = if ends { search.end(i, order) } else { search.begin(i, order) };
        if let Err(verdict) = stopped {
            return verdict;
        }
    }
    Verdict::Legal
}

/// For each operation, the last place at which an answer may depend on the state that it leaves behind.
fn usefulness<T>(ops: &[Operation<T>]) -> Vec<u32> {
    let mut exact: BTreeMap<State, u32> = BTreeMap::new();
    let mut present = 0;
    let mut note = |pattern: Pattern, until: u32| match pattern {
        Pattern::Is(state) => {
            let known = exact.entry(state).or_default();
            *known = until.max(*known);
        }
        Pattern::Present | Pattern::PresentBut(_) => present = until.max(present),
    };
    for op in ops {
        let until = op.ended.unwrap_or(u32::MAX);
        match &op.deed {
            Deed::See(pattern) => note(*pattern, until),
            Deed::Write { only_if, .. } => only_if.iter().for_each(|pattern| note(*pattern, until)),
            Deed::WriteOnce { to, only_if, .. } => {
                only_if.iter().for_each(|pattern| note(*pattern, until));
                // Asked again after it happened, it depends on its own effect.
                op.ended.iter().for_each(|ended| note(Pattern::Is(*to), *ended));
            }
            Deed::WriteOneOf(_) => {}
        }
    }
    let until = |state: &State| {
        let some = if *state == State::ABSENT { 0 } else { present };
        exact.get(state).copied().unwrap_or(0).max(some)
    };
    let of = |op: &Operation<T>| match &op.deed {
        Deed::See(_) => 0,
        Deed::Write { to, .. } | Deed::WriteOnce { to, .. } => until(to),
        Deed::WriteOneOf(states) => states.iter().map(until).max().unwrap_or(0),
    };
    ops.iter().map(of).collect()
}

impl<T> Search<'_, T> {
    fn bit(&self, i: usize) -> u128 {
        1 << self.slot[i]
    }

    fn begin(&mut self, i: usize, order: u32) -> Result<(), Verdict> {
        self.forget_useless(order);
        if self.is_doubtful(i) {
            self.spare.entry(self.class[i]).or_default().push(i);
            return self.admit();
        }
        self.open(i)?;
        let bit = self.bit(i);
        if let Deed::See(pattern) = self.ops[i].deed {
            self.seeing |= bit;
            for config in &mut self.configs {
                if pattern.accepts(config.state) {
                    config.happened |= bit;
                }
            }
            return Ok(());
        }
        self.admit()
    }

    fn open(&mut self, i: usize) -> Result<(), Verdict> {
        let slot = self.free.trailing_zeros();
        if slot >= SLOTS {
            return Err(Verdict::Undecided("too many operations were under way at once"));
        }
        self.slot[i] = slot;
        self.free &= !self.bit(i);
        self.open.push(i);
        Ok(())
    }

    /// Lets unanswered operations take part, as many of each class as can be of use before the next event.
    ///
    /// On the way from one operation that must happen to the next, no state needs to be visited twice, so
    /// no state needs to be reached twice by operations that need not happen. One for each stretch of the
    /// way is enough, and there is one stretch more than there are operations that must happen.
    fn admit(&mut self) -> Result<(), Verdict> {
        if self.spare.is_empty() {
            return Ok(());
        }
        let writing = self.open.iter().filter(|i| !self.is_doubtful(**i) && self.bit(**i) & self.seeing == 0);
        let stretches = writing.count() + 1;
        let used = self.configs.iter().fold(0, |used, config| used | config.happened);
        for class in self.spare.keys().copied().collect::<Vec<_>>() {
            let alike = |i: &&usize| self.is_doubtful(**i) && self.class[**i] == class;
            let unused = self.open.iter().filter(alike).filter(|i| used & self.bit(**i) == 0).count();
            let Some(waiting) = self.spare.get_mut(&class) else { continue };
            let states = match waiting.first().map(|i| &self.ops[*i].deed) {
                Some(Deed::WriteOneOf(states)) => states.len(),
                _ => 1,
            };
            let wanted = (stretches * states).saturating_sub(unused).min(waiting.len());
            let admitted: Vec<usize> = waiting.drain(..wanted).collect();
            if waiting.is_empty() {
                self.spare.remove(&class);
            }
            for i in admitted {
                self.open(i)?;
                self.doubtful |= self.bit(i);
            }
        }
        Ok(())
    }

    /// Operation `i` has ended: keeps what explains it.
    fn end(&mut self, i: usize, order: u32) -> Result<(), Verdict> {
        self.forget_useless(order);
        let bit = self.bit(i);
        let before = std::mem::take(&mut self.configs);
        let mut after = Kept::new(self.seeing, self.doubtful);
        let mut seen: Vec<Config> = Vec::new();
        let mut known = Kept::new(self.seeing, self.doubtful);
        for config in &before {
            if config.happened & bit != 0 {
                after.keep(Config { happened: config.happened & !bit, ..*config });
            } else {
                seen.push(*config);
                known.add(*config);
            }
        }
        let mut next = 0;
        let mut states = Vec::new();
        while let Some(config) = seen.get(next).copied() {
            next += 1;
            let cost = self.open.len() + seen.len() / 64 + after.len() / 64 + 1;
            self.budget = self.budget.saturating_sub(cost as u64);
            if self.budget == 0 || seen.len() > CONFIGS || after.len() > CONFIGS {
                return Err(Verdict::Undecided("there were too many possibilities"));
            }
            if self.breadth < CONFIGS && after.len() > 0 && next > self.breadth * 4 {
                break;
            }
            for at in 0..self.open.len() {
                let other = self.open[at];
                let its_bit = self.bit(other);
                if config.happened & its_bit != 0 || (self.is_doubtful(other) && self.waits(config, at)) {
                    continue;
                }
                states.clear();
                self.outcomes(config, other, &mut states);
                for state in &states {
                    if self.is_doubtful(other) && *state == config.state {
                        continue;
                    }
                    let then = self.settled(Config { state: *state, happened: config.happened | its_bit });
                    if then.happened & bit != 0 {
                        after.keep(Config { happened: then.happened & !bit, ..then });
                    } else if !known.covers(then) {
                        seen.push(then);
                        known.add(then);
                    }
                }
            }
        }
        let mut after = after.into_configs();
        if after.is_empty() {
            let mut states: Vec<State> = before.iter().map(|config| config.state).collect();
            states.sort();
            states.dedup();
            let open = self.open.iter().copied().filter(|other| *other != i).collect();
            return Err(Verdict::Illegal { at: i, states, open });
        }
        if after.len() > CONFIGS {
            return Err(Verdict::Undecided("there were too many possibilities"));
        }
        if after.len() > self.breadth {
            // What has not happened yet can still be used.
            after.sort_by_key(|config| (config.happened & self.doubtful).count_ones());
            after.truncate(self.breadth);
        }
        self.configs = after;
        self.open.retain(|other| *other != i);
        self.release(bit);
        if let Deed::WriteOnce { number, .. } = self.ops[i].deed {
            self.done_once.insert(number);
        }
        self.admit()
    }

    fn is_doubtful(&self, i: usize) -> bool {
        self.ops[i].ended.is_none()
    }

    /// Whether an older operation of the same effect has to happen before the one at this place may.
    fn waits(&self, config: Config, at: usize) -> bool {
        let class = self.class[self.open[at]];
        self.open[..at].iter().any(|older| {
            self.is_doubtful(*older) && self.class[*older] == class && config.happened & self.bit(*older) == 0
        })
    }

    /// The states that the register may have after operation `i` happens.
    fn outcomes(&self, config: Config, i: usize, states: &mut Vec<State>) {
        let holds = |only_if: &Option<Pattern>| only_if.is_none_or(|pattern| pattern.accepts(config.state));
        match &self.ops[i].deed {
            Deed::See(pattern) if pattern.accepts(config.state) => states.push(config.state),
            Deed::See(_) => {}
            Deed::Write { to, only_if } => {
                if holds(only_if) {
                    states.push(*to);
                }
            }
            Deed::WriteOnce { to, only_if, number } => {
                let done = || {
                    let other = |j: &usize| matches!(self.ops[*j].deed, Deed::WriteOnce { number: n, .. } if n == *number);
                    self.done_once.contains(number)
                        || self.open.iter().any(|j| other(j) && config.happened & self.bit(*j) != 0)
                };
                if config.state == *to || (holds(only_if) && !done()) {
                    states.push(*to);
                }
            }
            Deed::WriteOneOf(to) => states.extend_from_slice(to),
        }
    }

    /// Lets everything that only sees, and sees what is there, happen: it cannot be too early.
    fn settled(&self, mut config: Config) -> Config {
        for i in &self.open {
            if let Deed::See(pattern) = self.ops[*i].deed
                && pattern.accepts(config.state)
            {
                config.happened |= self.bit(*i);
            }
        }
        config
    }

    fn release(&mut self, bits: u128) {
        self.free |= bits;
        self.seeing &= !bits;
        self.doubtful &= !bits;
    }

    fn forget_useless(&mut self, order: u32) {
        if self.doubtful == 0 {
            return;
        }
        // All of one class have the same use.
        let useful_until = &self.useful_until;
        self.spare.retain(|_, waiting| waiting.first().is_some_and(|i| useful_until[*i] >= order));
        let (ops, slot, useful_until) = (self.ops, &self.slot, &self.useful_until);
        let mut gone = 0u128;
        self.open.retain(|i| {
            let stays = ops[*i].ended.is_some() || useful_until[*i] >= order;
            if !stays {
                gone |= 1 << slot[*i];
            }
            stays
        });
        if gone == 0 {
            return;
        }
        let mut configs = std::mem::take(&mut self.configs);
        for config in &mut configs {
            config.happened &= !gone;
        }
        self.release(gone);
        let mut kept = Kept::new(self.seeing, self.doubtful);
        for config in configs {
            kept.keep(config);
        }
        self.configs = kept.into_configs();
    }
}

/// In how many buckets configurations are looked for.
const BUCKETS: usize = 256;

/// Configurations, none of which explains everything that another one explains: those that could are alike in
/// their state and in what has happened for certain, and so lie in one bucket.
struct Kept {
    seeing: u128,
    doubtful: u128,
    buckets: Vec<Vec<(u32, Config)>>,
    /// How many were ever added: gives them their order.
    added: u32,
    len: usize,
}

impl Kept {
    fn new(seeing: u128, doubtful: u128) -> Kept {
        Kept { seeing, doubtful, buckets: Vec::new(), added: 0, len: 0 }
    }

    fn len(&self) -> usize {
        self.len
    }

    /// Which bucket `config` belongs into. As long as there are few, one is enough.
    fn bucket(&self, config: Config) -> usize {
        let certain = config.happened & !(self.seeing | self.doubtful);
        let folded = certain as u64 ^ (certain >> 64) as u64 ^ u64::from(config.state.0) << 32;
        let mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // One bucket, or BUCKETS, which is a power of two.
        (mixed >> 32) as usize & self.buckets.len().saturating_sub(1)
    }

    /// Whether `a` explains everything that `b` explains.
    fn explains(&self, a: Config, b: Config) -> bool {
        let certain = !(self.seeing | self.doubtful);
        a.state == b.state
            && a.happened & certain == b.happened & certain
            && b.happened & self.seeing & !a.happened == 0
            && a.happened & self.doubtful & !b.happened == 0
    }

    /// Whether one of these explains everything that `config` explains.
    fn covers(&self, config: Config) -> bool {
        let bucket = self.buckets.get(self.bucket(config));
        bucket.is_some_and(|bucket| bucket.iter().any(|(_, known)| self.explains(*known, config)))
    }

    /// Adds `config`, which none of these covers.
    fn add(&mut self, config: Config) {
        if self.buckets.is_empty() {
            self.buckets.push(Vec::new());
        } else if self.len == 16 && self.buckets.len() == 1 {
            let few = std::mem::replace(&mut self.buckets, vec![Vec::new(); BUCKETS]);
            for (order, known) in few.into_iter().flatten() {
                let bucket = self.bucket(known);
                self.buckets[bucket].push((order, known));
            }
        }
        let bucket = self.bucket(config);
        self.buckets[bucket].push((self.added, config));
        self.added += 1;
        self.len += 1;
    }

    /// Adds `config` unless it is covered, in place of those that it covers.
    fn keep(&mut self, config: Config) {
        if self.covers(config) {
            return;
        }
        if !self.buckets.is_empty() {
            let bucket = self.bucket(config);
            let mut known = std::mem::take(&mut self.buckets[bucket]);
            let before = known.len();
            known.retain(|(_, known)| !self.explains(config, *known));
            self.len -= before - known.len();
            self.buckets[bucket] = known;
        }
        self.add(config);
    }

    fn into_configs(self) -> Vec<Config> {
        let mut all: Vec<_> = self.buckets.into_iter().flatten().collect();
        all.sort_unstable_by_key(|(order, _)| *order);
        all.into_iter().map(|(_, config)| config).collect()
    }
}
