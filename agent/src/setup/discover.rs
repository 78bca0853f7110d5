//! What this host has: its name, its networks, its way out, and whether a member lives here already.
//!
//! Looks, and changes nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use holdfast_vip::usable_links;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::plan;

/// An interface that can carry a virtual address, with the addresses that others reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses with the prefixes of their networks, IPv4 first.
    pub addresses: Vec<IpNet>,
}

/// The way out of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WayOut {
    /// The interface.
    pub interface: String,
    /// The gateway.
    pub gateway: IpAddr,
}

/// What a host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// A name for its member; none where its own says nothing.
    pub name: Option<String>,
    /// The interfaces that come into question.
    pub interfaces: Vec<Interface>,
    /// Where its packets to the rest of the world go.
    pub way_out: Option<WayOut>,
}

/// Looks at this host.
///
/// # Errors
/// Its interfaces cannot be listed.
pub(super) fn look() -> Result<Found> {
    let of_link = |(name, link): (String, holdfast_vip::LinkView)| {
        let mut addresses: Vec<IpNet> = link.addresses.into_iter().filter(is_reachable).collect();
        addresses.sort_by_key(|address| address.addr().is_ipv6());
        (!addresses.is_empty()).then_some(Interface { name, addresses })
    };
    let interfaces = usable_links()?.into_iter().filter_map(of_link).collect();
    let hostname = nix::unistd::gethostname().context("ask for this host's name")?;
    // Where there is no such file there is no IPv4, and no such way out.
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    Ok(Found {
        name: plan::name_of_host(&hostname.to_string_lossy()),
        interfaces,
        way_out: default_route(&routes),
    })
}

/// Whether others can reach it, and it has a network: neither of this link or host alone, nor an address by itself, as
/// the virtual ones of another cluster are.
fn is_reachable(address: &IpNet) -> bool {
    let scoped = match address.addr() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !scoped && !address.addr().is_loopback() && address.prefix_len() < address.max_prefix_len()
}

/// The default route with the smallest metric of the kernel's list (`/proc/net/route`).
fn default_route(list: &str) -> Option<WayOut> {
    let route = |line: &str| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?.to_owned();
        let mut number = || u32::from_str_radix(fields.next()?, 16).ok();
        let (to, gateway, _flags) = (number()?, number()?, number()?);
        // References and uses come between.
        let metric: u32 = fields.nth(2)?.parse().ok()?;
        let mask = u32::from_str_radix(fields.next()?, 16).ok()?;
        // The kernel prints the bytes of the packet as a number of this machine.
        let gateway = IpAddr::from(Ipv4Addr::from(gateway.to_ne_bytes()));
        (to == 0 && mask == 0 && !gateway.is_unspecified()).then_some((metric, WayOut { interface, gateway }))
    };
    let routes = list.lines().skip(1).filter_map(route);
    routes.min_by_key(|(metric, _)| *metric).map(|(_, way_out)| way_out)
}

/// The interface on which an address with that network is, and the address.
pub(super) fn interface_towards(interfaces: &[Interface], ip: IpAddr) -> Option<(&Interface, IpNet)> {
    interface_where(interfaces, |own| own.contains(&ip))
}

/// The interface that has this address for its own.
pub(super) fn interface_with(interfaces: &[Interface], ip: IpAddr) -> Option<(&Interface, IpNet)> {
    interface_where(interfaces, |own| own.addr() == ip)
}

fn interface_where(interfaces: &[Interface], fits: impl Fn(&IpNet) -> bool) -> Option<(&Interface, IpNet)> {
    let address = |interface: &Interface| interface.addresses.iter().copied().find(&fits);
    interfaces.iter().find_map(|interface| address(interface).map(|own| (interface, own)))
}

/// All addresses of this host that come into question, for a person.
pub(super) fn in_words(interfaces: &[Interface]) -> String {
    let of = |interface: &Interface| {
        let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
        format!("{} ({})", interface.name, addresses.join(", "))
    };
    match interfaces {
        [] => "none".to_owned(),
        some => some.iter().map(of).collect::<Vec<_>>().join(", "),
    }
}

/// Refuses a host in whose directories a member left its state: what it promised and stored belongs to some cluster.
///
/// # Errors
/// There is one, or it cannot be found out.
pub(super) fn no_member_in(state_dir: &Path, data_dir: Option<&Path>) -> Result<()> {
    let traces = [Some(state_dir.join("member.json")), data_dir.map(|dir| dir.join("incarnation"))];
    for trace in traces.into_iter().flatten() {
        let there = trace.try_exists().with_context(|| format!("look for {}", trace.display()))?;
        if there {
            let dir = trace.parent().map(PathBuf::from).unwrap_or_default();
            bail!(
                "a member of a cluster left its state in {0}, and a new one does not take that over. Nothing was changed. If nobody needs it any more: rm -r {0}; else choose another place with --state-dir and --data-dir",
                dir.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_is_the_default_route_with_the_smallest_metric() {
        let number = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let line = |interface: &str, to, gateway, metric: u32, mask| {
            let (to, gateway, mask) = (number(to), number(gateway), number(mask));
            format!("{interface}\t{to}\t{gateway}\t0003\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        };
        let (none, gateway) = ([0; 4], [10, 0, 0, 254]);
        let list = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                .to_owned(),
            line("wlan0", none, [192, 168, 1, 1], 600, none),
            line("eth0", none, gateway, 100, none),
            line("tun0", none, none, 0, none),
            line("eth1", [10, 1, 0, 0], [10, 0, 0, 9], 0, [255, 255, 0, 0]),
        ];
        let found = default_route(&list.concat());
        assert_eq!(found, Some(WayOut { interface: "eth0".to_owned(), gateway: gateway.into() }));
        assert_eq!(default_route(""), None);
        assert_eq!(default_route("Iface\nrubbish\neth0\tx\n"), None);
    }

    #[test]
    fn only_addresses_that_others_reach_come_into_question() {
        let of = |text: &str| is_reachable(&text.parse().unwrap());
        assert!(of("10.0.0.1/24") && of("fd77::1/64") && of("2001:db8::1/64"));
        for own in
            ["127.0.0.1/8", "169.254.3.4/16", "fe80::1/64", "::1/128", "10.0.0.100/32", "fd77::100/128"]
        {
            assert!(!of(own), "{own}");
        }
    }

    #[test]
    fn a_host_with_a_members_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (state, data) = (dir.path().join("state"), dir.path().join("data"));
        no_member_in(&state, Some(&data)).unwrap();
        for (place, file) in [(&state, "member.json"), (&data, "incarnation")] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join(file), "x").unwrap();
            let error = no_member_in(&state, Some(&data)).unwrap_err().to_string();
            assert!(error.contains(&place.display().to_string()), "{error}");
            std::fs::remove_file(place.join(file)).unwrap();
        }
    }
}
