//! Does somebody else have this address? Is that neighbour alive?
//!
//! A conflict probe is ARP from 0.0.0.0 (RFC 5227) or a solicitation from the unspecified address: it
//! teaches no neighbour anything. A conflict is any frame in which another station claims the address,
//! or probes for it as we do.
//!
//! It decides what counts as an answer, and never what to do about it. Silence is no proof: an address
//! that could not be asked about is listed as `unsent`, never as free.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;
use std::time::Duration;

use pnet::util::MacAddr;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::clock::boottime_ns;
use crate::error::VipError;
use crate::frame::{self, Heard};
use crate::link::{Link, Links, link, own_macs};
use crate::packet_socket::{FRAME_BYTES, Listener, Protocol};
use crate::spec::VipSpec;

/// Most claims that are remembered of one round of questions; who answers is not ours to limit.
const MOST_HOLDERS: usize = 64;

/// Another station uses, or is about to use, a virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub spec: VipSpec,
    /// The other station.
    pub mac: MacAddr,
    /// When it was heard, in nanoseconds of CLOCK_BOOTTIME.
    pub at: u64,
}

/// What a probe found.
#[derive(Debug, Default)]
pub struct ProbeResult {
    /// Addresses in use elsewhere. Not empty: the probe ended at the first.
    pub conflicts: Vec<Conflict>,
    /// Addresses that nobody could be asked about.
    pub unsent: Vec<(VipSpec, VipError)>,
}

impl ProbeResult {
    /// Whether every address was asked about and none is in use.
    pub fn is_free(&self) -> bool {
        self.conflicts.is_empty() && self.unsent.is_empty()
    }
}

/// Probes, with sockets that stay open between probes: closing one can wait for the kernel.
///
/// One probe runs at a time; a second one waits. Use a prober of its own for checks that must not
/// wait for a conflict probe.
#[derive(Default)]
pub struct Prober {
    specs: Vec<VipSpec>,
    listeners: Mutex<Listeners>,
}

type Listeners = HashMap<(String, Protocol), Listener>;

fn protocol_of(ip: IpAddr) -> Protocol {
    match ip {
        IpAddr::V4(_) => Protocol::Arp,
        IpAddr::V6(_) => Protocol::NeighbourDiscovery,
    }
}

/// One address that is asked about.
struct Question {
    ip: IpAddr,
    key: (String, Protocol),
    frame: Vec<u8>,
    sent: bool,
    failure: Option<VipError>,
}

impl Question {
    /// Prepares to ask, with the socket open. A question from an own address is answered to it.
    fn new(
        listeners: &mut Listeners,
        interface: &str,
        link: &Link,
        ip: IpAddr,
        own: Option<IpAddr>,
    ) -> Result<Question, VipError> {
        let interface = interface.to_owned();
        if !link.ethernet {
            return Err(VipError::NotEthernet { interface });
        }
        if !link.up {
            return Err(VipError::LinkDown { interface });
        }
        let key = (interface, protocol_of(ip));
        if listeners.get(&key).is_none_or(|open| open.index != link.index) {
            let open = Listener::open(link.index, key.1).map_err(|source| VipError::Refused {
                action: format!("open a packet socket on {}", key.0),
                source,
            })?;
            listeners.insert(key.clone(), open);
        }
        if let (IpAddr::V6(ip), Some(listener)) = (ip, listeners.get_mut(&key)) {
            listener.join(frame::solicited_node(ip));
        }
        let frame = frame::question(ip, link.mac, own);
        Ok(Question { ip, key, frame, sent: false, failure: None })
    }

    fn ask(&mut self, listeners: &Listeners) {
        match listeners[&self.key].send(&self.frame) {
            Ok(()) => self.sent = true,
            Err(source) => {
                self.failure = Some(VipError::Refused { action: format!("ask for {}", self.ip), source });
            }
        }
    }
}

/// Asks `count` times, evenly within `window`, and returns at its end; or at the first frame for which
/// `answers` returns something.
async fn ask_all<T>(
    listeners: &Listeners,
    questions: &mut [Question],
    count: u32,
    window: Duration,
    mut answers: impl FnMut(&Question, Heard) -> Option<T>,
) -> Option<T> {
    let keys: std::collections::HashSet<_> = questions.iter().map(|q| q.key.clone()).collect();
    let open: Vec<_> = listeners.iter().filter(|(key, _)| keys.contains(*key)).collect();
    for (_, listener) in &open {
        listener.drain();
    }
    let start = Instant::now();
    let end = start + window;
    let count = count.max(1);
    let mut asked = 0;
    let mut buffer = [0; FRAME_BYTES];
    loop {
        let due = start + window / count * asked;
        if asked < count && Instant::now() >= due {
            questions.iter_mut().for_each(|question| question.ask(listeners));
            asked += 1;
            if asked == 1 && !questions.iter().any(|question| question.sent) {
                return None;
            }
            continue;
        }
        let wake = if asked < count { due } else { end };
        let received = poll_fn(|cx| {
            for (key, listener) in &open {
                match listener.poll_recv(cx, &mut buffer) {
                    Poll::Ready(Ok(length)) => return Poll::Ready((*key, length)),
                    // The link's state tells afterwards what an error here meant.
                    Poll::Ready(Err(_)) => cx.waker().wake_by_ref(),
                    Poll::Pending => {}
                }
            }
            Poll::Pending
        });
        tokio::select! {
            (key, length) = received => {
                let Some(heard) = frame::heard(&buffer[..length]) else { continue };
                let found = questions.iter().filter(|q| q.key == *key).find_map(|q| answers(q, heard));
                if found.is_some() {
                    return found;
                }
            }
            () = sleep_until(wake) => {
                if asked >= count {
                    return None;
                }
            }
        }
    }
}

impl Prober {
    /// Prepares to probe for those of `specs` that have `arp_ping` on. Sockets for the interfaces that
    /// exist are opened now, the others when first needed.
    pub async fn open(specs: &[VipSpec]) -> Prober {
        let specs: Vec<VipSpec> = specs.iter().filter(|spec| spec.arp_ping).cloned().collect();
        let mut listeners = Listeners::new();
        let mut links = Links::default();
        for spec in &specs {
            if let Err(error) = Prober::question(&mut listeners, &mut links, spec) {
                tracing::warn!(vip = %spec, %error, "not ready to probe");
            }
        }
        Prober { specs, listeners: Mutex::new(listeners) }
    }

    /// Closes the sockets; the next probe opens them anew. Each one that is open makes the end of this process take
    /// longer, since the kernel waits for all processors before it lets a packet socket go.
    /// Does nothing while a probe is under way.
    pub fn rest(&self) {
        let Ok(mut open) = self.listeners.try_lock() else { return };
        let listeners = std::mem::take(&mut *open);
        // Nobody waits for that here.
        tokio::task::spawn_blocking(move || drop(listeners));
    }

    fn question(listeners: &mut Listeners, links: &mut Links, spec: &VipSpec) -> Result<Question, VipError> {
        Question::new(listeners, &spec.interface, links.of(spec)?, spec.ip(), None)
    }

    /// Asks `count` times, evenly within `window`, whether another station has any of the addresses, and
    /// listens until the window ends or the first conflict is heard.
    pub async fn probe(&self, count: u32, window: Duration) -> ProbeResult {
        let mut listeners = self.listeners.lock().await;
        let mut result = ProbeResult::default();
        let own = own_macs().unwrap_or_default();
        let mut asked = Vec::new();
        let mut questions = Vec::new();
        let mut links = Links::default();
        for spec in &self.specs {
            match Prober::question(&mut listeners, &mut links, spec) {
                Ok(question) => {
                    questions.push(question);
                    asked.push(spec);
                }
                Err(error) => result.unsent.push((spec.clone(), error)),
            }
        }
        let found = ask_all(&listeners, &mut questions, count, window, |question, heard| {
            let (Heard::Claims { ip, mac } | Heard::Probes { ip, mac }) = heard;
            (ip == question.ip && !own.contains(&mac))
                .then(|| (question.key.0.clone(), ip, mac, boottime_ns()))
        })
        .await;
        if let Some((interface, ip, mac, at)) = found {
            let claimed = asked.iter().filter(|spec| spec.interface == interface && spec.ip() == ip);
            result.conflicts.extend(claimed.take(1).map(|spec| Conflict { spec: (*spec).clone(), mac, at }));
        }
        let mut links = Links::default();
        for (spec, question) in asked.into_iter().zip(questions) {
            let lost = || VipError::LinkDown { interface: spec.interface.clone() };
            match question.failure {
                Some(failure) if !question.sent => result.unsent.push((spec.clone(), failure)),
                // The link went away under the probe: silence means nothing.
                _ if !links.of(spec).is_ok_and(|link| link.up) => result.unsent.push((spec.clone(), lost())),
                _ => {}
            }
        }
        result
    }

    /// Asks `count` times, evenly within `window`, who has each of `specs`, and returns at the end of the
    /// window everybody who said so meanwhile, this host aside: for people, who want to hear of a second one
    /// too. Teaches no neighbour anything, and heeds no `arp_ping`.
    ///
    /// # Errors
    /// For each address: it could not be asked about.
    pub async fn holders(
        &self,
        specs: &[VipSpec],
        count: u32,
        window: Duration,
    ) -> Vec<Result<Vec<MacAddr>, VipError>> {
        let mut listeners = self.listeners.lock().await;
        let own = own_macs().unwrap_or_default();
        let mut questions = Vec::new();
        let mut found: Vec<Result<Vec<MacAddr>, VipError>> = Vec::new();
        let mut asked = Vec::new();
        for (at, spec) in specs.iter().enumerate() {
            let question = link(&spec.interface)
                .and_then(|link| Question::new(&mut listeners, &spec.interface, &link, spec.ip(), None));
            found.push(match question {
                Ok(question) => {
                    questions.push(question);
                    asked.push(at);
                    Ok(Vec::new())
                }
                Err(error) => Err(error),
            });
        }
        if questions.is_empty() {
            return found;
        }
        let mut heard_of: Vec<(String, IpAddr, MacAddr)> = Vec::new();
        ask_all(&listeners, &mut questions, count, window, |question, heard| {
            if let Heard::Claims { ip, mac } = heard
                && ip == question.ip
                && !own.contains(&mac)
            {
                let claim = (question.key.0.clone(), ip, mac);
                if !heard_of.contains(&claim) && heard_of.len() < MOST_HOLDERS {
                    heard_of.push(claim);
                }
            }
            None::<()>
        })
        .await;
        for (at, question) in asked.into_iter().zip(questions) {
            let of_it =
                |claim: &&(String, IpAddr, MacAddr)| claim.0 == question.key.0 && claim.1 == question.ip;
            found[at] = match question.failure {
                Some(failure) if !question.sent => Err(failure),
                _ => Ok(heard_of.iter().filter(of_it).map(|claim| claim.2).collect()),
            };
        }
        found
    }

    /// Whether the neighbour `ip` answers on `interface`: asked up to `count` times within `window`, with
    /// the interface's own address; true at the first answer. False too where it could not be asked.
    pub async fn probe_ip(&self, interface: &str, ip: IpAddr, count: u32, window: Duration) -> bool {
        let mut listeners = self.listeners.lock().await;
        let own = own_macs().unwrap_or_default();
        let mut ours = false;
        let question = link(interface).and_then(|link| {
            let question = Question::new(&mut listeners, interface, &link, ip, own_address(&link, ip))?;
            ours = link.addresses.iter().any(|net| net.addr() == ip);
            Ok(question)
        });
        match question {
            // Nobody answers a question for his own address over the wire.
            Ok(_) if ours => true,
            Ok(question) => {
                let answer = |question: &Question, heard| match heard {
                    Heard::Claims { ip, mac } => (ip == question.ip && !own.contains(&mac)).then_some(()),
                    Heard::Probes { .. } => None,
                };
                ask_all(&listeners, &mut [question], count, window, answer).await.is_some()
            }
            Err(error) => {
                tracing::debug!(interface, %ip, %error, "a neighbour could not be asked for");
                false
            }
        }
    }
}

/// The address from which to ask for `ip`: one whose subnet has it. Never a whole-length one: that may be
/// a virtual address, and asking from it would claim it. For IPv6 the link-local one will do.
fn own_address(link: &Link, ip: IpAddr) -> Option<IpAddr> {
    let same_family = link.addresses.iter().filter(|net| net.addr().is_ipv4() == ip.is_ipv4());
    let own = same_family.filter(|net| net.prefix_len() < net.max_prefix_len());
    let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if ip.is_ipv6() {
        return own.map(|net| net.addr()).find(link_local);
    }
    own.filter(|net| net.contains(&ip)).map(|net| net.addr()).next()
}

/// As [`Prober::probe_ip`], with a socket for this one question. A caller that asks often keeps a prober.
pub async fn probe_ip(interface: &str, ip: IpAddr, count: u32, window: Duration) -> bool {
    Prober::default().probe_ip(interface, ip, count, window).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_addresses(addresses: &[&str]) -> Link {
        Link {
            index: 1,
            mac: MacAddr::zero(),
            up: true,
            loopback: false,
            ethernet: true,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_neighbour_is_never_asked_from_a_virtual_address() {
        let link = with_addresses(&["10.0.0.100/32", "10.0.0.1/24", "2001:db8::64/128", "fe80::7/64"]);
        assert_eq!(own_address(&link, "10.0.0.254".parse().unwrap()), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(own_address(&link, "10.9.0.1".parse().unwrap()), None);
        assert_eq!(own_address(&link, "2001:db8::1".parse().unwrap()), Some("fe80::7".parse().unwrap()));
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_asked_about_is_not_free() {
        let spec = VipSpec::new("10.0.0.100/24".parse().unwrap(), "no-such-link");
        let result = Prober::open(&[spec]).await.probe(3, Duration::from_secs(60)).await;
        assert!(!result.is_free());
        assert!(matches!(result.unsent[0].1, VipError::NoSuchInterface { .. }));
        assert!(!probe_ip("no-such-link", "10.0.0.1".parse().unwrap(), 3, Duration::from_secs(60)).await);
    }
}
