//! Who else says that he has an address of ours, while we hold it.
//!
//! It decides which frames are a sign of another holder, and never what to do about it: nothing that comes in
//! here is authenticated, so it may be announced against and reported, and changes no state. What has to be
//! heard is picked out in the kernel, by a filter that stands before the first frame can arrive.
//!
//! | sign | means |
//! |---|---|
//! | [`Sign::Claims`] | ARP or neighbour discovery in which another station has the address |
//! | [`Sign::Probes`] | another station asks whether anybody has it, as one does before configuring it, and as a peer does before a takeover |

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::task::{Context, Poll};

use pnet::util::MacAddr;

use crate::clock::boottime_ns;
use crate::error::VipError;
use crate::frame::{self, Heard};
use crate::link::{Links, own_macs};
use crate::packet_socket::{FRAME_BYTES, Listener, Protocol, claims_filter};
use crate::spec::VipSpec;

/// Most frames that one report sums up: what a stale holder of two hundred addresses says in a second fits.
const MOST_FRAMES: usize = 1024;

/// What another station did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sign {
    /// It says that the address is its own.
    Claims,
    /// It asks whether the address is free.
    Probes,
}

/// Another station spoke of an address of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contest {
    /// The address.
    pub spec: VipSpec,
    /// The other station.
    pub mac: MacAddr,
    /// What it did.
    pub sign: Sign,
    /// In how many frames of this report.
    pub frames: u32,
    /// When the first was heard, in nanoseconds of CLOCK_BOOTTIME.
    pub at: u64,
}

/// Listens for other holders. Used from within a tokio runtime.
#[derive(Default)]
pub struct Sentinel {
    specs: Vec<VipSpec>,
    listeners: HashMap<(String, Protocol), Listener>,
    own: Vec<MacAddr>,
}

fn protocol_of(ip: IpAddr) -> Protocol {
    match ip {
        IpAddr::V4(_) => Protocol::Arp,
        IpAddr::V6(_) => Protocol::NeighbourDiscovery,
    }
}

impl Sentinel {
    /// Listens on the Ethernet interfaces of `specs`, as far as they exist.
    pub fn open(specs: Vec<VipSpec>) -> Sentinel {
        let mut sentinel = Sentinel { specs, ..Sentinel::default() };
        sentinel.look_again();
        sentinel
    }

    /// Looks at the interfaces anew: call it when one came up, or has another hardware address.
    pub fn look_again(&mut self) {
        self.own = own_macs().unwrap_or_default();
        let mut links = Links::default();
        for spec in &self.specs {
            let key = (spec.interface.clone(), protocol_of(spec.ip()));
            let index = match links.of(spec) {
                Ok(link) if link.ethernet => link.index,
                _ => {
                    self.listeners.remove(&key);
                    continue;
                }
            };
            if self.listeners.get(&key).is_some_and(|open| open.index == index) {
                continue;
            }
            let together = self.specs.iter().filter(|other| other.interface == spec.interface);
            let ips: Vec<IpAddr> = together.map(VipSpec::ip).filter(|ip| protocol_of(*ip) == key.1).collect();
            match Listener::open_filtered(index, key.1, &claims_filter(key.1, &ips)) {
                Ok(listener) => drop(self.listeners.insert(key, listener)),
                Err(source) => {
                    let action = format!("open a packet socket on {}", spec.interface);
                    let error = VipError::Refused { action, source };
                    tracing::warn!(vip = %spec, %error, "another holder of the address would not be noticed");
                }
            }
        }
    }

    /// Waits until another station speaks of an address of ours, and sums up what is there by then. May be
    /// dropped while waiting.
    pub async fn next(&mut self) -> Vec<Contest> {
        let mut buffer = [0; FRAME_BYTES];
        loop {
            let first = poll_fn(|cx| self.poll_frame(cx, &mut buffer)).await;
            let mut contests = Vec::new();
            self.sum_up(&mut contests, &first.0, &buffer[..first.1]);
            for (key, listener) in &self.listeners {
                for _ in 0..MOST_FRAMES {
                    let Some(length) = listener.take(&mut buffer) else { break };
                    self.sum_up(&mut contests, &key.0, &buffer[..length]);
                }
            }
            if !contests.is_empty() {
                return contests;
            }
        }
    }

    fn poll_frame(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<(String, usize)> {
        for (key, listener) in &self.listeners {
            match listener.poll_recv(cx, buffer) {
                Poll::Ready(Ok(length)) => return Poll::Ready((key.0.clone(), length)),
                // The link went away: said once, and heard of from the watch too.
                Poll::Ready(Err(_)) => cx.waker().wake_by_ref(),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// Throws away what was said until now: before the address was ours, it was no contest.
    pub fn drain(&self) {
        self.listeners.values().for_each(Listener::drain);
    }

    fn sum_up(&self, contests: &mut Vec<Contest>, interface: &str, frame: &[u8]) {
        let (ip, mac, sign) = match frame::heard(frame) {
            Some(Heard::Claims { ip, mac }) => (ip, mac, Sign::Claims),
            Some(Heard::Probes { ip, mac }) => (ip, mac, Sign::Probes),
            None => return,
        };
        if self.own.contains(&mac) {
            return;
        }
        let same = |c: &&mut Contest| {
            c.mac == mac && c.sign == sign && c.spec.ip() == ip && c.spec.interface == interface
        };
        if let Some(known) = contests.iter_mut().find(same) {
            known.frames += 1;
        } else if let Some(spec) =
            self.specs.iter().find(|spec| spec.ip() == ip && spec.interface == interface)
        {
            contests.push(Contest { spec: spec.clone(), mac, sign, frames: 1, at: boottime_ns() });
        }
    }
}
