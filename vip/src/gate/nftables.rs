//! The gate as an nftables table of its own, for kernels and containers that permit no eBPF (Linux 5.16 and
//! later, CAP_NET_ADMIN; a user namespace will do).
//!
//! It drops what the eBPF programs drop ([`ruleset`]). The lease is elements that expire by themselves, and
//! what is different is that their end is counted *from the moment that the kernel takes the order*: orders
//! are made and confirmed so that a process which is stopped at the worst moment opens the gate for at most
//! one lease more than its deadline ([`keeper`]), and the derived timers count that in.
//!
//! The table stands after the process has ended in whatever way. From Linux 6.9 it has an owner: while the
//! agent lives no other program, `nft flush ruleset` included, can change or delete it. On older kernels, and
//! while nobody lives, a flush deletes it; a living keeper is told by the kernel and makes it anew within
//! milliseconds. Nothing but tables of our own name is ever changed.
//!
//! Time that the host spends suspended is not counted by the kernel's timeouts. (That of eBPF is.)

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use self::keeper::{Keeper, Orders};
use self::ruleset::{Class, Ruleset};
use self::wire::Control;
use super::others::Others;
use super::{Ending, Gate, GateHealth};
use crate::link::link;
use crate::spec::{VipSpec, interfaces};

mod inspect;
mod keeper;
mod ruleset;
pub(crate) mod wire;

/// How long an order that somebody waits for may take. It takes well under a millisecond, unless another
/// program is just loading a great ruleset.
const ORDER_LIMIT: Duration = Duration::from_secs(1);

/// Whether the table may ask for an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Where the kernel knows of owners that their tables outlive (6.9).
    WherePossible,
    /// Not even there: as on older kernels.
    Never,
}

/// The gate, held open or shut by a thread of its own.
#[derive(Debug)]
pub struct NftGate {
    orders: std::sync::Arc<Orders>,
    keeper: Mutex<Option<std::thread::JoinHandle<()>>>,
    questions: Mutex<Control>,
    ruleset: std::sync::Arc<Ruleset>,
    owner: Option<u32>,
    interfaces: Vec<String>,
    others: std::sync::Arc<Others>,
}

impl NftGate {
    /// Makes the table, shut, on the interfaces of `specs` and the others of this host, in place of one of an earlier
    /// life. An interface that does not exist (yet) is left to [`Gate::repair`].
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN, or where a living agent owns the table; the kernel's answer
    /// where it has no nf_tables, or no egress hook (before 5.16). On error nothing of ours stands.
    pub fn open(specs: &[VipSpec], ports: &[u16]) -> io::Result<NftGate> {
        NftGate::open_as(specs, ports, Ownership::WherePossible)
    }

    /// As [`open`](NftGate::open); `begin` runs first on the thread that renews, to hurry it.
    ///
    /// # Errors
    /// As [`open`](NftGate::open).
    pub fn open_hurried(
        specs: &[VipSpec],
        ports: &[u16],
        begin: impl FnOnce() + Send + 'static,
    ) -> io::Result<NftGate> {
        NftGate::start(specs, ports, Ownership::WherePossible, begin)
    }

    /// As [`open`](NftGate::open), also as on kernels that know no owners.
    ///
    /// # Errors
    /// As [`open`](NftGate::open).
    pub fn open_as(specs: &[VipSpec], ports: &[u16], ownership: Ownership) -> io::Result<NftGate> {
        NftGate::start(specs, ports, ownership, || ())
    }

    fn start(
        specs: &[VipSpec],
        ports: &[u16],
        ownership: Ownership,
        begin: impl FnOnce() + Send + 'static,
    ) -> io::Result<NftGate> {
        let mut gated = interfaces(specs);
        gated.retain(|interface| !link(interface).is_ok_and(|link| link.loopback));
        let ruleset = std::sync::Arc::new(Ruleset::new(specs, ports, &gated)?);
        let questions = Control::open()?;
        let others = std::sync::Arc::new(Others::beside(&gated));
        let (mut keeper, orders, owner) =
            Keeper::begin(ruleset.clone(), gated.clone(), others.clone(), ownership)?;
        if let Err(refusal) = remove_stale_but(Some(&ruleset.table)) {
            if let Err(error) = keeper.remove() {
                tracing::warn!(%error, "a gate that could not be completed could not be removed either");
            }
            return Err(refusal);
        }
        let keeper = std::thread::Builder::new().name("gate".into()).spawn(move || {
            begin();
            keeper.run();
        })?;
        Ok(NftGate {
            orders,
            keeper: Mutex::new(Some(keeper)),
            questions: Mutex::new(questions),
            ruleset,
            owner,
            interfaces: gated,
            others,
        })
    }

    /// Whether the table has an owner, so that no other program can change it while this process lives.
    pub fn is_owned(&self) -> bool {
        self.owner.is_some()
    }

    /// The table's name, in the family `netdev`.
    pub fn table(&self) -> &str {
        &self.ruleset.table
    }
}

impl Gate for NftGate {
    fn name(&self) -> &'static str {
        if self.is_owned() { "nftables" } else { "nftables (not owned)" }
    }

    fn allow_address_until(&self, boottime_ns: u64) -> io::Result<()> {
        self.orders.move_deadline(Class::Addresses, boottime_ns)
    }

    fn allow_ports_until(&self, boottime_ns: u64) -> io::Result<()> {
        self.orders.move_deadline(Class::Ports, boottime_ns)
    }

    fn settle(&self, limit: Duration) -> io::Result<()> {
        self.orders.settle(limit)
    }

    fn check(&self) -> io::Result<GateHealth> {
        // A table that nobody keeps still shuts, and opens no more.
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
            return Err(io::Error::other("the thread that renews the nftables gate has ended"));
        }
        drop(keeper);
        if let Some(trouble) = self.orders.trouble() {
            return Err(io::Error::other(trouble));
        }
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let others = self.others.lately()?;
        let missing =
            inspect::missing(&mut questions, &self.ruleset, self.owner, &self.interfaces, &others)?.all();
        let all = self.interfaces.iter().chain(others.iter());
        let attached = all.filter(|name| !missing.contains(name)).cloned().collect();
        Ok(GateHealth { attached, missing, restored: self.orders.restored() })
    }

    fn repair(&self) -> io::Result<GateHealth> {
        self.orders.repair()?;
        self.orders.settle(ORDER_LIMIT)?;
        self.check()
    }

    fn detach(&self) -> io::Result<()> {
        let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        self.orders.detach()?;
        let settled = self.orders.settle(ORDER_LIMIT);
        self.orders.stop();
        let _ = keeper.join();
        settled
    }

    fn ending(&self) -> Ending {
        Ending::Relative
    }
}

impl Drop for NftGate {
    /// Leaves the table standing: what is open in it expires.
    fn drop(&mut self) {
        self.orders.stop();
        if let Some(keeper) = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = keeper.join();
        }
    }
}

/// Removes every table that an earlier life left in this network namespace.
///
/// # Errors
/// The kernel permits no look at its tables, or refused to delete one: a living agent owns it, say.
pub fn remove_stale() -> io::Result<()> {
    remove_stale_but(None)
}

fn remove_stale_but(ours: Option<&str>) -> io::Result<()> {
    let mut control = Control::open()?;
    let mut stale = Vec::new();
    let listed = control.dump(
        wire::GET_TABLE,
        |_| (),
        |table| {
            let name = table.text(ruleset::TABLE_NAME).filter(|_| table.family == wire::FAMILY_NETDEV);
            stale.extend(name.filter(|name| ruleset::is_gate(name)).map(ToOwned::to_owned));
        },
    );
    match listed {
        // A kernel without nf_tables has no table either.
        Err(e)
            if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT)) =>
        {
            return Ok(());
        }
        listed => listed?,
    }
    let mut batch = wire::Batch::default();
    for table in stale.into_iter().filter(|name| Some(name.as_str()) != ours) {
        batch.begin();
        ruleset::remove_table(&mut batch, &table);
        match control.commit(&mut batch) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(super::doing(format_args!("delete the nftables table {table}"))(e)),
            Ok(()) => tracing::info!(table, "removed the gate of an earlier life"),
        }
    }
    Ok(())
}
