//! What the operator asked for: one virtual address on one interface, and what comes and goes with it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

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
    /// When to announce it.
    pub rounds: Rounds,
    /// Routes that are there as long as the address is.
    pub routes: Vec<RouteSpec>,
    /// Policy rules that are there as long as the address is.
    pub rules: Vec<RuleSpec>,
}

impl VipSpec {
    /// An address that is probed before it is claimed, announced at the usual times, and brings nothing.
    pub fn new(address: IpNet, interface: impl Into<String>) -> VipSpec {
        VipSpec {
            address,
            interface: interface.into(),
            arp_ping: true,
            gratuitous_arp: true,
            rounds: Rounds::default(),
            routes: Vec::new(),
            rules: Vec::new(),
        }
    }

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

/// When an address is announced after it was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rounds {
    /// Rounds in a row after the claim; at least 1.
    pub repeat: u32,
    /// Time between them; `None`: dense at first, then wider (see [`announce`](crate::announce)).
    pub interval: Option<Duration>,
    /// Time between the rounds ever after; `None` for none.
    pub refresh: Option<Duration>,
}

impl Default for Rounds {
    fn default() -> Rounds {
        Rounds { repeat: 4, interval: None, refresh: Some(crate::announce::REFRESH) }
    }
}

/// A route that comes with an address, after it, and goes before it. It leaves by the address's interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RouteSpec {
    /// The destination; of length 0 for the default route.
    pub to: IpNet,
    /// The next hop; `None`: the destination is on the link.
    pub via: Option<IpAddr>,
    /// The routing table's number; 254 is `main`.
    pub table: u32,
    /// The metric; `None`: the kernel's (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// From which address this host speaks on it, where a program does not say.
    pub source: Option<IpAddr>,
    /// Whether the address counts as claimed only once the route stands.
    pub required: bool,
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to.prefix_len() {
            0 => write!(f, "route default")?,
            _ => write!(f, "route {}", self.to)?,
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// The number of the routing table `main`.
pub const MAIN_TABLE: u32 = 254;

/// A policy rule that comes with an address, after its routes, and goes before them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RuleSpec {
    /// Packets from here.
    pub from: Option<IpNet>,
    /// Packets to here.
    pub to: Option<IpNet>,
    /// The routing table in which they look.
    pub table: u32,
    /// Rules are asked in this order, the smallest first.
    pub priority: u32,
    /// Whether the address counts as claimed only once the rule stands.
    pub required: bool,
}

impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}:", self.priority)?;
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        write!(f, " table {}", self.table)
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
