//! Whether two hosts ever answered for the virtual address at once, seen from third hosts.
//!
//! Two kinds of evidence. By ARP: one tap asks again and again who has the address, and writes down which
//! hardware addresses answer. By service: one tap per data member sends its requests for the address to that
//! member's hardware address, whatever anybody announces, and writes down when it is served. The first shows
//! who claims the address, the second who would take a client's write.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ipnet::{IpNet, Ipv4Net};
use pnet::datalink::{self, Channel, Config};
use pnet::packet::Packet;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::util::MacAddr;

use super::cluster::Cluster;
use super::prober::{ProbeTarget, Prober};
use super::settings::LAN;
use super::world::{Mac, Tap};

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// One answer for the virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The host that answered.
    pub host: String,
    /// When the question was put, or the answer came where no question is known.
    pub began: Instant,
    /// When the answer was there.
    pub ended: Instant,
}

/// Two hosts that answered at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Who answered before and after.
    pub host: String,
    /// Who answered in between.
    pub intruder: String,
    /// From the first answer of the intruder to the last question that the other still answered.
    pub duration: Duration,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Who claimed the address, by ARP.
    pub claims: Vec<Answer>,
    /// Who served on the address.
    pub services: Vec<Answer>,
}

impl Evidence {
    /// The claims that overlapped; `window` as in [`overlaps`].
    pub fn twin_claims(&self, window: Duration) -> Vec<Overlap> {
        overlaps(&self.claims, window)
    }

    /// The services that overlapped; `window` as in [`overlaps`].
    pub fn twin_services(&self, window: Duration) -> Vec<Overlap> {
        overlaps(&self.services, window)
    }
}

/// Finds, in `answers` ordered by their ends, where a host still answered a question that was put after
/// another host had answered. A return of the address after more than `window` is a failback, not a twin.
pub fn overlaps(answers: &[Answer], window: Duration) -> Vec<Overlap> {
    let mut found = Vec::new();
    let mut runs: Vec<(&str, Instant, Instant)> = Vec::new();
    for answer in answers {
        match runs.last_mut() {
            Some((host, _, last)) if *host == answer.host => *last = answer.began.max(*last),
            _ => runs.push((&answer.host, answer.ended, answer.began)),
        }
    }
    for (n, run) in runs.iter().enumerate().skip(1) {
        let (intruder, intruded, _) = *run;
        // The last question that anybody else answered soon after the intruder's first answer.
        let others = runs[n + 1..].iter().filter(|(host, ended, _)| {
            *host != intruder && *ended < intruded + window && runs[..n].iter().any(|(h, _, _)| h == host)
        });
        let last = others.map(|(host, _, last)| (*host, *last)).max_by_key(|(_, last)| *last);
        if let Some((host, last)) = last.filter(|(_, last)| *last > intruded) {
            let duration = last - intruded;
            found.push(Overlap { host: host.to_owned(), intruder: intruder.to_owned(), duration });
        }
    }
    found
}

/// Which hardware address claimed the virtual address, and when.
type Claims = Vec<(Mac, Instant)>;

/// Watchers at work.
pub struct Twins {
    stop: Arc<AtomicBool>,
    names: Vec<(String, Mac)>,
    claims: JoinHandle<Result<Result<Claims>>>,
    services: Vec<(String, Prober)>,
    _taps: Vec<Tap>,
}

impl Twins {
    /// Hangs taps on the cluster's network and starts to watch.
    pub fn watch(cluster: &Cluster) -> Result<Twins> {
        let vip = cluster.spec().vip;
        // Other addresses of the VIP's own subnet; hosts of the lab are numbered from 1, taps from 200.
        let [x, y, z, _] = vip.octets();
        let address = |n: u8| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(x, y, z, 200 + n), 24));
        let network = vip_network(cluster, vip);
        let asker = cluster.world().tap(&network, address(0))?;
        let stop = Arc::new(AtomicBool::new(false));
        let halt = stop.clone();
        let claims = asker.netns.spawn(move || ask_by_arp(vip, &halt));
        let target = ProbeTarget { every: ASK_EVERY, ..cluster.probe_target() };
        let (mut names, mut services, mut taps) = (Vec::new(), Vec::new(), vec![asker]);
        for (n, &host) in (1..).zip(cluster.spec().data()) {
            let mac = cluster.world().machine(host)?.mac(&network).context("the host's cable")?;
            let tap = cluster.world().tap(&network, address(n))?;
            tap.pin(IpAddr::V4(vip), mac)?;
            services.push((host.to_owned(), Prober::start(&tap.netns, target)));
            names.push((host.to_owned(), mac));
            taps.push(tap);
        }
        Ok(Twins { stop, names, claims, services, _taps: taps })
    }

    /// Stops, and returns what was seen.
    pub fn stop(self) -> Result<Evidence> {
        self.stop.store(true, Ordering::Relaxed);
        let claims = self.claims.join().map_err(|_| anyhow!("the ARP watcher panicked"))???;
        let mut evidence = Evidence::default();
        for (mac, at) in claims {
            let name = self.names.iter().find(|(_, m)| *m == mac);
            let host = name.map_or_else(|| hex::encode(mac), |(host, _)| host.clone());
            evidence.claims.push(Answer { host, began: at, ended: at });
        }
        for (host, prober) in self.services {
            let served = prober.stop()?.served;
            let answers =
                served.into_iter().map(|s| Answer { host: host.clone(), began: s.began, ended: s.ended });
            evidence.services.extend(answers);
        }
        evidence.services.sort_by_key(|a| a.ended);
        Ok(evidence)
    }
}

fn vip_network(cluster: &Cluster, vip: Ipv4Addr) -> String {
    let mut links = cluster.world().machines().iter().flat_map(|m| m.links());
    let found = links.find(|l| l.addresses.iter().any(|a| a.contains(&IpAddr::V4(vip))));
    found.map_or_else(|| LAN.to_owned(), |l| l.network.clone())
}

/// Asks who has `vip` until told to stop; returns who answered when.
fn ask_by_arp(vip: Ipv4Addr, stop: &AtomicBool) -> Result<Claims> {
    let interface =
        datalink::interfaces().into_iter().find(|i| i.name == "eth0").context("the tap's eth0")?;
    let own_mac = interface.mac.context("the tap's hardware address")?;
    let own_ip = interface.ips.iter().find_map(|ip| match ip.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let own_ip = own_ip.context("the tap's address")?;
    let config = Config { read_timeout: Some(ASK_EVERY), promiscuous: false, ..Config::default() };
    let Channel::Ethernet(mut sender, mut receiver) = datalink::channel(&interface, config)? else {
        return Err(anyhow!("the tap is no Ethernet"));
    };
    let question = arp_question(own_mac, own_ip, vip);
    let (mut answers, mut asked) = (Vec::new(), None::<Instant>);
    while !stop.load(Ordering::Relaxed) {
        if asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            if let Some(sent) = sender.send_to(&question, None) {
                sent.context("ask by ARP")?;
            }
            asked = Some(Instant::now());
        }
        // An error is the end of the waiting time.
        let Ok(frame) = receiver.next() else { continue };
        if let Some(mac) = claimant(frame, vip).filter(|mac| *mac != own_mac) {
            answers.push((mac.octets(), Instant::now()));
        }
    }
    Ok(answers)
}

fn arp_question(mac: MacAddr, ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; EthernetPacket::minimum_packet_size() + ArpPacket::minimum_packet_size()];
    {
        let mut ethernet = MutableEthernetPacket::new(&mut frame).expect("the buffer has the minimum size");
        ethernet.set_destination(MacAddr::broadcast());
        ethernet.set_source(mac);
        ethernet.set_ethertype(EtherTypes::Arp);
    }
    let payload = &mut frame[EthernetPacket::minimum_packet_size()..];
    let mut arp = MutableArpPacket::new(payload).expect("the buffer has the minimum size");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(ArpOperations::Request);
    arp.set_sender_hw_addr(mac);
    arp.set_sender_proto_addr(ip);
    arp.set_target_proto_addr(target);
    frame
}

/// Who says in `frame`, by an ARP answer or announcement, to have `address`.
fn claimant(frame: &[u8], address: Ipv4Addr) -> Option<MacAddr> {
    let ethernet = EthernetPacket::new(frame)?;
    if ethernet.get_ethertype() != EtherTypes::Arp {
        return None;
    }
    let arp = ArpPacket::new(ethernet.payload())?;
    (arp.get_sender_proto_addr() == address).then(|| arp.get_sender_hw_addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(parts: &[(&str, u64)]) -> Vec<Answer> {
        let start = Instant::now();
        let answer = |&(host, ms): &(&str, u64)| {
            let at = start + Duration::from_millis(ms);
            Answer { host: host.to_owned(), began: at, ended: at }
        };
        parts.iter().map(answer).collect()
    }

    const WINDOW: Duration = Duration::from_millis(1000);

    #[test]
    fn a_clean_change_of_hosts_is_no_twin() {
        assert_eq!(overlaps(&story(&[("a", 0), ("a", 5), ("b", 300), ("b", 305)]), WINDOW), []);
    }

    #[test]
    fn a_host_that_still_answers_after_its_successor_is_a_twin() {
        let found = overlaps(&story(&[("a", 0), ("b", 300), ("a", 310), ("b", 315), ("a", 340)]), WINDOW);
        assert_eq!(found[0].host, "a");
        assert_eq!(found[0].duration, Duration::from_millis(40));
    }

    #[test]
    fn a_failback_long_after_is_no_twin() {
        assert_eq!(overlaps(&story(&[("a", 0), ("b", 300), ("b", 2000), ("a", 2500)]), WINDOW), []);
    }

    #[test]
    fn a_question_put_before_the_successor_answered_is_no_twin() {
        let mut answers = story(&[("a", 0), ("b", 300), ("a", 290)]);
        answers[2].ended = answers[1].ended + Duration::from_millis(5);
        assert_eq!(overlaps(&answers, WINDOW), []);
    }

    #[test]
    fn only_the_owner_of_the_address_is_a_claimant() {
        let (mac, vip) = (MacAddr::new(2, 0, 0, 0, 0, 1), Ipv4Addr::new(10, 77, 0, 100));
        let asked = arp_question(mac, Ipv4Addr::new(10, 77, 0, 9), vip);
        assert_eq!(claimant(&asked, vip), None);
        assert_eq!(claimant(&arp_question(mac, vip, vip), vip), Some(mac));
        assert_eq!(claimant(&asked[..20], vip), None);
    }
}
