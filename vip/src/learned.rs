//! Who last said that it has a virtual address? The proof, on another host, that an announcement arrives.
//!
//! Listens for claims of the addresses that are said to everybody and for nothing else (a filter in the kernel),
//! and remembers the last few stations of each. It never sends, and decides nothing: frames are not authenticated, so what is
//! remembered is for people to read.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Poll;
use std::time::Duration;

use pnet::util::MacAddr;
use tokio::time::{Instant, sleep_until};

use crate::clock::boottime_ns;
use crate::frame::{self, Heard};
use crate::link::{index_of, own_macs};
use crate::packet_socket::{FRAME_BYTES, Listener, Protocol};
use crate::spec::{VipSpec, interfaces};

/// Stations that are remembered of one address: the holder, the one before, and whoever should not be there.
const MOST_STATIONS: usize = 4;
/// How often it is looked whether an interface was made anew, or has come.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A station that said that it has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Its hardware address.
    pub mac: MacAddr,
    /// When it last said so, in nanoseconds of CLOCK_BOOTTIME.
    pub at: u64,
}

/// Listens and remembers.
#[derive(Debug)]
pub struct Learner {
    specs: Vec<VipSpec>,
    stations: Mutex<HashMap<(String, IpAddr), Vec<Learned>>>,
}

impl Learner {
    /// For these addresses.
    pub fn new(specs: Vec<VipSpec>) -> Learner {
        Learner { specs, stations: Mutex::default() }
    }

    /// Who said that it has the address of `spec`, this host aside, the newest first; at most four.
    pub fn learned(&self, spec: &VipSpec) -> Vec<Learned> {
        let stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        stations.get(&(spec.interface.clone(), spec.ip())).cloned().unwrap_or_default()
    }

    /// Listens for ever, on every interface of the addresses that exists, but for as long as `deaf` says so: a
    /// member that holds the addresses needs no proof, and every packet socket makes its end take longer (the
    /// kernel waits for all processors before it lets one go), for which the others would have to wait.
    pub async fn listen(&self, deaf: impl Fn() -> bool) {
        let mut listeners: Vec<(String, Protocol, Listener)> = Vec::new();
        let mut buffer = [0; FRAME_BYTES];
        let mut look_at = Instant::now();
        loop {
            if Instant::now() >= look_at {
                look_at = Instant::now() + LOOK_AGAIN;
                match deaf() {
                    true => listeners.clear(),
                    false => self.tend(&mut listeners),
                }
            }
            let received = poll_fn(|cx| {
                for (interface, _, listener) in &listeners {
                    match listener.poll_recv(cx, &mut buffer) {
                        Poll::Ready(Ok(length)) => return Poll::Ready((interface.clone(), length)),
                        // The interface went down, and said so once.
                        Poll::Ready(Err(_)) => cx.waker().wake_by_ref(),
                        Poll::Pending => {}
                    }
                }
                Poll::Pending
            });
            tokio::select! {
                (interface, length) = received => self.note(interface, &buffer[..length]),
                () = sleep_until(look_at) => {}
            }
        }
    }

    /// Opens what is missing, and what belongs to an interface of before.
    fn tend(&self, listeners: &mut Vec<(String, Protocol, Listener)>) {
        listeners.retain(|(interface, _, listener)| index_of(interface) == Some(listener.index));
        for interface in interfaces(&self.specs) {
            let Some(index) = index_of(&interface) else { continue };
            let here = self.specs.iter().filter(|spec| spec.interface == interface);
            let addresses: Vec<IpAddr> = here.map(VipSpec::ip).collect();
            for (protocol, v4) in [(Protocol::Arp, true), (Protocol::NeighbourDiscovery, false)] {
                let wanted = addresses.iter().any(|ip| ip.is_ipv4() == v4);
                let open = listeners.iter().any(|(name, of, _)| *name == interface && *of == protocol);
                if !wanted || open {
                    continue;
                }
                match Listener::of_claims(index, protocol, &addresses) {
                    Ok(listener) => listeners.push((interface.clone(), protocol, listener)),
                    Err(error) => tracing::debug!(interface, %error, "claims of the addresses go unheard"),
                }
            }
        }
    }

    fn note(&self, interface: String, frame: &[u8]) {
        let Some(Heard::Claims { ip, mac }) = frame::heard(frame) else { return };
        // An answer to somebody's question goes to that one alone, and would come where announcements do not.
        if frame.first().is_none_or(|first| first & 1 == 0) {
            return;
        }
        // The filter looks at a part of an IPv6 address only.
        if !self.specs.iter().any(|spec| spec.ip() == ip && spec.interface == interface) {
            return;
        }
        if own_macs().is_ok_and(|own| own.contains(&mac)) {
            return;
        }
        let mut stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = stations.entry((interface, ip)).or_default();
        of_it.retain(|known| known.mac != mac);
        of_it.insert(0, Learned { mac, at: boottime_ns() });
        of_it.truncate(MOST_STATIONS);
    }
}
