//! What an interface is at this moment. Asked anew each time: an interface that was deleted and made
//! again has the same name and another index.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use pnet::util::MacAddr;

use crate::error::VipError;
use crate::spec::VipSpec;

/// One interface, as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mac: MacAddr,
    /// Up, and with a carrier.
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) ethernet: bool,
    /// Its addresses with their prefixes.
    pub(crate) addresses: Vec<IpNet>,
}

/// What people want to know of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// Its hardware address.
    pub mac: MacAddr,
    /// Up, and with a carrier.
    pub up: bool,
    /// Its addresses with their prefixes.
    pub addresses: Vec<IpNet>,
}

/// What `interface` is now.
///
/// # Errors
/// [`VipError::NoSuchInterface`], or [`VipError::Io`] where interfaces cannot be listed.
pub fn view(interface: &str) -> Result<LinkView, VipError> {
    let Link { mac, up, addresses, .. } = link(interface)?;
    Ok(LinkView { mac, up, addresses })
}

/// The interfaces that can carry a virtual address, Ethernet ones that are up and have a carrier, by name, with what each
/// is now.
///
/// # Errors
/// [`VipError::Io`] where interfaces cannot be listed.
pub fn usable() -> Result<Vec<(String, LinkView)>, VipError> {
    let entries = getifaddrs().map_err(|e| VipError::io("list the interfaces")(e.into()))?;
    let mut names: Vec<String> = entries.map(|entry| entry.interface_name).collect();
    names.sort();
    names.dedup();
    // One that goes away between the two looks is not usable.
    let found = names.into_iter().filter_map(|name| link(&name).ok().map(|link| (name, link)));
    let fit = found.filter(|(_, link)| link.ethernet && link.up && !link.loopback);
    Ok(fit.map(|(name, Link { mac, up, addresses, .. })| (name, LinkView { mac, up, addresses })).collect())
}

/// Looks `interface` up in the calling thread's network namespace.
pub(crate) fn link(interface: &str) -> Result<Link, VipError> {
    let entries = getifaddrs().map_err(|e| VipError::io("list the interfaces")(e.into()))?;
    let mut found: Option<Link> = None;
    let mut addresses = Vec::new();
    for entry in entries.filter(|e| e.interface_name == interface) {
        let Some(address) = entry.address else { continue };
        if let Some(hardware) = address.as_link_addr() {
            let flags = entry.flags;
            found = Some(Link {
                index: hardware.ifindex() as u32,
                mac: MacAddr::from(hardware.addr().unwrap_or_default()),
                up: flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
                loopback: flags.contains(InterfaceFlags::IFF_LOOPBACK),
                ethernet: hardware.hatype() == libc::ARPHRD_ETHER,
                addresses: Vec::new(),
            });
        } else if let Some(ip) = ip_of(&address) {
            let mask = entry.netmask.as_ref().and_then(ip_of);
            let network = match mask {
                Some(mask) => IpNet::with_netmask(ip, mask).unwrap_or_else(|_| IpNet::from(ip)),
                None => IpNet::from(ip),
            };
            addresses.push(network);
        }
    }
    let missing = || VipError::NoSuchInterface { interface: interface.to_owned() };
    Ok(Link { addresses, ..found.ok_or_else(missing)? })
}

/// Interfaces as they are at one moment, each looked up once.
#[derive(Default)]
pub(crate) struct Links(HashMap<String, Link>);

impl Links {
    pub(crate) fn of(&mut self, spec: &VipSpec) -> Result<&Link, VipError> {
        if !self.0.contains_key(&spec.interface) {
            self.0.insert(spec.interface.clone(), link(&spec.interface)?);
        }
        Ok(&self.0[&spec.interface])
    }
}

/// The hardware addresses of this host. One of its interfaces may hear or answer what another one sent.
pub(crate) fn own_macs() -> Result<Vec<MacAddr>, VipError> {
    let entries = getifaddrs().map_err(|e| VipError::io("list the interfaces")(e.into()))?;
    let mac =
        |entry: nix::ifaddrs::InterfaceAddress| entry.address?.as_link_addr()?.addr().map(MacAddr::from);
    Ok(entries.filter_map(mac).filter(|mac| !mac.is_zero()).collect())
}

fn ip_of(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(v4.ip().into());
    }
    address.as_sockaddr_in6().map(|v6| v6.ip().into())
}

/// The index of an interface, or `None` where there is none of that name.
pub(crate) fn index_of(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// The hardware address of an interface.
///
/// # Errors
/// [`VipError::NoSuchInterface`], or [`VipError::Io`] where interfaces cannot be listed.
pub fn mac_of(interface: &str) -> Result<MacAddr, VipError> {
    Ok(link(interface)?.mac)
}

/// Whether an interface is up and has a carrier; one that does not exist is not up.
pub fn link_up(interface: &str) -> bool {
    link(interface).is_ok_and(|link| link.up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_interface_is_not_up_and_has_no_mac() {
        assert!(!link_up("no-such-link"));
        assert!(matches!(mac_of("no-such-link"), Err(VipError::NoSuchInterface { .. })));
        assert_eq!(index_of("no-such-link"), None);
    }
}
