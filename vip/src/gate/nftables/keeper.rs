//! The thread that keeps the table: opens and shuts it as it is ordered, and makes it anew when another
//! program has taken it away.
//!
//! The core's thread gives orders by storing a number and writing one byte to a socket; it neither waits nor
//! allocates. The keeper looks at the clock as late as it can, and turns the absolute deadline into the
//! relative timeout that the kernel wants. Between that look and the system call the process may be stopped,
//! for however long. So what opens the gate is always bound to something that expires meanwhile, in one
//! batch that the kernel takes as a whole or refuses with `ENOENT`:
//!
//! | to | the batch | bound to |
//! |---|---|---|
//! | renew | delete the element that is open, add it again | the lease that is being renewed |
//! | grant | delete the ticket, add the element | a ticket that was issued *before* the last look at the clock |
//! | shut | add the element, delete it | nothing |
//!
//! Invariant: what is open ends no later than its deadline plus the time for which it was opened, which is
//! at most one lease. For with the look at the clock at `t`, the time `r = deadline - t`, and the order
//! carried out at `x`, it ends at `x + r = deadline + (x - t)`; and `x - t` is less than what was left at `t`
//! of a timeout that the kernel had begun to count before `t` and that was not longer than a lease.
//!
//! A gate without an end ([`OPEN`]) is bound to nothing: it is for what no lease is about.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ruleset::{self, Class, Ruleset, Stay};
use super::wire::{self, Batch, Control};
use super::{Ownership, inspect};
use crate::clock::boottime_ns;
use crate::gate::others::Others;
use crate::gate::{OPEN, SHUT, doing};
use crate::link::index_of;

/// An order that failed is tried again after this time.
const RETRY_MS: u16 = 10;
/// Grants that are tried in a row: each fails only if this thread did not run for as long as the lease had
/// left.
const TICKETS: usize = 3;
/// Group of the notices about nf_tables.
const NOTICES: u32 = 7;
/// Room for notices while another program loads a great ruleset.
const NOTICE_BUFFER_BYTES: u32 = 1 << 20;
/// Most datagrams of notices to look at in one go.
const MOST_NOTICES: usize = 1 << 14;

const CLASSES: [Class; 2] = [Class::Addresses, Class::Ports];

const REPAIR: u8 = 1;
const DETACH: u8 = 2;
const STOP: u8 = 4;

/// What the keeper is to do, and how far it is.
#[derive(Debug)]
pub(super) struct Orders {
    deadlines: [AtomicU64; 2],
    others: AtomicU8,
    /// Counts the orders.
    given: AtomicU64,
    wake: UnixStream,
    done: Mutex<Done>,
    progress: Condvar,
    restored: AtomicU64,
}

#[derive(Debug, Default)]
struct Done {
    /// Everything up to this order is in force.
    order: u64,
    /// Why the rest is not.
    trouble: Option<String>,
    ended: bool,
}

impl Orders {
    /// Has the deadline of `class` moved. Neither waits nor allocates.
    pub(super) fn move_deadline(&self, class: Class, boottime_ns: u64) -> io::Result<()> {
        self.deadlines[class as usize].store(boottime_ns, Ordering::SeqCst);
        self.give(0)
    }

    /// Has the table looked at, and made anew where it is damaged.
    pub(super) fn repair(&self) -> io::Result<()> {
        self.give(REPAIR)
    }

    /// Has the table deleted; the last order.
    pub(super) fn detach(&self) -> io::Result<()> {
        self.give(DETACH)
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let _ = self.give(STOP);
    }

    /// How often the table was made anew because another program had taken it away.
    pub(super) fn restored(&self) -> u64 {
        self.restored.load(Ordering::Relaxed)
    }

    /// Why the last order is not in force, where the kernel refused it.
    pub(super) fn trouble(&self) -> Option<String> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    fn give(&self, other: u8) -> io::Result<()> {
        self.others.fetch_or(other, Ordering::SeqCst);
        self.given.fetch_add(1, Ordering::SeqCst);
        match io::Write::write(&mut &self.wake, &[0]) {
            Ok(_) => Ok(()),
            // The socket is full of earlier calls: the thread will wake.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(doing("wake the keeper of the nftables gate")(e)),
        }
    }

    /// Waits until every order given so far is in force.
    pub(super) fn settle(&self, limit: Duration) -> io::Result<()> {
        let given = self.given.load(Ordering::SeqCst);
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, _) = self
            .progress
            .wait_timeout_while(done, limit, |done| done.order < given && !done.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if done.order >= given {
            return Ok(());
        }
        let why = match &done.trouble {
            Some(trouble) => format!("the nftables gate does not obey: {trouble}"),
            None if done.ended => "the keeper of the nftables gate has ended".to_owned(),
            None => format!("the nftables gate did not obey within {limit:?}"),
        };
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }
}

/// See the module's documentation.
pub(super) struct Keeper {
    orders: Arc<Orders>,
    ruleset: Arc<Ruleset>,
    interfaces: Vec<String>,
    others: Arc<Others>,
    control: Control,
    notices: Socket,
    called: UnixStream,
    flags: u32,
    batch: Batch,
    /// The deadlines that are in force.
    in_force: [u64; 2],
    /// How often the table was made anew.
    restored: u64,
    /// The table may not be what it was.
    suspicion: Suspicion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Suspicion {
    None,
    /// Look.
    Look,
    /// Another program has changed it.
    Changed,
}

impl Keeper {
    /// Makes the table, and everything that the thread will need. Also says who owns the table, if anybody.
    pub(super) fn begin(
        ruleset: Arc<Ruleset>,
        interfaces: Vec<String>,
        others: Arc<Others>,
        ownership: Ownership,
    ) -> io::Result<(Keeper, Arc<Orders>, Option<u32>)> {
        let control = Control::open().map_err(doing("open a netlink socket"))?;
        let mut notices = Socket::new(NETLINK_NETFILTER)?;
        notices.bind_auto()?;
        notices.set_non_blocking(true)?;
        let _ = notices.set_rx_buf_sz(NOTICE_BUFFER_BYTES);
        notices.add_membership(NOTICES).map_err(doing("subscribe to changes of nf_tables"))?;
        let (wake, called) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        called.set_nonblocking(true)?;
        let orders = Arc::new(Orders {
            deadlines: [AtomicU64::new(SHUT), AtomicU64::new(SHUT)],
            others: AtomicU8::new(0),
            given: AtomicU64::new(0),
            wake,
            done: Mutex::default(),
            progress: Condvar::new(),
            restored: AtomicU64::new(0),
        });
        let mut keeper = Keeper {
            orders: orders.clone(),
            ruleset,
            interfaces,
            others,
            control,
            notices,
            called,
            flags: ruleset::TABLE_OWNED,
            batch: Batch::default(),
            in_force: [SHUT; 2],
            restored: 0,
            suspicion: Suspicion::None,
        };
        let mut made = Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        if ownership == Ownership::WherePossible {
            made = keeper.make();
        }
        // Kernels before 6.9 do not know an owner that its table outlives.
        if made.as_ref().is_err_and(|e| matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))) {
            keeper.flags = 0;
            made = keeper.make();
        }
        // An interface has just gone, or the kernel is built without NFT_FIB_NETDEV.
        if made.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            made = keeper.make();
        }
        if made.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            tracing::warn!(
                "this kernel's nftables has no `fib` for interfaces: what leaves by other interfaces than the virtual address's is not gated"
            );
            keeper.others.leave_out();
            made = keeper.make();
        }
        made.map_err(doing("make the gate's nftables table (needs CAP_NET_ADMIN and Linux 5.16)"))?;
        let owner = (keeper.flags != 0).then_some(keeper.control.port);
        Ok((keeper, orders, owner))
    }

    /// Makes the table anew, shut.
    fn make(&mut self) -> io::Result<()> {
        let devices: Vec<String> =
            self.interfaces.iter().filter(|name| index_of(name).is_some()).cloned().collect();
        let others = self.others.now()?;
        self.batch.begin();
        self.ruleset.make(&mut self.batch, self.flags, &devices, &others);
        self.control.commit(&mut self.batch)?;
        self.in_force = [SHUT; 2];
        Ok(())
    }

    /// Removes the table.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.commit(|rules, batch| rules.remove(batch))
    }

    /// Works until it is told to end.
    pub(super) fn run(mut self) {
        loop {
            let order = self.orders.given.load(Ordering::SeqCst);
            let others = self.orders.others.swap(0, Ordering::SeqCst);
            if others & STOP != 0 {
                break;
            }
            let outcome = self.turn(others);
            let failed = outcome.is_err();
            if failed {
                // A repair that failed is still wanted.
                self.suspicion = self.suspicion.max(Suspicion::Look);
                self.orders.others.fetch_or(others & DETACH, Ordering::SeqCst);
            }
            self.report(order, outcome, others & DETACH != 0 && !failed);
            if others & DETACH != 0 && !failed {
                return;
            }
            self.wait(if failed { PollTimeout::from(RETRY_MS) } else { PollTimeout::NONE });
            self.read_notices();
        }
        self.report(0, Ok(()), true);
    }

    fn report(&self, order: u64, outcome: io::Result<()>, ended: bool) {
        let mut done = self.orders.done.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                done.order = done.order.max(order);
                done.trouble = None;
            }
            Err(error) => {
                let error = error.to_string();
                if done.trouble.as_ref() != Some(&error) {
                    tracing::error!(
                        error,
                        table = self.ruleset.table,
                        "the nftables gate cannot be kept; trying again"
                    );
                }
                done.trouble = Some(error);
            }
        }
        done.ended |= ended;
        drop(done);
        self.orders.progress.notify_all();
    }

    /// Waits for an order or a notice.
    fn wait(&mut self, limit: PollTimeout) {
        let mut sockets = [
            PollFd::new(self.called.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.notices.as_fd(), PollFlags::POLLIN),
        ];
        // Interrupted or not: everything is looked at afterwards.
        let _ = poll(&mut sockets, limit);
        let mut calls = [0; 64];
        while matches!(io::Read::read(&mut &self.called, &mut calls), Ok(64)) {}
    }

    /// Finds out whether somebody else has changed the table.
    fn read_notices(&mut self) {
        let mut room = [0; 16 * 1024];
        for _ in 0..MOST_NOTICES {
            let mut from = &mut room[..];
            match self.notices.recv(&mut from, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok(length) if length > room.len() => self.suspicion = self.unsure(),
                Ok(length) => {
                    for notice in wire::answers(&room[..length]) {
                        if self.concerns_us(&notice) {
                            self.suspicion = Suspicion::Changed;
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => self.suspicion = self.unsure(),
                Err(_) => return,
            }
        }
    }

    /// What is to be thought of notices that were lost: nobody else can have changed a table that is owned.
    fn unsure(&self) -> Suspicion {
        self.suspicion.max(if self.flags == 0 { Suspicion::Changed } else { Suspicion::Look })
    }

    fn concerns_us(&self, notice: &wire::Answer<'_>) -> bool {
        const TABLE: u16 = 1;
        let kind = notice.kind as u8;
        notice.kind >> 8 == u16::from(wire::SUBSYSTEM)
            && kind != wire::NEW_GENERATION
            && notice.port != self.control.port
            // Of itself the kernel only deletes what has expired.
            && !(notice.port == 0 && kind == wire::DELETE_ELEMENT)
            && notice.family == wire::FAMILY_NETDEV
            && notice.text(TABLE) == Some(&self.ruleset.table)
    }

    /// Does everything that is to be done now.
    fn turn(&mut self, others: u8) -> io::Result<()> {
        if others & DETACH != 0 {
            return self.remove();
        }
        if others & REPAIR != 0 {
            self.suspicion = self.suspicion.max(Suspicion::Look);
        }
        self.restore_if_damaged()?;
        for class in CLASSES {
            match self.apply(class) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // The table is gone, and the notice of it on its way.
                    self.suspicion = Suspicion::Look;
                    self.restore_if_damaged()?;
                    self.apply(class)?;
                }
                outcome => outcome?,
            }
        }
        // As it was: with the deadlines that were in force.
        self.orders.restored.store(self.restored, Ordering::Relaxed);
        Ok(())
    }

    fn restore_if_damaged(&mut self) -> io::Result<()> {
        let (damaged, widened) = match self.suspicion {
            Suspicion::None => return Ok(()),
            Suspicion::Changed => (true, false),
            Suspicion::Look => {
                let owner = (self.flags != 0).then_some(self.control.port);
                let others = self.others.now()?;
                let missing =
                    inspect::missing(&mut self.control, &self.ruleset, owner, &self.interfaces, &others)?;
                let exists = |names: &[String]| names.iter().any(|name| index_of(name).is_some());
                (exists(&missing.interfaces), exists(&missing.others))
            }
        };
        if damaged || widened {
            self.make()?;
            self.restored += u64::from(damaged);
        }
        self.suspicion = Suspicion::None;
        Ok(())
    }

    /// Moves the deadline of `class` to what is wanted.
    fn apply(&mut self, class: Class) -> io::Result<()> {
        let wanted = self.orders.deadlines[class as usize].load(Ordering::SeqCst);
        let in_force = self.in_force[class as usize];
        if wanted == in_force {
            return Ok(());
        }
        if self.ruleset.gates(class) {
            // If it fails nobody knows what is in force.
            self.in_force[class as usize] = SHUT;
            match wanted {
                SHUT => self.commit(|rules, batch| rules.shut(batch, class))?,
                OPEN => self.commit(|rules, batch| rules.open(batch, class, Stay::ForEver))?,
                _ => self.open_until(class, wanted, in_force)?,
            }
        }
        self.in_force[class as usize] = wanted;
        Ok(())
    }

    fn commit(&mut self, build: impl FnOnce(&Ruleset, &mut Batch)) -> io::Result<()> {
        self.batch.begin();
        build(&self.ruleset, &mut self.batch);
        self.control.commit(&mut self.batch)
    }

    fn open_until(&mut self, class: Class, deadline: u64, in_force: u64) -> io::Result<()> {
        if in_force != SHUT && in_force != OPEN {
            let Some(stay) = stay_until(deadline) else {
                return self.commit(|rules, batch| rules.shut(batch, class));
            };
            match self.commit(|rules, batch| rules.renew(batch, class, stay)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                outcome => return outcome,
            }
        }
        for _ in 0..TICKETS {
            let Some(stay) = stay_until(deadline) else { break };
            self.commit(|rules, batch| rules.issue_ticket(batch, stay))?;
            // The ticket runs by now, so this look is the later one.
            let Some(stay) = stay_until(deadline) else { break };
            let granted = self.commit(|rules, batch| {
                rules.use_ticket(batch);
                rules.open(batch, class, stay);
            });
            match granted {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                outcome => return outcome,
            }
        }
        self.commit(|rules, batch| rules.shut(batch, class))?;
        match stay_until(deadline) {
            None => Ok(()),
            Some(_) => Err(io::Error::other("this thread does not run often enough to open the gate")),
        }
    }
}

/// How long something may stay that must end at `deadline`, by the clock at this moment.
fn stay_until(deadline: u64) -> Option<Stay> {
    match deadline.saturating_sub(boottime_ns()) / 1_000_000 {
        0 => None,
        ms => Some(Stay::Ms(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::VipSpec;

    /// Runs `body` with a keeper in a namespace of its own, where this process may.
    fn with_keeper(body: impl FnOnce(Keeper) + Send + 'static) {
        let spec = VipSpec::new("10.0.0.100/24".parse().unwrap(), "none");
        let test = std::thread::spawn(move || {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return eprintln!("skipped: needs root");
            }
            let rules = Ruleset::new(&[spec], &[9000], &[]).unwrap();
            let (keeper, _, _) = Keeper::begin(
                Arc::new(rules),
                Vec::new(),
                Arc::new(Others::beside(&[])),
                Ownership::WherePossible,
            )
            .unwrap();
            body(keeper);
        });
        test.join().unwrap();
    }

    const SHORT: Stay = Stay::Ms(20);
    /// Longer than that, by the longest tick that kernels are built with.
    const PAST_SHORT_NS: u64 = 40_000_000;

    fn wait_past_short() {
        let until = boottime_ns() + PAST_SHORT_NS;
        while boottime_ns() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn code(outcome: io::Result<()>) -> Option<i32> {
        outcome.err().map(|e| e.raw_os_error().expect("an answer of the kernel"))
    }

    #[test]
    fn a_process_that_was_stopped_cannot_renew_a_lease_that_is_over() {
        with_keeper(|mut keeper| {
            for class in CLASSES {
                keeper.commit(|rules, batch| rules.open(batch, class, SHORT)).unwrap();
                keeper.commit(|rules, batch| rules.renew(batch, class, SHORT)).unwrap();
                wait_past_short();
                let late = keeper.commit(|rules, batch| rules.renew(batch, class, SHORT));
                assert_eq!(code(late), Some(libc::ENOENT));
                let late = keeper.commit(|rules, batch| rules.renew(batch, class, SHORT));
                assert_eq!(code(late), Some(libc::ENOENT), "the refused batch left nothing behind");
            }
        });
    }

    #[test]
    fn a_process_that_was_stopped_cannot_grant_with_an_old_ticket() {
        with_keeper(|mut keeper| {
            let grant = |keeper: &mut Keeper| {
                keeper.commit(|rules, batch| {
                    rules.use_ticket(batch);
                    rules.open(batch, Class::Addresses, SHORT);
                })
            };
            assert_eq!(code(grant(&mut keeper)), Some(libc::ENOENT), "there was no ticket");
            keeper.commit(|rules, batch| rules.issue_ticket(batch, SHORT)).unwrap();
            assert_eq!(code(grant(&mut keeper)), None);
            assert_eq!(code(grant(&mut keeper)), Some(libc::ENOENT), "a ticket is good for one grant");
            keeper.commit(|rules, batch| rules.issue_ticket(batch, SHORT)).unwrap();
            wait_past_short();
            assert_eq!(code(grant(&mut keeper)), Some(libc::ENOENT));
        });
    }

    #[test]
    fn shutting_what_is_shut_is_no_error_and_a_missing_table_is() {
        with_keeper(|mut keeper| {
            for _ in 0..2 {
                keeper.commit(|rules, batch| rules.shut(batch, Class::Addresses)).unwrap();
            }
            keeper.remove().unwrap();
            let shut = keeper.commit(|rules, batch| rules.shut(batch, Class::Addresses));
            assert_eq!(code(shut), Some(libc::ENOENT));
        });
    }

    #[test]
    fn a_deadline_is_measured_when_it_is_needed() {
        assert_eq!(stay_until(0), None);
        assert_eq!(stay_until(boottime_ns()), None);
        let Some(Stay::Ms(ms)) = stay_until(boottime_ns() + 60_000_000_000) else { panic!("it is to come") };
        assert!((59_000..=60_000).contains(&ms), "{ms}");
    }
}
