//! The failure detector: is a peer silent, and which of the paths to it work?
//!
//! The idea is the plainest that works on a local network: a peer that was not heard on any path for
//! `interval x threshold` is silent. Silence alone moves nothing (a vote and a lapsed lease do); it
//! only says when to start asking. Paths are judged one by one, so that a dead cable is a warning
//! with a name and never a failover.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::losses::{Loss, Losses};
use crate::message::PathReport;
use crate::types::Time;

/// The longest round trip is remembered for one to two of these.
const RECENTLY: Duration = Duration::from_secs(60);
/// The smoothing of the round-trip time: one eighth of each new sample (RFC 6298 section 2).
const RTT_SHARE: u64 = 8;

/// What is known of one path to one peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PathHealth {
    /// When the last believed packet came by it.
    pub heard_at: Option<Time>,
    /// Smoothed round-trip time, where a packet went and its echo returned by this path.
    pub rtt: Option<Duration>,
    /// Believed packets so far.
    pub received: u64,
    /// Packets that we sent by it.
    pub sent: u64,
    /// Packets that came, authentic, but that did not hear us: the other direction is dead.
    pub unproven: u64,
    /// When the last such packet came.
    pub unproven_at: Option<Time>,
    /// What of the peer's arrives here.
    pub inbound: Losses,
    /// What of ours arrives there, as the peer says.
    pub outbound: Losses,
    /// The longest round trip of this period and of the one before, and when this one began.
    longest: [Duration; 2],
    period_began: Time,
    /// Which of the peer's paths this is, by its own numbering.
    theirs: Option<u8>,
}

impl PathHealth {
    /// Whether it carried anything within `detect`.
    pub fn alive(&self, now: Time, detect: Duration) -> bool {
        self.heard_at.is_some_and(|at| now.since(at) <= detect)
    }

    /// The longest round trip of the last minute or two.
    pub fn longest_round_trip(&self, now: Time) -> Option<Duration> {
        let passed = now.since(self.period_began);
        let periods = if passed < RECENTLY { 2 } else { usize::from(passed < RECENTLY * 2) };
        let longest = self.longest[..periods].iter().max().copied().unwrap_or_default();
        (longest > Duration::ZERO).then_some(longest)
    }

    /// What of the peer's was lost on the way here lately.
    pub fn lost_here(&self) -> Option<Loss> {
        self.inbound.lately()
    }

    /// What of ours was lost on the way there lately.
    pub fn lost_there(&self) -> Option<Loss> {
        self.outbound.lately()
    }

    fn note_round_trip(&mut self, now: Time, rtt: Duration) {
        let passed = now.since(self.period_began);
        if passed >= RECENTLY {
            let before = if passed < RECENTLY * 2 { self.longest[0] } else { Duration::ZERO };
            self.longest = [Duration::ZERO, before];
            self.period_began = now;
        }
        self.longest[0] = self.longest[0].max(rtt);
    }
}

/// Watches one peer over all its paths.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detector {
    detect: Duration,
    paths: Vec<PathHealth>,
}

impl Detector {
    /// `detect`: the silence after which the peer counts as silent; `paths`: how many there are.
    pub fn new(detect: Duration, paths: usize) -> Detector {
        Detector { detect, paths: vec![PathHealth::default(); paths] }
    }

    /// A believed packet came by `path`.
    pub fn heard(&mut self, now: Time, path: usize) {
        if let Some(path) = self.paths.get_mut(path) {
            path.heard_at = Some(now);
            path.received += 1;
        }
    }

    /// The peer calls `path` its own path `theirs`: that packet came by it.
    pub fn numbered(&mut self, path: usize, theirs: u8) {
        if let Some(path) = self.paths.get_mut(path) {
            path.theirs = Some(theirs);
        }
    }

    /// The peer's newest statement came, with what it counted on each path.
    pub fn reported(&mut self, now: Time, reports: &[PathReport]) {
        for (at, path) in self.paths.iter_mut().enumerate() {
            let theirs = path.theirs.map_or(at, usize::from);
            let Some(report) = reports.get(theirs) else { continue };
            path.inbound.count(now, report.sent, path.received as u32, self.detect);
            path.outbound.count(now, path.sent as u32, report.received, self.detect);
        }
    }

    /// Another life of the peer begins, which counts from zero.
    pub fn begun_anew(&mut self) {
        for path in &mut self.paths {
            path.inbound.forget();
            path.outbound.forget();
        }
    }

    /// What this side counted, for the peer.
    pub fn reports(&self) -> impl Iterator<Item = PathReport> + '_ {
        self.paths.iter().map(|path| PathReport { sent: path.sent as u32, received: path.received as u32 })
    }

    /// A packet of ours returned as an echo by the path it went.
    pub fn round_trip(&mut self, now: Time, path: usize, rtt: Duration) {
        if let Some(path) = self.paths.get_mut(path) {
            path.note_round_trip(now, rtt);
            path.rtt = Some(match path.rtt {
                None => rtt,
                Some(old) => {
                    let (old, new) = (old.as_nanos() as u64, rtt.as_nanos() as u64);
                    Duration::from_nanos(old - old / RTT_SHARE + new / RTT_SHARE)
                }
            });
        }
    }

    /// An authentic packet came that shows that the peer does not hear us.
    pub fn unproven(&mut self, now: Time, path: usize) {
        if let Some(path) = self.paths.get_mut(path) {
            path.unproven += 1;
            path.unproven_at = Some(now);
        }
    }

    /// A packet went out by `path`.
    pub fn sent(&mut self, path: usize) {
        if let Some(path) = self.paths.get_mut(path) {
            path.sent += 1;
        }
    }

    /// When the peer was last heard on any path.
    pub fn heard_at(&self) -> Option<Time> {
        self.paths.iter().filter_map(|path| path.heard_at).max()
    }

    /// Whether the peer was heard within the detection time.
    pub fn alive(&self, now: Time) -> bool {
        self.heard_at().is_some_and(|at| now.since(at) <= self.detect)
    }

    /// When, hearing nothing more, the peer will count as silent. `None` if it does already.
    pub fn silent_at(&self, now: Time) -> Option<Time> {
        let at = self.heard_at()? + self.detect + Duration::from_nanos(1);
        (at > now).then_some(at)
    }

    /// The paths, in the order of the configuration.
    pub fn paths(&self) -> &[PathHealth] {
        &self.paths
    }

    /// The silence that counts.
    pub fn detect(&self) -> Duration {
        self.detect
    }
}
