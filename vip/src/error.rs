//! What can go wrong with an address, sorted by what the reader can do about it.

use std::io;
use std::time::Duration;

/// A failed operation on addresses, links or packets.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    /// The interface is not there (any more). It may come back: try again on the next `LinkUp`, or mend
    /// `interface` in the configuration.
    #[error("there is no interface {interface}; see `ip link` for those that exist")]
    NoSuchInterface {
        /// Its name.
        interface: String,
    },
    /// The interface is down or has no carrier: nothing sent there would arrive.
    #[error("interface {interface} is down or has no carrier; check its cable and switch port")]
    LinkDown {
        /// Its name.
        interface: String,
    },
    /// The interface cannot do what a virtual address needs.
    #[error("interface {interface} is not Ethernet, and a virtual address needs ARP or neighbour discovery")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The kernel refused; usually a missing capability, or IPv6 switched off on the interface.
    #[error("the kernel refused to {action}: {source} (the agent needs CAP_NET_ADMIN and CAP_NET_RAW)")]
    Refused {
        /// What was asked, as in `add 10.0.0.100/32 to eth1`.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not answer in time. Whether the request was carried out is unknown: observe.
    #[error("the kernel did not answer within {limit:?} when asked to {action}")]
    TimedOut {
        /// What was asked.
        action: String,
        /// The time limit.
        limit: Duration,
    },
    /// Local I/O failed in another way.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The cause.
        source: io::Error,
    },
}

impl VipError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> VipError {
        let action = action.into();
        move |source| VipError::Io { action, source }
    }
}
