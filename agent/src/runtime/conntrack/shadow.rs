//! Decides what a standby does to its kernel's table upon what the primary tells.
//!
//! Entries are put in as they are heard of, not kept aside until a takeover: then there is nothing to be done in a
//! takeover, and the connections are in the kernel before the address is. Pure: batches and the kernel's answers
//! go in, orders come out. Invariants: never more than `most` connections are remembered; nothing is deleted but
//! what was put in here and the primary says is gone.

use std::collections::HashMap;

use holdfast_vip::conntrack::{Key, Order, Outcome};

use super::message::{Batch, Change};
use super::scope::Scope;

/// How long an entry is remembered after the kernel has let go of it.
const AFTERWARDS_MS: u64 = 1000;

/// What was put in.
#[derive(Debug)]
pub(super) struct Shadow {
    most: usize,
    scope: Scope,
    held: HashMap<Key, Held>,
    /// How often the primary was begun to be listened to.
    beginnings: u64,
    /// Only what is missing is put in: this host's own table is newer.
    only_missing: bool,
    pub(super) counts: Counts,
}

#[derive(Debug)]
struct Held {
    /// The kernel had no such entry before.
    ours: bool,
    until_ms: u64,
    beginning: u64,
}

/// Counts that only grow, and the last refusal.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Changes that were heard of.
    pub(super) received: u64,
    /// Entries that were put in or changed.
    pub(super) put_in: u64,
    /// Entries that the kernel did not take.
    pub(super) failed: u64,
    /// Entries that were not tried: no room, or nothing that another host should say.
    pub(super) dropped: u64,
    /// What the kernel said last.
    pub(super) refusal: Option<String>,
}

impl Shadow {
    /// Room for `most` connections.
    pub(super) fn new(most: usize, scope: Scope) -> Shadow {
        Shadow {
            most,
            scope,
            held: HashMap::new(),
            beginnings: 0,
            only_missing: false,
            counts: Counts::default(),
        }
    }

    /// A primary begins to tell everything.
    pub(super) fn begin(&mut self) {
        self.beginnings += 1;
        self.only_missing = false;
        self.scope.look();
    }

    /// This host takes over: what comes from now on are the former primary's last words, and packets pass here.
    pub(super) fn take_over(&mut self) {
        self.only_missing = true;
    }

    /// This host's own table is what counts now: nothing in it is the primary's any more.
    pub(super) fn forget(&mut self) {
        self.held = HashMap::new();
    }

    /// What to do upon a batch.
    pub(super) fn take(&mut self, batch: &Batch, now_ms: u64) -> Vec<Order> {
        self.counts.received += batch.changes.len() as u64;
        let mut orders = Vec::with_capacity(batch.changes.len());
        for change in &batch.changes {
            match change {
                Change::Is(flow) if !self.scope.has(flow) => self.counts.dropped += 1,
                Change::Is(flow) => {
                    let until_ms =
                        now_ms + u64::from(flow.timeout_seconds.unwrap_or_default()) * 1000 + AFTERWARDS_MS;
                    let beginning = self.beginnings;
                    if let Some(held) = self.held.get_mut(&flow.key) {
                        (held.until_ms, held.beginning) = (until_ms, beginning);
                    } else if self.held.len() < self.most {
                        self.held.insert(flow.key, Held { ours: false, until_ms, beginning });
                    } else {
                        self.counts.dropped += 1;
                        continue;
                    }
                    orders.push(if self.only_missing { Order::Add(*flow) } else { Order::Put(*flow) });
                }
                Change::Gone(key) => self.let_go(key, &mut orders),
            }
        }
        if batch.whole {
            let beginning = self.beginnings;
            let untold = self.held.iter().filter(|(_, held)| held.beginning < beginning);
            let untold: Vec<Key> = untold.map(|(key, _)| *key).collect();
            for key in &untold {
                self.let_go(key, &mut orders);
            }
        }
        orders
    }

    fn let_go(&mut self, key: &Key, orders: &mut Vec<Order>) {
        let ours = self.held.remove(key).is_some_and(|held| held.ours);
        if ours && !self.only_missing {
            orders.push(Order::Delete(*key));
        }
    }

    /// What became of an order.
    pub(super) fn done(&mut self, order: &Order, outcome: Outcome) {
        let (Order::Put(flow) | Order::Add(flow)) = order else { return };
        match outcome {
            Outcome::Created => {
                self.counts.put_in += 1;
                if let Some(held) = self.held.get_mut(&flow.key) {
                    held.ours = true;
                }
            }
            Outcome::Changed => self.counts.put_in += 1,
            Outcome::Done => {}
            Outcome::Refused(refusal) => {
                self.counts.failed += 1;
                self.counts.refusal = Some(refusal.to_string());
                self.held.remove(&flow.key);
            }
        }
    }

    /// Forgets what the kernel has forgotten by itself.
    pub(super) fn expire(&mut self, now_ms: u64) {
        self.held.retain(|_, held| held.until_ms > now_ms);
        self.scope.look();
    }

    /// How many connections are held for the primary.
    pub(super) fn held(&self) -> u64 {
        self.held.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::runtime::conntrack::message::VERSION;
    use crate::runtime::conntrack::samples::{between, tcp};

    fn shadow(most: usize) -> Shadow {
        let mut shadow = Shadow::new(most, Scope::default());
        shadow.begin();
        shadow
    }

    fn batch(changes: Vec<Change>, whole: bool) -> Batch {
        Batch { version: VERSION, number: 1, changes, whole }
    }

    fn created(shadow: &mut Shadow, orders: &[Order]) {
        for order in orders {
            shadow.done(order, Outcome::Created);
        }
    }

    #[test]
    fn what_was_put_in_here_is_deleted_when_it_is_gone_there_and_nothing_else_is() {
        let mut shadow = shadow(10);
        let orders = shadow.take(&batch(vec![Change::Is(tcp(1)), Change::Is(tcp(2))], true), 0);
        assert_eq!(orders, [Order::Put(tcp(1)), Order::Put(tcp(2))]);
        shadow.done(&orders[0], Outcome::Created);
        shadow.done(&orders[1], Outcome::Changed);
        let gone = [tcp(1), tcp(2), tcp(3)].map(|flow| Change::Gone(flow.key)).to_vec();
        assert_eq!(shadow.take(&batch(gone, false), 0), [Order::Delete(tcp(1).key)]);
        assert_eq!((shadow.held(), shadow.counts.put_in), (0, 2));
    }

    #[test]
    fn what_another_telling_leaves_out_is_gone() {
        let mut shadow = shadow(10);
        let orders = shadow.take(&batch(vec![Change::Is(tcp(1)), Change::Is(tcp(2))], true), 0);
        created(&mut shadow, &orders);
        shadow.begin();
        assert_eq!(shadow.take(&batch(vec![Change::Is(tcp(2))], false), 1), [Order::Put(tcp(2))]);
        assert_eq!(shadow.take(&batch(vec![], true), 2), [Order::Delete(tcp(1).key)]);
        assert_eq!(shadow.held(), 1);
    }

    #[test]
    fn the_bound_holds_and_what_makes_no_sense_is_dropped() {
        let mut shadow = shadow(2);
        let orders = shadow.take(&batch((0..5).map(|n| Change::Is(tcp(n))).collect(), true), 0);
        assert_eq!((orders.len(), shadow.held(), shadow.counts.dropped), (2, 2, 3));
        let loopback = between("127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.1");
        let mixed = between("10.1.0.9", "fd00::1", "fd00::1", "10.1.0.9");
        let nonsense = vec![Change::Is(loopback), Change::Is(mixed)];
        assert!(shadow.take(&batch(nonsense, false), 0).is_empty());
        assert_eq!(shadow.counts.dropped, 5);
    }

    #[test]
    fn a_host_that_takes_over_only_puts_in_what_is_missing() {
        let mut shadow = shadow(10);
        let orders = shadow.take(&batch(vec![Change::Is(tcp(1))], true), 0);
        created(&mut shadow, &orders);
        shadow.take_over();
        let last = vec![Change::Is(tcp(2)), Change::Gone(tcp(1).key)];
        assert_eq!(shadow.take(&batch(last, false), 1), [Order::Add(tcp(2))]);
    }

    #[test]
    fn what_the_kernel_refuses_is_counted_and_asked_for_again() {
        let mut shadow = shadow(10);
        let orders = shadow.take(&batch(vec![Change::Is(tcp(1))], true), 0);
        shadow.done(&orders[0], Outcome::Refused(io::Error::from_raw_os_error(12)));
        assert_eq!((shadow.held(), shadow.counts.failed), (0, 1));
        assert!(shadow.counts.refusal.as_ref().unwrap().contains("memory"));
        assert_eq!(shadow.take(&batch(vec![Change::Is(tcp(1))], false), 0).len(), 1);
    }

    #[test]
    fn what_the_kernel_has_let_go_of_is_forgotten() {
        let mut shadow = shadow(10);
        let orders = shadow.take(&batch(vec![Change::Is(tcp(1))], true), 0);
        created(&mut shadow, &orders);
        let seconds = u64::from(tcp(1).timeout_seconds.unwrap());
        shadow.expire(seconds * 1000);
        assert_eq!(shadow.held(), 1);
        shadow.expire(seconds * 1000 + AFTERWARDS_MS + 1);
        assert_eq!(shadow.held(), 0);
    }
}
