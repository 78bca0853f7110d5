//! The networks: what is cut, lost, doubled, held up and altered on the way.
//!
//! Members speak over one or two paths; clients and the address's neighbours are on the service network.

use holdfast_replication::testing::Dice;

use super::Ns;
use super::shape::MOST_HOSTS;
use crate::sim::chance::Chance;

/// A microsecond.
pub const US: Ns = 1_000;
/// A millisecond.
pub const MS: Ns = 1_000_000;
/// A second.
pub const S: Ns = 1_000_000_000;

const PATHS: usize = 2;

/// What happens to packets at present.
#[derive(Clone, Debug)]
pub struct Network {
    /// `[from][to][path]`: nothing gets through.
    cut: [[[bool; PATHS]; MOST_HOSTS]; MOST_HOSTS],
    /// `[from][to]`: this much longer on the way.
    slow: [[Ns; MOST_HOSTS]; MOST_HOSTS],
    /// `[host]`: cut off from the service network.
    pub service_cut: [bool; MOST_HOSTS],
    /// `[from][to]`: streams between the two do not come up, or stand still.
    pub stream_cut: [[bool; MOST_HOSTS]; MOST_HOSTS],
    /// Of a million packets.
    pub lost: u64,
    /// Of a million packets.
    pub doubled: u64,
    /// Of a million packets.
    pub altered: u64,
    /// At least this long.
    pub delay: Ns,
    /// At most this much longer, so that packets overtake each other.
    pub jitter: Ns,
    /// Streams are held up by as much again.
    pub stream_delay: Ns,
}

impl Default for Network {
    fn default() -> Network {
        Network {
            cut: Default::default(),
            slow: Default::default(),
            service_cut: Default::default(),
            stream_cut: Default::default(),
            lost: 0,
            doubled: 0,
            altered: 0,
            delay: 100 * US,
            jitter: 100 * US,
            stream_delay: 0,
        }
    }
}

impl Network {
    /// Cuts or mends one direction of one path, or of all of them.
    pub fn set_cut(&mut self, from: usize, to: usize, path: Option<usize>, cut: bool) {
        for (at, slot) in self.cut[from][to].iter_mut().enumerate() {
            if path.is_none_or(|path| path == at) {
                *slot = cut;
            }
        }
    }

    /// Slows one direction down.
    pub fn set_slow(&mut self, from: usize, to: usize, by: Ns) {
        self.slow[from][to] = by;
    }

    /// Mends everything.
    pub fn heal(&mut self) {
        *self = Network::default();
    }

    /// Whether a packet from one host to another gets nowhere.
    pub fn is_cut(&self, from: usize, to: usize, path: usize) -> bool {
        self.cut[from][to][path]
    }

    /// Whether a stream between the two stands still: it needs the first path, both ways.
    pub fn stream_is_cut(&self, a: usize, b: usize) -> bool {
        self.is_cut(a, b, 0) || self.is_cut(b, a, 0) || self.stream_cut[a][b] || self.stream_cut[b][a]
    }

    /// Whether two hosts see each other on the service network.
    pub fn service_reaches(&self, a: usize, b: usize) -> bool {
        !self.service_cut[a] && !self.service_cut[b]
    }

    /// How long a packet takes.
    pub fn latency(&self, dice: &mut Dice, from: usize, to: usize) -> Ns {
        self.delay + dice.up_to(self.jitter) + self.slow[from][to]
    }

    /// How long a stretch of a stream takes.
    pub fn stream_latency(&self, dice: &mut Dice, from: usize, to: usize) -> Ns {
        self.delay + self.slow[from][to] + dice.up_to(self.stream_delay.max(20 * US))
    }

    /// Whether any two members cannot hear each other by any path.
    pub fn anything_cut(&self) -> bool {
        self.cut.iter().flatten().flatten().any(|cut| *cut) || self.service_cut.iter().any(|cut| *cut)
    }
}
