//! Decides which connections another host can go on with.
//!
//! Those that pass *through* this one, and whose packets bear no address that stays here: a connection whose end is
//! a program of this host ends with it, and one that was translated to an address of its own cannot be answered by
//! another. The virtual addresses move along, so what is translated to one of them is carried over; what ends at
//! one (S3 clients, say) is a program's, and is not. What the members say to each other never is.

use std::collections::HashSet;
use std::net::IpAddr;

use holdfast_vip::conntrack::Flow;

/// The addresses by which connections are told apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// This host's, but for the virtual ones.
    own: HashSet<IpAddr>,
    vips: HashSet<IpAddr>,
    /// The other members'.
    members: HashSet<IpAddr>,
}

impl Scope {
    /// Of the virtual addresses and of the other members.
    pub(super) fn new(
        vips: impl IntoIterator<Item = IpAddr>,
        members: impl IntoIterator<Item = IpAddr>,
    ) -> Scope {
        Scope {
            own: HashSet::new(),
            vips: vips.into_iter().collect(),
            members: members.into_iter().collect(),
        }
    }

    /// Looks anew which addresses this host has. Where that cannot be found out, those of before are kept.
    pub(super) fn look(&mut self) {
        if let Ok(found) = nix::ifaddrs::getifaddrs() {
            let addresses = found.filter_map(|interface| interface.address).filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            });
            self.set_own(addresses);
        }
    }

    fn set_own(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.own = addresses.into_iter().filter(|address| !self.vips.contains(address)).collect();
    }

    /// Whether another host can go on with it.
    pub(super) fn has(&self, flow: &Flow) -> bool {
        let [from, to, answered_by, answered_to] = flow.addresses();
        let ends_here = |address: &IpAddr| self.vips.contains(address) || self.own.contains(address);
        flow.is_sound()
            && flow.is_portable()
            && flow.is_established()
            && !ends_here(&from)
            && !ends_here(&answered_by)
            && !self.own.contains(&to)
            && !self.own.contains(&answered_to)
            && !(self.members.contains(&from) && self.members.contains(&answered_by))
            && flow.addresses().iter().all(is_a_hosts)
    }
}

fn is_a_hosts(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::conntrack::samples::{CLIENT, SERVER, VIP, between, tcp};

    fn scope() -> Scope {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut scope = Scope::new([VIP, "10.2.0.100"].map(address), ["10.1.0.2", "10.1.0.3"].map(address));
        scope.set_own(["10.1.0.1", "10.2.0.1", "127.0.0.1", VIP].map(address));
        scope
    }

    #[test]
    fn what_passes_through_is_carried_and_what_ends_here_is_not() {
        let scope = scope();
        assert!(scope.has(&between(CLIENT, SERVER, SERVER, CLIENT)));
        assert!(scope.has(&between(CLIENT, SERVER, SERVER, "10.2.0.100")), "translated to a virtual address");
        assert!(scope.has(&between(CLIENT, VIP, SERVER, CLIENT)), "a virtual address translated to a server");
        assert!(!scope.has(&between(CLIENT, VIP, VIP, CLIENT)), "a client of this host's own service");
        assert!(!scope.has(&between(CLIENT, SERVER, SERVER, "10.2.0.1")), "translated to what stays here");
        assert!(!scope.has(&between("10.1.0.1", SERVER, SERVER, "10.2.0.100")), "this host's own");
        assert!(!scope.has(&between(CLIENT, "10.1.0.1", "10.1.0.1", CLIENT)), "somebody at this host");
        assert!(!scope.has(&between("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1")));
        assert!(!scope.has(&between("10.1.0.2", "10.1.0.3", "10.1.0.3", "10.1.0.2")), "among the members");
        assert!(scope.has(&between("10.1.0.3", SERVER, SERVER, "10.1.0.3")), "a member as a client");
        assert!(!scope.has(&between(CLIENT, "224.0.0.5", "224.0.0.5", CLIENT)));
        assert!(!scope.has(&between(CLIENT, "169.254.169.254", "169.254.169.254", CLIENT)));
    }

    #[test]
    fn what_is_not_answered_yet_or_cannot_be_carried_is_left() {
        let scope = scope();
        let flow = tcp(1);
        assert!(scope.has(&flow));
        let with = |status| holdfast_vip::conntrack::Flow { status, ..flow };
        assert!(!scope.has(&with(holdfast_vip::conntrack::flow::CONFIRMED)));
        assert!(!scope.has(&with(flow.status | holdfast_vip::conntrack::flow::SEQ_ADJUST)));
        assert!(!scope.has(&with(flow.status | holdfast_vip::conntrack::flow::DYING)));
    }
}
