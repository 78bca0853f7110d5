//! From the addresses that are to the addresses that should be: pure, without a kernel.
//!
//! A virtual address stands *beside* the interface's own address of the same subnet, as a /32 (or
//! /128) without a route of its own: so it can come and go without touching the subnet's route, and
//! it is never the "primary" address whose removal would take its secondaries along.
//!
//! Where the interface has no own address in the VIP's subnet, a /32 alone would leave the subnet
//! unreachable: answers to clients there would have no route. Then, and only if a prefix was given, the
//! VIP is added with its prefix and the route that belongs to it. (An address of the same subnet that
//! somebody adds later becomes the VIP's secondary in that case, and goes with it unless the
//! interface's `promote_secondaries` is set. Give the interface an own address first.)
//!
//! An address that is present keeps the form it has: a refresh never changes how it is routed. All
//! other copies of it (another prefix length, left by hand) are removed, because those have no
//! lifetime and would outlive the lease. One that the kernel does not use, because another program added it
//! with duplicate address detection, is removed first and added anew.
//!
//! Invariants: a plan to hold never removes an address that is not a VIP, and leaves each VIP whose
//! interface exists present once; a plan to release leaves none.

use std::net::IpAddr;

use pnet::util::MacAddr;

use crate::spec::VipSpec;

/// An interface as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its name.
    pub name: String,
    /// Its index at this moment.
    pub index: u32,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Its hardware address; `None` where it has none of six bytes.
    pub mac: Option<MacAddr>,
}

/// An address as observed on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedAddress {
    /// Index of the interface.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length in bits.
    pub prefix_len: u8,
    /// Whether the kernel does not use it, because a duplicate was or is being looked for. A refresh leaves
    /// it like that; only adding it anew does not.
    pub unusable: bool,
}

/// One change to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add the address with a fresh lifetime, or give it one if it is there.
    Hold {
        /// Index of the interface.
        index: u32,
        /// The address.
        ip: IpAddr,
        /// Its prefix length in bits.
        prefix_len: u8,
        /// Whether the subnet's route comes with it.
        prefix_route: bool,
    },
    /// Remove the address.
    Remove(ObservedAddress),
}

/// Bits of a whole address of the same family.
fn full_len(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The interface of `spec`, if it exists.
pub fn link_of<'a>(spec: &VipSpec, links: &'a [ObservedLink]) -> Option<&'a ObservedLink> {
    links.iter().find(|link| link.name == spec.interface)
}

/// The copies of `spec`'s address on its interface.
pub fn present<'a>(
    spec: &'a VipSpec,
    index: u32,
    addresses: &'a [ObservedAddress],
) -> impl Iterator<Item = &'a ObservedAddress> {
    addresses.iter().filter(move |a| a.index == index && a.ip == spec.ip())
}

/// The prefix length with which a VIP that is absent is added.
fn desired_len(spec: &VipSpec, index: u32, specs: &[VipSpec], addresses: &[ObservedAddress]) -> u8 {
    let full = full_len(spec.ip());
    let is_vip = |a: &ObservedAddress| specs.iter().any(|s| s.ip() == a.ip);
    let shares_subnet =
        |a: &ObservedAddress| ipnet::IpNet::new(a.ip, a.prefix_len).is_ok_and(|net| net.contains(&spec.ip()));
    let beside = addresses
        .iter()
        .any(|a| a.index == index && a.prefix_len < full_len(a.ip) && !is_vip(a) && shares_subnet(a));
    if beside { full } else { spec.address.prefix_len() }
}

/// The steps that make `spec` present on `link`, once and with a fresh lifetime. `specs` are all VIPs:
/// none of them counts as the interface's own address.
pub fn hold(
    spec: &VipSpec,
    link: &ObservedLink,
    specs: &[VipSpec],
    addresses: &[ObservedAddress],
) -> Vec<Step> {
    let copies: Vec<&ObservedAddress> = present(spec, link.index, addresses).collect();
    let desired = desired_len(spec, link.index, specs, addresses);
    let usable = || copies.iter().filter(|a| !a.unusable);
    let keep = match usable().find(|a| a.prefix_len == desired).or(usable().next()) {
        Some(copy) => copy.prefix_len,
        None => desired,
    };
    let hold = Step::Hold {
        index: link.index,
        ip: spec.ip(),
        prefix_len: keep,
        prefix_route: keep < full_len(spec.ip()),
    };
    let unusable = copies.iter().filter(|a| a.unusable).map(|a| Step::Remove(**a));
    let extra = copies.iter().filter(|a| !a.unusable && a.prefix_len != keep).map(|a| Step::Remove(**a));
    unusable.chain(std::iter::once(hold)).chain(extra).collect()
}

/// The steps that remove every copy of every VIP.
pub fn release(specs: &[VipSpec], links: &[ObservedLink], addresses: &[ObservedAddress]) -> Vec<Step> {
    let mut steps = Vec::new();
    for spec in specs {
        let Some(link) = link_of(spec, links) else { continue };
        for copy in present(spec, link.index, addresses) {
            let step = Step::Remove(*copy);
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ETH: u32 = 4;

    fn spec(address: &str) -> VipSpec {
        VipSpec::new(address.parse().unwrap(), "eth1")
    }

    fn eth1() -> ObservedLink {
        ObservedLink { name: "eth1".into(), index: ETH, up: true, mac: None }
    }

    fn at(address: &str) -> ObservedAddress {
        let net: ipnet::IpNet = address.parse().unwrap();
        ObservedAddress { index: ETH, ip: net.addr(), prefix_len: net.prefix_len(), unusable: false }
    }

    fn held(address: &str, prefix_route: bool) -> Step {
        let ObservedAddress { index, ip, prefix_len, .. } = at(address);
        Step::Hold { index, ip, prefix_len, prefix_route }
    }

    fn plan(vip: &str, there: &[&str]) -> Vec<Step> {
        let there: Vec<_> = there.iter().map(|a| at(a)).collect();
        hold(&spec(vip), &eth1(), &[spec(vip)], &there)
    }

    #[test]
    fn beside_an_own_address_the_vip_has_no_route() {
        assert_eq!(plan("10.0.0.100/24", &["10.0.0.1/24"]), [held("10.0.0.100/32", false)]);
        assert_eq!(plan("2001:db8::64/64", &["2001:db8::1/64"]), [held("2001:db8::64/128", false)]);
    }

    #[test]
    fn without_an_own_address_the_vip_brings_the_subnet() {
        assert_eq!(plan("10.0.0.100/24", &[]), [held("10.0.0.100/24", true)]);
        assert_eq!(plan("10.0.0.100/24", &["192.168.7.1/24"]), [held("10.0.0.100/24", true)]);
        assert_eq!(plan("2001:db8::64/64", &["fe80::1/64"]), [held("2001:db8::64/64", true)]);
        assert_eq!(plan("10.0.0.100/32", &[]), [held("10.0.0.100/32", false)]);
    }

    #[test]
    fn another_vip_is_not_an_own_address() {
        let specs = [spec("10.0.0.100/24"), spec("10.0.0.101/24")];
        let steps = hold(&specs[1], &eth1(), &specs, &[at("10.0.0.100/24")]);
        assert_eq!(steps, [held("10.0.0.101/24", true)]);
    }

    #[test]
    fn an_address_on_another_interface_does_not_count() {
        let elsewhere = ObservedAddress { index: ETH + 1, ..at("10.0.0.1/24") };
        let vip = spec("10.0.0.100/24");
        let steps = hold(&vip, &eth1(), std::slice::from_ref(&vip), &[elsewhere]);
        assert_eq!(steps, [held("10.0.0.100/24", true)]);
    }

    #[test]
    fn a_refresh_keeps_the_form_that_is_there() {
        assert_eq!(plan("10.0.0.100/24", &["10.0.0.100/24", "10.0.0.1/24"]), [held("10.0.0.100/24", true)]);
        assert_eq!(plan("10.0.0.100/24", &["10.0.0.100/32"]), [held("10.0.0.100/32", false)]);
    }

    #[test]
    fn a_copy_left_by_hand_is_removed_after_the_vip_is_held() {
        assert_eq!(
            plan("10.0.0.100/24", &["10.0.0.1/24", "10.0.0.100/24", "10.0.0.100/32"]),
            [held("10.0.0.100/32", false), Step::Remove(at("10.0.0.100/24"))]
        );
    }

    #[test]
    fn an_address_that_the_kernel_does_not_use_is_added_anew() {
        let failed = ObservedAddress { unusable: true, ..at("fd00::64/128") };
        let vip = spec("fd00::64/64");
        let steps = hold(&vip, &eth1(), std::slice::from_ref(&vip), &[at("fd00::1/64"), failed]);
        assert_eq!(steps, [Step::Remove(failed), held("fd00::64/128", false)]);
    }

    #[test]
    fn release_removes_each_copy_once_and_nothing_else() {
        let specs = [spec("10.0.0.100/24"), spec("10.0.0.100/32"), spec("2001:db8::64/64")];
        let there = [at("10.0.0.1/24"), at("10.0.0.100/32"), at("10.0.0.100/24"), at("2001:db8::64/128")];
        assert_eq!(
            release(&specs, &[eth1()], &there),
            [Step::Remove(there[1]), Step::Remove(there[2]), Step::Remove(there[3])]
        );
        assert_eq!(release(&specs, &[], &there), []);
    }

    /// What the kernel would do.
    fn apply(steps: &[Step], addresses: &mut Vec<ObservedAddress>) {
        for step in steps {
            match *step {
                Step::Hold { index, ip, prefix_len, .. } => {
                    let address = ObservedAddress { index, ip, prefix_len, unusable: false };
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                Step::Remove(address) => addresses.retain(|a| *a != address),
            }
        }
    }

    proptest! {
        #[test]
        fn holding_and_releasing_only_ever_touch_the_vips(
            there in proptest::collection::vec((0u8..8, 24u8..=32, 4u32..6, any::<bool>()), 0..8),
            vips in proptest::collection::vec((0u8..8, 24u8..=32), 1..4),
        ) {
            let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
            let before: Vec<_> = there
                .iter()
                .map(|&(last, prefix_len, index, unusable)| ObservedAddress { index, ip: ip(last), prefix_len, unusable })
                .collect();
            let specs: Vec<_> = vips.iter().map(|(last, len)| spec(&format!("10.0.0.{last}/{len}"))).collect();
            let foreign = |a: &&ObservedAddress| a.index != ETH || !specs.iter().any(|s| s.ip() == a.ip);

            let mut now = before.clone();
            for vip in &specs {
                let steps = hold(vip, &eth1(), &specs, &now);
                apply(&steps, &mut now);
                prop_assert!(present(vip, ETH, &now).all(|a| !a.unusable));
                prop_assert_eq!(present(vip, ETH, &now).map(|a| a.prefix_len).collect::<std::collections::HashSet<_>>().len(), 1);
            }
            prop_assert!(before.iter().filter(foreign).all(|a| now.contains(a)));

            apply(&release(&specs, &[eth1()], &now), &mut now);
            prop_assert!(specs.iter().all(|vip| present(vip, ETH, &now).count() == 0));
            prop_assert!(before.iter().filter(foreign).all(|a| now.contains(a)));
        }
    }
}
