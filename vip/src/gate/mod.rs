//! The gate: the kernel's own enforcement of the lease on the address and the service ports.
//!
//! The agent moves a deadline; the kernel drops every packet to or from the address once the deadline has
//! passed, with no living code to help. Here nothing decides *when*: the agent derives the deadline
//! from its lease. Invariant of every implementation with
//! [`absolute_deadline`](Gate::absolute_deadline): after the deadline of the last `allow_*` call that
//! returned, no packet passes, whatever became of the process.
//!
//! | implementation | enforces | outlives the process | deadline |
//! |---|---|---|---|
//! | [`ebpf::EbpfGate`] | every packet on the VIPs' interfaces | yes | absolute |
//! | [`none::NoGate`] | nothing; `valid_lft` of the address remains, in whole seconds | - | relative |

use std::io;
use std::str::FromStr;
use std::sync::Arc;

use crate::spec::VipSpec;

pub(crate) mod asm;
pub mod ebpf;
pub mod none;
pub(crate) mod program;
pub(crate) mod sys;

pub use ebpf::{EbpfGate, remove_stale};
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

    /// Likewise for TCP to and from the service ports, on whatever address of the same interfaces.
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

    /// Whether the deadline is a moment (true), or a time that starts to run when the kernel gets to
    /// know it (false): a process that is stopped in between can then extend a relative one by its length.
    fn absolute_deadline(&self) -> bool;
}

/// Where the gate stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateHealth {
    /// Interfaces on which it stands, in both directions.
    pub attached: Vec<String>,
    /// Interfaces on which it should stand and does not, be it that they do not exist.
    pub missing: Vec<String>,
}

impl GateHealth {
    /// Whether it stands everywhere.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Which gate the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateChoice {
    /// The best one that this kernel permits.
    #[default]
    Auto,
    /// eBPF; falls back like `Auto`, and the caller may treat the reason as fatal.
    Ebpf,
    /// None but the lifetime of the address.
    None,
}

impl FromStr for GateChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<GateChoice, String> {
        match text {
            "auto" => Ok(GateChoice::Auto),
            "ebpf" => Ok(GateChoice::Ebpf),
            "none" => Ok(GateChoice::None),
            other => Err(format!("the gate is \"auto\", \"ebpf\" or \"none\", not {other:?}")),
        }
    }
}

/// Opens the chosen gate for `specs` and TCP `ports`; with the reason where it had to be a lesser one
/// than asked for, or where an earlier life's gate could not be removed.
pub fn open(choice: GateChoice, specs: &[VipSpec], ports: &[u16]) -> (Arc<dyn Gate>, Option<String>) {
    let refusal = match choice {
        GateChoice::None => None,
        GateChoice::Auto | GateChoice::Ebpf => match EbpfGate::open(specs, ports) {
            Ok(gate) => return (Arc::new(gate), None),
            Err(error) => Some(error.to_string()),
        },
    };
    // A gate that an earlier life left would stay shut for ever, with nobody to move its deadline.
    let left = remove_stale(&crate::spec::interfaces(specs)).err();
    let left = left.map(|e| format!("whether an earlier life left an eBPF gate is not known: {e}"));
    let reasons: Vec<String> = refusal.into_iter().chain(left).collect();
    (Arc::new(NoGate::new(specs)), (!reasons.is_empty()).then(|| reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_from_the_configuration() {
        assert_eq!("auto".parse(), Ok(GateChoice::Auto));
        assert_eq!("ebpf".parse(), Ok(GateChoice::Ebpf));
        assert_eq!("none".parse(), Ok(GateChoice::None));
        assert!("iptables".parse::<GateChoice>().unwrap_err().contains("iptables"));
    }
}
