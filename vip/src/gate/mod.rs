//! The gate: the kernel's own enforcement of the lease on the address and the service ports.
//!
//! The agent moves a deadline; the kernel drops every packet to or from the address once the deadline has
//! passed, with no living code to help. Here nothing decides *when*: the agent derives the deadline
//! from its lease. Invariant of every implementation that ends [`Absolute`](Ending::Absolute): after the
//! deadline of the last `allow_*` call that returned, no packet passes, whatever became of the process. One
//! that ends [`Relative`](Ending::Relative) may let packets pass for one lease more.
//!
//! | implementation | enforces | outlives the process | deadline |
//! |---|---|---|---|
//! | [`ebpf::EbpfGate`] | every packet on the VIPs' interfaces, and what this host sends by any other | yes | absolute |
//! | [`nftables::NftGate`] | the same | yes | a timeout: renewed late, it ends at most one lease late |
//! | [`none::NoGate`] | nothing; `valid_lft` of the address remains, in whole seconds | - | relative |

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::link::index_of;
use crate::spec::VipSpec;

pub(crate) mod asm;
mod clsact;
pub mod ebpf;
pub mod nftables;
pub mod none;
mod others;
pub(crate) mod program;
pub(crate) mod sys;

pub(crate) use nftables::wire;

pub use ebpf::{EbpfGate, Hook};
pub use nftables::{NftGate, Ownership};
pub use none::NoGate;

/// A deadline that never comes: open.
pub const OPEN: u64 = u64::MAX;
/// A deadline that is always past: shut.
pub const SHUT: u64 = 0;

/// Lets packets of the virtual addresses and the service ports pass until a deadline. A gate starts
/// shut, for both.
pub trait Gate: Send + Sync {
    /// What the operator reads in `ha status`.
    fn name(&self) -> &'static str;

    /// Lets packets of all virtual addresses pass until `boottime_ns` ([`OPEN`] for ever). Replaces the
    /// earlier deadline, also by an earlier one. Neither waits nor allocates.
    ///
    /// # Errors
    /// None for the gates of today; a caller treats an error as a deadline that was not moved.
    fn allow_address_until(&self, boottime_ns: u64) -> io::Result<()>;

    /// Likewise for TCP to and from the service ports, on whatever address.
    ///
    /// # Errors
    /// As [`allow_address_until`](Gate::allow_address_until).
    fn allow_ports_until(&self, boottime_ns: u64) -> io::Result<()>;

    /// Shuts all virtual addresses at once. The service ports keep their deadline.
    ///
    /// # Errors
    /// As [`allow_address_until`](Gate::allow_address_until).
    fn close(&self) -> io::Result<()> {
        self.allow_address_until(SHUT)
    }

    /// Waits until what was asked by the calls so far is in force in the kernel: at once, where the calls
    /// themselves bring it about. Not for threads that must not wait.
    ///
    /// # Errors
    /// `TimedOut` where it is not in force within `limit`; the text says why.
    fn settle(&self, _limit: Duration) -> io::Result<()> {
        Ok(())
    }

    /// Whether the gate stands on each interface: one that was deleted and made again has lost it.
    ///
    /// # Errors
    /// The kernel could not be asked.
    fn check(&self) -> io::Result<GateHealth>;

    /// Puts the gate back where [`check`](Gate::check) misses it and the interface exists. Call it before
    /// a claim, and on `LinkUp`. Returns what `check` would.
    ///
    /// # Errors
    /// The kernel refused.
    fn repair(&self) -> io::Result<GateHealth>;

    /// Removes the gate: a clean stop, after the addresses are gone. Packets pass freely from then on.
    ///
    /// # Errors
    /// The kernel refused; the gate may still stand on some interface.
    fn detach(&self) -> io::Result<()>;

    /// How far the kernel holds the deadline.
    fn ending(&self) -> Ending;
}

/// How far the kernel holds a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is a moment: nothing passes after it.
    Absolute,
    /// It is a time that begins to run when the kernel gets to know it. A process that is stopped in between
    /// extends it by its own length at most.
    Relative,
    /// Not at all: only the lifetime of the address ends it.
    Lifetime,
}

/// Where the gate stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateHealth {
    /// Interfaces on which it stands, in both directions.
    pub attached: Vec<String>,
    /// Interfaces on which it should stand and does not, be it that they do not exist.
    pub missing: Vec<String>,
    /// How often it was taken away by another program and put itself back, since it was opened.
    pub restored: u64,
}

impl GateHealth {
    /// Whether it stands everywhere.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// Interfaces that exist and on which packets pass ungated.
    pub fn ungated(&self) -> Vec<&str> {
        self.missing.iter().map(String::as_str).filter(|name| index_of(name).is_some()).collect()
    }
}

/// Which gate the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateChoice {
    /// The best one that this kernel permits.
    #[default]
    Auto,
    /// eBPF or none: the caller may treat the reason as fatal.
    Ebpf,
    /// nftables or none: the caller may treat the reason as fatal.
    Nftables,
    /// None but the lifetime of the address.
    None,
}

impl FromStr for GateChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<GateChoice, String> {
        match text {
            "auto" => Ok(GateChoice::Auto),
            "ebpf" => Ok(GateChoice::Ebpf),
            "nftables" => Ok(GateChoice::Nftables),
            "none" => Ok(GateChoice::None),
            other => Err(format!("the gate is \"auto\", \"ebpf\", \"nftables\" or \"none\", not {other:?}")),
        }
    }
}

/// Adds what was being done to an error, keeping its kind.
pub(crate) fn doing(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{what}: {e}"))
}

/// Opens the chosen gate for `specs` and TCP `ports`; with the reason where it had to be a lesser one
/// than asked for, or where an earlier life's gate could not be removed.
///
/// `begin` runs first on the thread that moves the deadline, where the gate needs one: whoever hurries the
/// core hurries that too.
pub fn open(
    choice: GateChoice,
    specs: &[VipSpec],
    ports: &[u16],
    begin: impl FnOnce() + Send + 'static,
) -> (Arc<dyn Gate>, Option<String>) {
    if specs.is_empty() {
        // A witness, which may live beside a data member of another cluster: what stands here is not its own.
        return (Arc::new(NoGate::new(specs)), None);
    }
    let mut reasons = Vec::new();
    let mut gate: Option<Arc<dyn Gate>> = None;
    if matches!(choice, GateChoice::Auto | GateChoice::Ebpf) {
        match EbpfGate::open(specs, ports) {
            Ok(opened) => gate = Some(Arc::new(opened)),
            Err(error) => reasons.push(format!("no eBPF: {error}")),
        }
    }
    if gate.is_none() && matches!(choice, GateChoice::Auto | GateChoice::Nftables) {
        match NftGate::open_hurried(specs, ports, begin) {
            Ok(opened) => gate = Some(Arc::new(opened)),
            Err(error) => reasons.push(format!("no nftables: {error}")),
        }
    }
    // A gate of another form that an earlier life left would stay shut for ever, with nobody to move its
    // deadline. The one of the same form is gone by now, and a gate that this process has no right to look
    // for was not its own.
    let gate = gate.unwrap_or_else(|| Arc::new(NoGate::new(specs)));
    for (form, removed) in
        [("eBPF", ebpf::remove_stale as fn() -> io::Result<()>), ("nftables", nftables::remove_stale)]
    {
        if !gate.name().starts_with(form)
            && let Err(error) = removed()
        {
            reasons.push(format!("whether an earlier life left an {form} gate is not known: {error}"));
        }
    }
    (gate, (!reasons.is_empty()).then(|| reasons.join("; ")))
}

/// Removes every gate of this network namespace, of whatever form, whoever left it: of an earlier life, or of an
/// agent that was uninstalled.
///
/// # Errors
/// The first; every form was tried.
pub fn remove_stale() -> io::Result<()> {
    ebpf::remove_stale().and(nftables::remove_stale())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_from_the_configuration() {
        assert_eq!("auto".parse(), Ok(GateChoice::Auto));
        assert_eq!("ebpf".parse(), Ok(GateChoice::Ebpf));
        assert_eq!("nftables".parse(), Ok(GateChoice::Nftables));
        assert_eq!("none".parse(), Ok(GateChoice::None));
        assert!("iptables".parse::<GateChoice>().unwrap_err().contains("iptables"));
    }
}
