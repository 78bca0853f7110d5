//! Decides what a primary tells a standby, and when: what is new and what changed, each connection's newest state
//! once, however often it changed meanwhile; and what the standby would forget too early.
//!
//! Pure: notices, the table's entries and the time go in, batches come out. Invariant: never more than `most`
//! connections are remembered, and a standby that is slow makes nothing grow: what waits is a mark on what is
//! remembered anyway.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use holdfast_vip::conntrack::flow::LONGEST_TIMEOUT_SECONDS;
use holdfast_vip::conntrack::{Flow, Key, Notice};

use super::message::{Batch, Change, MOST_CHANGES, VERSION};
use super::scope::Scope;

/// A connection that this many looks at the whole table in a row did not show is gone: a look that is taken while
/// the table changes may miss one.
const MISSED_LOOKS: u32 = 2;

/// What is told to one standby.
#[derive(Debug)]
pub(super) struct Feed {
    most: usize,
    scope: Scope,
    flows: HashMap<Key, Known>,
    /// Those that have something to be told, in order; each once.
    waiting: VecDeque<Key>,
    looks: u32,
    /// Connections that the last look showed and that had no room, and those of the look that is going on.
    left_out: u64,
    leaving_out: u64,
    batches: u64,
    /// Everything of the first look was told.
    whole: bool,
}

#[derive(Debug)]
struct Known {
    flow: Flow,
    /// Until when the standby keeps it; zero where it knows nothing of it yet.
    kept_until_ms: u64,
    waits: bool,
    gone: bool,
    /// It is another one than the standby knows: its address translation cannot be changed, only made anew.
    anew: bool,
    look: u32,
}

impl Feed {
    /// For a standby that takes `most` connections.
    pub(super) fn new(most: usize, scope: Scope) -> Feed {
        Feed {
            most,
            scope,
            flows: HashMap::new(),
            waiting: VecDeque::new(),
            looks: 0,
            left_out: 0,
            leaving_out: 0,
            batches: 0,
            whole: false,
        }
    }

    /// The kernel told of a change. Whether it lost some, so that a look at the table is due.
    pub(super) fn notice(&mut self, notice: Notice, now_ms: u64) -> bool {
        match notice {
            Notice::Changed(flow) => {
                self.flow(flow, now_ms);
                false
            }
            Notice::Gone(key) => {
                self.gone(&key);
                false
            }
            Notice::Overrun => true,
        }
    }

    /// A look at the whole table begins; each of its entries goes to [`Feed::looked_at`].
    pub(super) fn begin_look(&mut self) {
        self.looks += 1;
        self.leaving_out = 0;
        self.scope.look();
    }

    /// The table has this entry.
    pub(super) fn looked_at(&mut self, flow: Flow, now_ms: u64) {
        self.flow(flow, now_ms);
    }

    /// The look is over: what it did not show is gone.
    pub(super) fn end_look(&mut self) {
        let looks = self.looks;
        let gone: Vec<Key> = self
            .flows
            .iter()
            .filter(|(_, known)| !known.gone && known.look + MISSED_LOOKS <= looks)
            .map(|(key, _)| *key)
            .collect();
        for key in &gone {
            self.gone(key);
        }
        self.left_out = self.leaving_out;
    }

    fn flow(&mut self, mut flow: Flow, now_ms: u64) {
        flow.timeout_seconds = flow.timeout_seconds.map(|seconds| seconds.min(LONGEST_TIMEOUT_SECONDS));
        let full = self.flows.len() >= self.most;
        match self.flows.entry(flow.key) {
            Entry::Occupied(mut occupied) => {
                let known = occupied.get_mut();
                // What is gone and here again is another one, of which nothing was known before.
                let before = (!known.gone).then_some(&known.flow);
                if !flow.complete(before) {
                    return;
                }
                if !self.scope.has(&flow) {
                    let key = flow.key;
                    return self.gone(&key);
                }
                known.look = self.looks;
                let left_ms = u64::from(flow.timeout_seconds.unwrap_or_default()) * 1000;
                let kept_ms = known.kept_until_ms.saturating_sub(now_ms);
                let news = known.gone || !flow.is_like(&known.flow) || left_ms > kept_ms + left_ms / 4;
                known.anew |= known.gone || known.flow.reply != flow.reply;
                known.flow = flow;
                known.gone = false;
                if news && !known.waits {
                    known.waits = true;
                    self.waiting.push_back(flow.key);
                }
            }
            Entry::Vacant(vacant) => {
                if !flow.complete(None) || !self.scope.has(&flow) {
                    return;
                }
                if full {
                    self.leaving_out += 1;
                    return;
                }
                vacant.insert(Known {
                    flow,
                    kept_until_ms: 0,
                    waits: true,
                    gone: false,
                    anew: false,
                    look: self.looks,
                });
                self.waiting.push_back(flow.key);
            }
        }
    }

    fn gone(&mut self, key: &Key) {
        let Some(known) = self.flows.get_mut(key) else { return };
        known.gone = true;
        if !known.waits {
            known.waits = true;
            self.waiting.push_back(*key);
        }
    }

    /// Whether there is something to be told.
    pub(super) fn has_news(&self) -> bool {
        !self.waiting.is_empty() || (!self.whole && self.looks > 0)
    }

    /// The next batch, if there is something to be told.
    pub(super) fn next_batch(&mut self, now_ms: u64) -> Option<Batch> {
        if !self.has_news() {
            return None;
        }
        let mut changes = Vec::new();
        // One connection may be two changes.
        while changes.len() + 1 < MOST_CHANGES
            && let Some(key) = self.waiting.pop_front()
        {
            let Some(known) = self.flows.get_mut(&key) else { continue };
            known.waits = false;
            if known.gone {
                if known.kept_until_ms > 0 {
                    changes.push(Change::Gone(key));
                }
                self.flows.remove(&key);
            } else {
                let seconds = u64::from(known.flow.timeout_seconds.unwrap_or_default());
                if std::mem::take(&mut known.anew) && known.kept_until_ms > 0 {
                    changes.push(Change::Gone(key));
                }
                known.kept_until_ms = now_ms + seconds * 1000;
                changes.push(Change::Is(known.flow));
            }
        }
        let whole = !self.whole && self.looks > 0 && self.waiting.is_empty();
        self.whole |= whole;
        if changes.is_empty() && !whole {
            return None;
        }
        self.batches += 1;
        Some(Batch { version: VERSION, number: self.batches, changes, whole })
    }

    /// How many connections the standby knows of, or will.
    pub(super) fn carried(&self) -> u64 {
        self.flows.len() as u64
    }

    /// How many had no room at the last look.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use holdfast_vip::conntrack::{State, Tcp};

    use super::*;
    use crate::runtime::conntrack::samples::{CLIENT, SERVER, between, tcp};

    fn feed(most: usize) -> Feed {
        Feed::new(most, Scope::default())
    }

    fn look(feed: &mut Feed, flows: impl IntoIterator<Item = Flow>, now_ms: u64) {
        feed.begin_look();
        for flow in flows {
            feed.looked_at(flow, now_ms);
        }
        feed.end_look();
    }

    fn told(feed: &mut Feed, now_ms: u64) -> Vec<Change> {
        std::iter::from_fn(|| feed.next_batch(now_ms)).flat_map(|batch| batch.changes).collect()
    }

    fn in_state(flow: Flow, state: u8) -> Flow {
        Flow { state: Some(State::Tcp(Tcp { state, scales: [7; 2], flags: [0; 2] })), ..flow }
    }

    #[test]
    fn everything_is_told_once_and_then_what_changes() {
        let mut feed = feed(10);
        assert_eq!(feed.next_batch(0), None);
        look(&mut feed, [tcp(1), tcp(2)], 0);
        let first = feed.next_batch(0).unwrap();
        assert_eq!((first.number, first.whole, first.changes.len()), (1, true, 2));
        look(&mut feed, [tcp(1), tcp(2)], 5_000);
        assert_eq!(feed.next_batch(5_000), None);
        let closing = in_state(tcp(1), 4);
        feed.notice(Notice::Changed(in_state(tcp(1), 5)), 5_001);
        feed.notice(Notice::Changed(closing), 5_002);
        feed.notice(Notice::Gone(tcp(2).key), 5_003);
        feed.notice(Notice::Gone(tcp(9).key), 5_003);
        let second = feed.next_batch(5_003).unwrap();
        assert_eq!(second.changes, [Change::Is(closing), Change::Gone(tcp(2).key)]);
        assert!(!second.whole);
        assert_eq!((feed.carried(), feed.has_news()), (1, false));
    }

    #[test]
    fn an_empty_table_is_told_too() {
        let mut feed = feed(10);
        look(&mut feed, [], 0);
        let first = feed.next_batch(0).unwrap();
        assert!(first.whole && first.changes.is_empty());
        assert!(!feed.has_news());
    }

    #[test]
    fn what_came_and_went_between_two_batches_is_not_told() {
        let mut feed = feed(10);
        look(&mut feed, [], 0);
        told(&mut feed, 0);
        feed.notice(Notice::Changed(tcp(1)), 1);
        feed.notice(Notice::Gone(tcp(1).key), 2);
        assert_eq!((told(&mut feed, 3), feed.carried()), (vec![], 0));
    }

    #[test]
    fn another_connection_of_the_same_name_takes_the_place_of_the_first() {
        let mut feed = feed(10);
        look(&mut feed, [tcp(1)], 0);
        told(&mut feed, 0);
        feed.notice(Notice::Gone(tcp(1).key), 1);
        let second = Flow { mark: 9, ..tcp(1) };
        feed.notice(Notice::Changed(second), 2);
        assert_eq!(told(&mut feed, 3), [Change::Gone(tcp(1).key), Change::Is(second)]);
        let reply = between(CLIENT, SERVER, SERVER, "10.2.0.100").reply;
        feed.notice(Notice::Changed(Flow { reply, ..second }), 4);
        assert_eq!(told(&mut feed, 5).len(), 2, "its translation is another one");
        feed.notice(Notice::Changed(Flow { reply, mark: 8, ..second }), 6);
        assert_eq!(told(&mut feed, 7).len(), 1);
    }

    #[test]
    fn the_standby_hears_again_before_it_forgets_what_goes_on() {
        let short = |seconds| Flow { timeout_seconds: Some(seconds), ..tcp(1) };
        let mut feed = feed(10);
        look(&mut feed, [short(120)], 0);
        assert_eq!(told(&mut feed, 0).len(), 1);
        let mut refreshed = Vec::new();
        for second in (5..=120).step_by(5) {
            look(&mut feed, [short(118)], second * 1000);
            if told(&mut feed, second * 1000) == [Change::Is(short(118))] {
                refreshed.push(second);
            }
        }
        assert_eq!(refreshed, [35, 65, 95]);
        // One that is silent is told no more, and both forget it at once.
        look(&mut feed, [short(90)], 125_000);
        assert!(told(&mut feed, 125_000).is_empty());
    }

    #[test]
    fn the_bound_holds_and_says_what_it_leaves_out() {
        let mut feed = feed(3);
        look(&mut feed, (0..10).map(tcp), 0);
        assert_eq!((feed.carried(), feed.left_out()), (3, 7));
        assert_eq!(told(&mut feed, 0).len(), 3);
        feed.notice(Notice::Gone(tcp(0).key), 1);
        told(&mut feed, 1);
        look(&mut feed, (1..4).map(tcp), 2);
        assert_eq!((feed.carried(), feed.left_out()), (3, 0));
    }

    #[test]
    fn what_two_looks_do_not_show_is_gone() {
        let mut feed = feed(10);
        look(&mut feed, [tcp(1), tcp(2)], 0);
        told(&mut feed, 0);
        look(&mut feed, [tcp(1)], 1);
        assert!(told(&mut feed, 1).is_empty(), "one look may miss one");
        look(&mut feed, [tcp(1)], 2);
        assert_eq!(told(&mut feed, 2), [Change::Gone(tcp(2).key)]);
    }

    #[test]
    fn what_the_kernel_leaves_out_of_a_notice_is_as_it_was() {
        let mut feed = feed(10);
        let unsaid = Flow { state: None, timeout_seconds: None, mark: 5, ..tcp(1) };
        feed.notice(Notice::Changed(unsaid), 0);
        look(&mut feed, [], 0);
        assert!(told(&mut feed, 0).is_empty(), "a state that was never heard cannot be told");
        feed.notice(Notice::Changed(tcp(1)), 1);
        told(&mut feed, 1);
        feed.notice(Notice::Changed(unsaid), 2);
        assert_eq!(told(&mut feed, 2), [Change::Is(Flow { mark: 5, ..tcp(1) })]);
        assert!(feed.notice(Notice::Overrun, 3));
    }

    #[test]
    fn large_tables_go_in_several_batches_of_which_the_last_is_the_whole() {
        let mut feed = feed(MOST_CHANGES * 3);
        look(&mut feed, (0..MOST_CHANGES as u16 * 2 + 1).map(tcp), 0);
        let batches: Vec<_> = std::iter::from_fn(|| feed.next_batch(0)).collect();
        assert_eq!(
            batches.iter().map(|b| (b.number, b.changes.len(), b.whole)).collect::<Vec<_>>(),
            [(1, MOST_CHANGES - 1, false), (2, MOST_CHANGES - 1, false), (3, 3, true)]
        );
    }
}
