//! What the clients of one run do, in proportions that differ from run to run.
//!
//! Each run leaves some kinds of calls out and does others often (swarm testing: Groce et al., 2012), so
//! that mixtures come about which no fixed proportions would give.

use holdfast_replication::testing::Dice;

/// The kinds of things that a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Put,
    PutIfAbsent,
    PutIfMatch,
    Get,
    Head,
    Delete,
    DeleteIfMatch,
    List,
    Copy,
    Multipart,
}

const KINDS: [(Kind, u64); 10] = [
    (Kind::Put, 30),
    (Kind::PutIfAbsent, 8),
    (Kind::PutIfMatch, 8),
    (Kind::Get, 35),
    (Kind::Head, 6),
    (Kind::Delete, 8),
    (Kind::DeleteIfMatch, 4),
    (Kind::List, 6),
    (Kind::Copy, 5),
    (Kind::Multipart, 5),
];

/// The mixture of one run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Weights of the kinds; those that are left out are missing.
    kinds: Vec<(Kind, u64)>,
    /// Keys that all clients share.
    pub shared_keys: u32,
    /// How many writes in a hundred go to a key that nobody else uses.
    pub own_percent: u64,
    /// The longest pause between two requests of a client, in nanoseconds.
    pub think_most: u64,
    /// How long a client waits for an answer, in nanoseconds.
    pub patience: u64,
    /// How often a client asks again after an answer that it cannot use.
    pub retries: u32,
    /// Bodies of this many bytes and fewer are the usual ones.
    pub small_most: u64,
    /// How many bodies in a hundred are larger than what travels inside an operation.
    pub large_percent: u64,
}

/// The largest body, in bytes: six data records, more than what an index entry holds by itself.
pub const LARGE_MOST: u64 = 6 * 1024;

impl Workload {
    /// Draws a mixture.
    pub fn draw(dice: &mut Dice) -> Workload {
        let mut kinds: Vec<(Kind, u64)> = Vec::new();
        for (kind, weight) in KINDS {
            // Without plain writes and reads there would be nothing to see.
            let always = matches!(kind, Kind::Put | Kind::Get);
            let factor = match dice.below(8) {
                0 | 1 if !always => 0,
                0..=5 => 1,
                6 => 3,
                _ => 8,
            };
            if factor > 0 {
                kinds.push((kind, weight * factor));
            }
        }
        Workload {
            kinds,
            shared_keys: 1 << dice.below(6),
            own_percent: [0, 10, 40][dice.below(3) as usize],
            think_most: [2_000_000, 20_000_000, 200_000_000, 1_000_000_000][dice.below(4) as usize],
            patience: [300_000_000, 1_000_000_000, 3_000_000_000, 10_000_000_000][dice.below(4) as usize],
            retries: dice.below(5) as u32,
            small_most: [16, 200, 2000][dice.below(3) as usize],
            large_percent: [0, 5, 20][dice.below(3) as usize],
        }
    }

    /// The kind of the next request.
    pub fn kind(&self, dice: &mut Dice) -> Kind {
        let total = self.kinds.iter().map(|(_, weight)| weight).sum::<u64>();
        let mut at = dice.below(total.max(1));
        for (kind, weight) in &self.kinds {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        Kind::Get
    }

    /// A shared key: the lower its number, the more often.
    pub fn shared_key(&self, dice: &mut Dice) -> u32 {
        let (a, b) = (dice.below(self.shared_keys.into()), dice.below(self.shared_keys.into()));
        a.min(b) as u32
    }

    /// The length of a body, in bytes.
    pub fn body_len(&self, dice: &mut Dice) -> u64 {
        if dice.below(100) < self.large_percent {
            super::session::INLINE_MAX + 1 + dice.below(LARGE_MOST - super::session::INLINE_MAX)
        } else {
            super::blob::LEN_MIN + dice.below(self.small_most)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_differ_in_what_they_leave_out() {
        let drawn: Vec<Workload> = (0..50).map(|seed| Workload::draw(&mut Dice(seed))).collect();
        for (kind, _) in KINDS {
            let with = drawn.iter().filter(|w| w.kinds.iter().any(|(k, _)| *k == kind)).count();
            let always = matches!(kind, Kind::Put | Kind::Get);
            assert!(if always { with == 50 } else { (15..50).contains(&with) }, "{kind:?} in {with}");
        }
    }
}
