//! The failure detector: is a peer silent, and which of the paths to it work?
//!
//! The idea is the plainest that works on a local network: a peer that was not heard on any path for
//! `interval x threshold` is silent. Silence alone moves nothing (a vote and a lapsed lease do); it
//! only says when to start asking. Paths are judged one by one, so that a dead cable is a warning
//! with a name and never a failover.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::Time;

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
}

impl PathHealth {
    /// Whether it carried anything within `detect`.
    pub fn alive(&self, now: Time, detect: Duration) -> bool {
        self.heard_at.is_some_and(|at| now.since(at) <= detect)
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

    /// A packet of ours returned as an echo by the path it went.
    pub fn round_trip(&mut self, path: usize, rtt: Duration) {
        if let Some(path) = self.paths.get_mut(path) {
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
    pub fn unproven(&mut self, path: usize) {
        if let Some(path) = self.paths.get_mut(path) {
            path.unproven += 1;
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
