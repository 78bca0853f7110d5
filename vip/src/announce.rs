//! Telling the neighbours where an address is now: gratuitous ARP, and unsolicited advertisements for
//! IPv6.
//!
//! It decides what an announcement round consists of and when rounds are due, and never whether the
//! address is ours: call it only while it is. (With the gate shut the frames are dropped.)

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use socket2::Socket;

use crate::error::VipError;
use crate::frame;
use crate::link::{Link, link};
use crate::packet_socket;
use crate::spec::VipSpec;

/// When the first rounds are due after claiming. Frames get lost and switches that just saw a port come
/// up drop some, so the first is repeated soon; a second later everything has settled.
pub const FIRST_ROUNDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(1000)];

/// How often the announcement is repeated ever after: for neighbours that were away, well within the
/// five minutes after which switches forget a silent station.
pub const REFRESH: Duration = Duration::from_secs(30);

/// The times of all rounds since the claim, without end.
pub fn announcement_times() -> impl Iterator<Item = Duration> {
    let last = FIRST_ROUNDS[FIRST_ROUNDS.len() - 1];
    FIRST_ROUNDS.into_iter().chain((1u32..).map(move |n| last.saturating_add(REFRESH.saturating_mul(n))))
}

/// Sends announcements. Keeps a socket per interface, so that the first round costs no set-up.
#[derive(Debug, Default)]
pub struct Announcer {
    sockets: Mutex<HashMap<String, (u32, Socket)>>,
}

impl Announcer {
    /// Opens sockets for the interfaces of `specs`. Those that do not exist yet are opened when they are
    /// first needed.
    pub fn open(specs: &[VipSpec]) -> Announcer {
        let announcer = Announcer::default();
        for spec in specs.iter().filter(|spec| spec.gratuitous_arp) {
            if let Err(error) =
                link(&spec.interface).and_then(|link| announcer.with_socket(spec, &link, |_| Ok(())))
            {
                tracing::warn!(vip = %spec, %error, "not ready to announce");
            }
        }
        announcer
    }

    /// Sends one round and returns the number of frames sent: none where `gratuitous_arp` is off or the
    /// interface is loopback. Does not wait.
    ///
    /// # Errors
    /// [`VipError::NoSuchInterface`], [`VipError::LinkDown`], [`VipError::NotEthernet`]; or
    /// [`VipError::Refused`] where the socket cannot be opened or the frame cannot be sent.
    pub fn announce(&self, spec: &VipSpec) -> Result<usize, VipError> {
        if !spec.gratuitous_arp {
            return Ok(0);
        }
        let link = link(&spec.interface)?;
        if link.loopback {
            return Ok(0);
        }
        if !link.ethernet {
            return Err(VipError::NotEthernet { interface: spec.interface.clone() });
        }
        if !link.up {
            return Err(VipError::LinkDown { interface: spec.interface.clone() });
        }
        let frames = frame::announcement(spec.ip(), link.mac);
        self.with_socket(spec, &link, |socket| {
            for frame in &frames {
                socket.send(frame)?;
            }
            Ok(frames.len())
        })
    }

    /// Runs `send` on the interface's socket; one that fails is opened anew next time.
    fn with_socket<T>(
        &self,
        spec: &VipSpec,
        link: &Link,
        send: impl FnOnce(&Socket) -> std::io::Result<T>,
    ) -> Result<T, VipError> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match sockets.get(&spec.interface) {
            Some((index, socket)) if *index == link.index => send(socket),
            _ => packet_socket::sender(link.index).and_then(|socket| {
                let result = send(&socket);
                sockets.insert(spec.interface.clone(), (link.index, socket));
                result
            }),
        };
        result.map_err(|source| {
            sockets.remove(&spec.interface);
            VipError::Refused { action: format!("announce {spec}"), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_dense_at_first_and_regular_ever_after() {
        let ms: Vec<u128> = announcement_times().take(6).map(|t| t.as_millis()).collect();
        assert_eq!(ms, [0, 50, 200, 1000, 31_000, 61_000]);
    }

    #[test]
    fn a_missing_interface_is_an_error_and_not_a_panic() {
        let spec = VipSpec {
            address: "10.0.0.100/24".parse().unwrap(),
            interface: "no-such-link".into(),
            arp_ping: true,
            gratuitous_arp: true,
        };
        let announcer = Announcer::open(std::slice::from_ref(&spec));
        assert!(matches!(announcer.announce(&spec), Err(VipError::NoSuchInterface { .. })));
        assert_eq!(announcer.announce(&VipSpec { gratuitous_arp: false, ..spec }).unwrap(), 0);
    }
}
