//! The virtual addresses: whether the interface is fit, who has them, who learned of an announcement, and
//! whether the service answers there.
//!
//! An announcement is proven from elsewhere: the holder announces, and another member says that it heard the
//! holder's hardware address say so to everybody, and when. That somebody answers a question proves less: the
//! answer goes to the asker alone, by ways that a switch may leave open where it stops announcements.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use holdfast_heartbeat::{AddressTestimony, Time};
use holdfast_vip::MacAddr;

use super::super::Finding;
use super::super::observe::{self, Seen};
use super::{Evidence, Told};

/// What the way of a testimony may hide of when something was heard.
const BLUR: Duration = Duration::from_millis(50);

pub(super) fn judge(evidence: &Evidence<'_>, out: &mut Vec<Finding>) {
    if !evidence.is_data() {
        return;
    }
    for seen in &evidence.own {
        let address = Address::new(evidence, seen);
        out.push(address.interface());
        out.push(address.holder());
        address.learned(out);
        address.service(out);
    }
}

/// Somebody who looked at the address.
struct Witness<'w> {
    /// Who.
    id: &'w str,
    here: bool,
    up: bool,
    mac: Option<MacAddr>,
    /// Who answered it; none where it could not ask.
    holders: Option<Vec<MacAddr>>,
    /// Who said to everybody that it has the address, and when by this host's clock.
    claims: Vec<(MacAddr, Time)>,
    /// When it announced the address for this check.
    announced: Option<Time>,
    service: Option<bool>,
}

/// All that is known of one virtual address.
struct Address<'a> {
    evidence: &'a Evidence<'a>,
    seen: &'a Seen,
    ip: IpAddr,
    /// This member first.
    witnesses: Vec<Witness<'a>>,
}

impl<'a> Address<'a> {
    fn new(evidence: &'a Evidence<'a>, seen: &'a Seen) -> Address<'a> {
        let ip = seen.spec.ip();
        let own = Witness {
            id: &evidence.status.node,
            here: seen.here,
            up: seen.link.as_ref().is_some_and(|link| link.up),
            mac: seen.link.as_ref().map(|link| link.mac),
            holders: seen.holders.as_ref().ok().cloned(),
            claims: seen.claims.iter().map(|claim| (claim.mac, Time(claim.at))).collect(),
            announced: evidence.announced,
            service: seen.service.as_ref().map(Result::is_ok),
        };
        let peers = evidence.testimonies().filter_map(|(id, told)| {
            let of_it = told.testimony.addresses.iter().find(|address| address.address == ip)?;
            Some(testified(id, told, of_it))
        });
        let witnesses = std::iter::once(own).chain(peers).collect();
        Address { evidence, seen, ip, witnesses }
    }

    fn holder_of(&self) -> Option<&Witness<'a>> {
        self.witnesses.iter().find(|witness| witness.here)
    }

    /// A station by the member's name, if it is one of them.
    fn station(&self, mac: MacAddr) -> String {
        match self.witnesses.iter().find(|witness| witness.mac == Some(mac)) {
            Some(witness) => format!("{mac} ({})", witness.id),
            None => format!("{mac} (no member of this cluster)"),
        }
    }

    fn interface(&self) -> Finding {
        let (name, interface) = (format!("interface of {}", self.ip), &self.seen.spec.interface);
        let Some(link) = &self.seen.link else {
            return Finding::fail(name, format!("there is no interface {interface} on this host"))
                .means("this member cannot take the address")
                .advice("ip -br link; then correct `interface` in the virtual_ip block");
        };
        if !link.up {
            return Finding::fail(name, format!("{interface} is down, or has no carrier"))
                .means("this member cannot take the address")
                .advice(format!("ip link set {interface} up; check the cable"));
        }
        let own = link
            .addresses
            .iter()
            .find(|net| net.prefix_len() < net.max_prefix_len() && net.contains(&self.ip));
        match own {
            Some(net) => {
                Finding::ok(name, format!("{interface} is up and has {net}, in the address's network"))
            }
            None => Finding::warn(
                name,
                format!(
                    "{interface} is up and has no address of its own in the network of {}",
                    self.seen.spec.address
                ),
            )
            .means(
                "clients of that network reach the address, and this host cannot answer them without a route",
            )
            .advice(format!("give {interface} an address in {}", self.seen.spec.address.trunc())),
        }
    }

    /// Everybody who answers for the address or announced it since the check began, and who says so.
    fn stations(&self) -> BTreeMap<[u8; 6], Vec<&str>> {
        let mut stations: BTreeMap<[u8; 6], Vec<&str>> = BTreeMap::new();
        let mut note = |mac: MacAddr, by: &'a str| {
            let seen_by = stations.entry(mac.octets()).or_default();
            if !seen_by.contains(&by) {
                seen_by.push(by);
            }
        };
        let began = self.witnesses.iter().filter_map(|witness| witness.announced).min();
        for witness in &self.witnesses {
            if let (true, Some(mac)) = (witness.here, witness.mac) {
                note(mac, witness.id);
            }
            for mac in witness.holders.iter().flatten() {
                note(*mac, witness.id);
            }
            for (mac, at) in &witness.claims {
                if began.is_some_and(|began| *at + BLUR >= began) {
                    note(*mac, witness.id);
                }
            }
        }
        stations
    }

    fn holder(&self) -> Finding {
        let name = format!("holder of {}", self.ip);
        let stations = self.stations();
        let list = stations.iter().map(|(mac, by)| {
            format!(
                "{}, as {} {}",
                self.station(MacAddr::from(*mac)),
                by.join(" and "),
                if by.len() == 1 { "sees" } else { "see" }
            )
        });
        let list = list.collect::<Vec<_>>().join("; ");
        if stations.len() > 1 {
            return Finding::fail(name, format!("{} stations answer for it: {list}", stations.len()))
                .means("clients reach now the one, now the other; what the wrong one takes is lost")
                .advice(format!("find the other host (ip neigh; the switch's table of addresses) and take {} off it: ip addr del {0}/PREFIX dev INTERFACE", self.ip));
        }
        match (self.holder_of(), stations.keys().next()) {
            (Some(holder), Some(_)) => {
                Finding::ok(name, format!("{}: {list}, and nobody else answers", holder.id))
            }
            (Some(holder), None) => Finding::ok(name, format!("{}, and nobody else answers", holder.id)),
            (None, Some(_)) => Finding::fail(name, format!("no member has it, and somebody answers: {list}"))
                .means("nobody takes the address over while it is in use elsewhere")
                .advice(format!("find that host and take {} off it", self.ip)),
            (None, None) if self.evidence.status.primary.is_some() => {
                Finding::fail(name, "there is a primary, and no member that answered has the address")
                    .advice("holdfast ha history, on the primary, says what the claim ran into")
            }
            (None, None) => Finding::ok(name, "nobody has it, and nobody answers: it is free"),
        }
    }

    /// For each other data member: did it hear the announcement?
    fn learned(&self, out: &mut Vec<Finding>) {
        let Some(holder) = self.holder_of() else { return };
        let name = |witness: &Witness<'_>| format!("announcement of {} to {}", self.ip, witness.id);
        let others = self.witnesses.iter().filter(|witness| witness.id != holder.id);
        let (Some(mac), Some(announced)) = (holder.mac, holder.announced) else {
            out.extend(others.map(|witness| {
                Finding::fail(
                    name(witness),
                    format!("{} did not announce the address when asked to", holder.id),
                )
                .advice("holdfast ha check, on the primary")
            }));
            return;
        };
        for witness in others {
            if !self.seen.spec.gratuitous_arp {
                out.push(
                    Finding::warn(name(witness), "announcements are switched off (gratuitous_arp = false)").means(
                        "after a takeover, hosts on the network keep the former primary's hardware address until they ask again",
                    ),
                );
                continue;
            }
            out.push(self.heard(name(witness), holder, mac, announced, witness));
        }
        for (peer, told) in self.evidence.status.peers.iter().zip(&self.evidence.told) {
            if told.is_none() && peer.kind == "data" {
                out.push(
                    Finding::fail(
                        format!("announcement of {} to {}", self.ip, peer.id),
                        format!("{} did not say what it heard", peer.id),
                    )
                    .means("whether the network lets announcements through is not known")
                    .advice(format!("on {}: systemctl status holdfast", peer.id)),
                );
            }
        }
    }

    fn heard(
        &self,
        name: String,
        holder: &Witness<'_>,
        mac: MacAddr,
        announced: Time,
        witness: &Witness<'_>,
    ) -> Finding {
        let of_it = witness.claims.iter().filter(|(heard, at)| *heard == mac && *at + BLUR >= announced);
        if let Some((_, at)) = of_it.max_by_key(|(_, at)| *at) {
            let after = at.since(announced);
            return Finding::ok(
                name,
                format!(
                    "{} learned {} is at {mac}: the announcement of {} was heard by {} within {:.1} ms",
                    witness.id,
                    self.ip,
                    holder.id,
                    witness.id,
                    after.as_secs_f64() * 1e3
                ),
            );
        }
        if !witness.up {
            return Finding::fail(name, format!("the interface of {} is down there", witness.id))
                .advice(format!("on {}: ip -br link", witness.id));
        }
        let answered = witness.holders.as_ref().is_some_and(|holders| holders.contains(&mac));
        let network = if self.ip.is_ipv4() { "broadcasts" } else { "multicasts" };
        if answered {
            return Finding::fail(name, format!(
                "{0} heard no announcement of {1}, though {1} answers when {0} asks",
                witness.id, holder.id
            ))
            .means(format!("something stops {network} on the way: after a takeover, clients on that side keep the former primary's hardware address until they ask again"))
            .advice(format!(
                "look at the switch port of {}: broadcast or multicast limits, ARP inspection, a filter of gratuitous ARP, a VLAN that is not the same",
                witness.id
            ));
        }
        Finding::fail(
            name,
            format!(
                "{0} heard no announcement of {1}, and nobody answered when {0} asked who has {2}",
                witness.id, holder.id, self.ip
            ),
        )
        .means(format!(
            "{} and {} are not on one network there: the address would not move to where the clients are",
            holder.id, witness.id
        ))
        .advice(format!(
            "compare VLAN, switch port and `interface` of the virtual_ip block on {} and {}",
            holder.id, witness.id
        ))
    }

    fn service(&self, out: &mut Vec<Finding>) {
        let Some(holder) = self.holder_of() else { return };
        let name = format!("S3 at {}", self.ip);
        if let (None, Some(listen)) = (&self.seen.service, observe::service(self.evidence.config)) {
            out.push(
                Finding::warn(
                    name,
                    format!("S3 listens on {listen}, where no client of {} gets to", self.ip),
                )
                .advice(format!("store {{ listen = \"[::]:{}\" }}, which takes IPv4 too", listen.port())),
            );
        } else if let Some(tried) = &self.seen.service {
            out.push(match tried {
                Ok(after) => Finding::ok(
                    name,
                    format!("takes a connection from this host after {:.1} ms", after.as_secs_f64() * 1e3),
                ),
                Err(error) => Finding::fail(name, format!("takes no connection from this host: {error}"))
                    .means("clients on this side cannot reach the store")
                    .advice(format!("on {}: holdfast ha status; ss -ltn", holder.id)),
            });
        }
        for witness in self.witnesses.iter().skip(1) {
            let name = format!("S3 at {} from {}", self.ip, witness.id);
            match witness.service {
                Some(true) => out.push(Finding::ok(name, format!("takes a connection from {}", witness.id))),
                Some(false) => out.push(
                    Finding::fail(name, format!("takes no connection from {}", witness.id))
                        .means("clients on that side cannot reach the store")
                        .advice(format!(
                            "on {}: ip neigh; a firewall or a switch between the two?",
                            witness.id
                        )),
                ),
                None => {}
            }
        }
    }
}

fn testified<'w>(id: &'w str, told: &Told, address: &AddressTestimony) -> Witness<'w> {
    let at = |us_ago: u64| told.at - Duration::from_micros(us_ago);
    Witness {
        id,
        here: address.here,
        up: address.up,
        mac: address.mac.map(MacAddr::from),
        holders: address.asked.then(|| address.holders.iter().copied().map(MacAddr::from).collect()),
        claims: address.claims.iter().map(|claim| (MacAddr::from(claim.mac), at(claim.us_ago))).collect(),
        announced: told.testimony.announced_us_ago.map(at),
        service: address.service,
    }
}
