//! What the operator asked for: one virtual address on one interface.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VipSpec {
    /// The address with the prefix length of its subnet, as in `10.0.0.100/24`.
    pub address: IpNet,
    /// The interface that carries it. An Ethernet interface, or loopback for trials.
    pub interface: String,
    /// Whether to ask the network for another holder before claiming it. Covers IPv6 too.
    pub arp_ping: bool,
    /// Whether to announce it to the neighbours once claimed. Covers IPv6 too.
    pub gratuitous_arp: bool,
}

impl VipSpec {
    /// The address without its prefix.
    pub fn ip(&self) -> IpAddr {
        self.address.addr()
    }
}

impl fmt::Display for VipSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.ip(), self.interface)
    }
}

/// The interfaces of `specs`, each once, in order of appearance.
pub(crate) fn interfaces(specs: &[VipSpec]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for spec in specs {
        if !names.contains(&spec.interface) {
            names.push(spec.interface.clone());
        }
    }
    names
}
