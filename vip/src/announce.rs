//! Telling the neighbours where an address is now: gratuitous ARP, and unsolicited advertisements for
//! IPv6.
//!
//! It decides what an announcement round consists of and when rounds are due, and never whether the
//! address is ours: call it only while it is. (With the gate shut the frames are dropped.)

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::error::VipError;
use crate::frame;
use crate::link::{Link, Links};
use crate::packet_socket;
use crate::spec::{Rounds, VipSpec};

/// When the first rounds are due after claiming, where no interval is configured. Frames get lost and
/// switches that just saw a port come up drop some, so the first is repeated soon; a second later everything
/// has settled.
pub const FIRST_ROUNDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(1000)];

/// Time between the rounds of the first seconds where more than [`FIRST_ROUNDS`] are wanted.
const MORE_ROUNDS: Duration = Duration::from_secs(1);

/// How often the announcement is repeated ever after: for neighbours that were away, well within the
/// five minutes after which switches forget a silent station.
pub const REFRESH: Duration = Duration::from_secs(30);

impl Rounds {
    /// When round `n`, counted from 0, is due after the claim; `None` if there is none of that number.
    pub fn time(&self, n: u32) -> Option<Duration> {
        let burst = |n: u32| match self.interval {
            Some(interval) => interval.saturating_mul(n),
            None => {
                let dense = FIRST_ROUNDS.len() as u32 - 1;
                FIRST_ROUNDS[n.min(dense) as usize]
                    .saturating_add(MORE_ROUNDS.saturating_mul(n.saturating_sub(dense)))
            }
        };
        let last = self.repeat.max(1) - 1;
        if n <= last {
            return Some(burst(n));
        }
        Some(burst(last).saturating_add(self.refresh?.saturating_mul(n - last)))
    }
}

/// Which rounds of one address were sent.
#[derive(Clone, Debug)]
pub struct Schedule {
    rounds: Rounds,
    begun: Instant,
    sent: u32,
}

impl Schedule {
    /// The first round is due `now`.
    pub fn begin(rounds: Rounds, now: Instant) -> Schedule {
        Schedule { rounds, begun: now, sent: 0 }
    }

    /// When the next round is due; `None` if there is none.
    pub fn next_at(&self) -> Option<Instant> {
        self.begun.checked_add(self.rounds.time(self.sent)?)
    }

    /// Whether a round is to be sent `now`. However many were due by now, it is one.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let before = self.sent;
        while self.next_at().is_some_and(|at| at <= now) {
            self.sent += 1;
        }
        self.sent > before
    }
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
        let mut links = Links::default();
        for spec in specs.iter().filter(|spec| spec.gratuitous_arp) {
            let ready = match links.of(spec) {
                Ok(link) => announcer.with_socket(spec, link, |_| Ok(())),
                Err(error) => Err(error),
            };
            if let Err(error) = ready {
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
        self.announce_on(spec, &mut Links::default())
    }

    /// Sends one round of each, as [`announce`](Announcer::announce), and returns what failed. Looks at each
    /// interface once: two hundred addresses cost little more than their frames.
    pub fn announce_all<'s>(
        &self,
        specs: impl IntoIterator<Item = &'s VipSpec>,
    ) -> Vec<(&'s VipSpec, VipError)> {
        let mut links = Links::default();
        let send = |spec| self.announce_on(spec, &mut links).err().map(|error| (spec, error));
        specs.into_iter().filter_map(send).collect()
    }

    fn announce_on(&self, spec: &VipSpec, links: &mut Links) -> Result<usize, VipError> {
        if !spec.gratuitous_arp {
            return Ok(0);
        }
        let link = links.of(spec)?;
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
        self.with_socket(spec, link, |socket| {
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

    fn ms(rounds: Rounds, count: u32) -> Vec<Option<u128>> {
        (0..count).map(|n| rounds.time(n).map(|time| time.as_millis())).collect()
    }

    #[test]
    fn announcements_are_dense_at_first_and_regular_ever_after() {
        let times = ms(Rounds::default(), 6);
        assert_eq!(times, [0, 50, 200, 1000, 31_000, 61_000].map(Some));
    }

    #[test]
    fn the_configured_rounds_are_kept() {
        let even = Rounds {
            repeat: 3,
            interval: Some(Duration::from_millis(20)),
            refresh: Some(Duration::from_secs(5)),
        };
        assert_eq!(ms(even, 5), [0, 20, 40, 5040, 10_040].map(Some));
        assert_eq!(ms(Rounds { refresh: None, ..even }, 4), [Some(0), Some(20), Some(40), None]);
        let more = Rounds { repeat: 6, interval: None, refresh: None };
        assert_eq!(ms(more, 7), [Some(0), Some(50), Some(200), Some(1000), Some(2000), Some(3000), None]);
        let once = Rounds { repeat: 1, interval: None, refresh: None };
        assert_eq!(ms(once, 2), [Some(0), None]);
    }

    #[test]
    fn rounds_that_were_missed_are_one() {
        let begun = Instant::now();
        let mut schedule = Schedule::begin(Rounds { refresh: None, ..Rounds::default() }, begun);
        assert!(schedule.take_due(begun));
        assert!(!schedule.take_due(begun));
        assert_eq!(schedule.next_at(), Some(begun + Duration::from_millis(50)));
        assert!(schedule.take_due(begun + Duration::from_millis(500)));
        assert_eq!(schedule.next_at(), Some(begun + Duration::from_secs(1)));
        assert!(schedule.take_due(begun + Duration::from_secs(9)));
        assert_eq!(schedule.next_at(), None);
        assert!(!schedule.take_due(begun + Duration::from_secs(99)));
    }

    #[test]
    fn a_missing_interface_is_an_error_and_not_a_panic() {
        let spec = VipSpec::new("10.0.0.100/24".parse().unwrap(), "no-such-link");
        let announcer = Announcer::open(std::slice::from_ref(&spec));
        assert!(matches!(announcer.announce(&spec), Err(VipError::NoSuchInterface { .. })));
        assert_eq!(announcer.announce_all([&spec, &spec]).len(), 2);
        assert_eq!(announcer.announce(&VipSpec { gratuitous_arp: false, ..spec }).unwrap(), 0);
    }
}
