//! The interfaces of this host beside those of the virtual addresses. An answer could leave by any of them: Linux
//! answers for its addresses on every interface, and routes as its tables say.
//!
//! Only what this host sends by itself is asked there. What it forwards for others (the containers and virtual machines
//! on it are clients of an address that may be its peer's) is none of the gate's business.
//!
//! An interface without Ethernet frames is left out: the programs could not read what leaves by it.
//!
//! Ports of a bridge or a bond are left out: what comes or goes through one comes or goes through its master.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;

use super::nftables::wire::{Answer, Control, DUMP, REQUEST, attribute, text};
use crate::link::index_of;

/// How old a list may be that is looked at ten times a second: an interface that appears is gated within this time.
const FRESH_FOR: Duration = Duration::from_secs(1);

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
/// `struct ifinfomsg`
const HEADER_BYTES: usize = 16;
const NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const PORT_KIND: u16 = 4;
const LOOPBACK: u32 = 8;

/// Keeps the list.
#[derive(Debug)]
pub(super) struct Others {
    /// The interfaces of the virtual addresses. None: there is nothing to gate.
    beside: Vec<String>,
    left_out: AtomicBool,
    seen: Mutex<Option<(Instant, Arc<[String]>)>>,
}

impl Others {
    /// Those beside `interfaces`; without any of these, none.
    pub(super) fn beside(interfaces: &[String]) -> Others {
        Others { beside: interfaces.to_vec(), left_out: AtomicBool::new(false), seen: Mutex::default() }
    }

    /// From now on there are none: this gate cannot stand on them.
    pub(super) fn leave_out(&self) {
        self.left_out.store(true, Ordering::Relaxed);
    }

    /// The list, not older than [`FRESH_FOR`].
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub(super) fn lately(&self) -> io::Result<Arc<[String]>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match seen {
            Some((at, list)) if at.elapsed() < FRESH_FOR => Ok(list),
            _ => self.now(),
        }
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub(super) fn now(&self) -> io::Result<Arc<[String]>> {
        let mut list = Vec::new();
        if !self.beside.is_empty() && !self.left_out.load(Ordering::Relaxed) {
            each_link(|link| {
                let gated = self.beside.iter().any(|name| name == link.name);
                if link.ethernet && !link.is_port && !gated {
                    list.push(link.name.to_owned());
                }
            })?;
        }
        let list: Arc<[String]> = list.into();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), list.clone()));
        Ok(list)
    }
}

/// The names of all interfaces of this network namespace, whatever they are.
///
/// # Errors
/// The kernel could not be asked.
pub(super) fn every_interface() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    each_link(|link| names.push(link.name.to_owned()))?;
    Ok(names)
}

/// Whether `interface` is another one than that of `index` by now, or none: what failed on it is over.
pub(super) fn is_gone(interface: &str, index: u32) -> bool {
    index_of(interface) != Some(index)
}

struct Link<'a> {
    name: &'a str,
    /// It carries Ethernet frames, and other hosts can see them.
    ethernet: bool,
    /// It hands its frames to a master that shows them again.
    is_port: bool,
}

fn each_link(mut each: impl FnMut(&Link<'_>)) -> io::Result<()> {
    let mut request = Vec::with_capacity(16 + HEADER_BYTES);
    request.extend((16 + HEADER_BYTES as u32).to_ne_bytes());
    request.extend(GET_LINK.to_ne_bytes());
    request.extend((REQUEST | DUMP).to_ne_bytes());
    request.extend([0; 8 + HEADER_BYTES]);
    let mut control = Control::open_for(NETLINK_ROUTE)?;
    control.exchange(&mut request, |answer| {
        if let Some(link) = read(answer) {
            each(&link);
        }
    })
}

fn read<'a>(answer: &Answer<'a>) -> Option<Link<'a>> {
    let header = answer.payload.first_chunk::<HEADER_BYTES>().filter(|_| answer.kind == NEW_LINK)?;
    let hardware = u16::from_ne_bytes([header[2], header[3]]);
    let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let all = &answer.payload[HEADER_BYTES..];
    let port_of = attribute(all, LINK_INFO).and_then(|info| attribute(info, PORT_KIND)).and_then(text);
    Some(Link {
        name: attribute(all, NAME).and_then(text)?,
        ethernet: hardware == libc::ARPHRD_ETHER && flags & LOOPBACK == 0,
        // The ports of a VRF keep their addresses and their frames.
        is_port: port_of.is_some_and(|kind| kind != "vrf"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_seen_and_is_none_of_the_others() {
        let here = every_interface().unwrap();
        assert!(here.contains(&"lo".to_owned()), "{here:?}");
        let others = Others::beside(&["no-such-link".to_owned()]);
        assert!(!others.now().unwrap().contains(&"lo".to_owned()));
        assert_eq!(others.lately().unwrap(), others.now().unwrap());
    }

    #[test]
    fn without_a_virtual_address_there_is_nothing_to_gate() {
        assert!(Others::beside(&[]).now().unwrap().is_empty());
    }

    #[test]
    fn an_interface_that_is_gated_by_name_is_none_of_the_others() {
        for name in every_interface().unwrap() {
            assert!(!Others::beside(std::slice::from_ref(&name)).now().unwrap().contains(&name));
        }
    }
}
