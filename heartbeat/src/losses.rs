//! How much of what is sent by a path arrives, in one direction, and whether anything does.
//!
//! Both ends count: the sender what it sent, the receiver what came, and each tells the other in every
//! heartbeat, by whichever path that one arrives. The difference is what was lost and what is under way; its
//! least value within a few seconds is what was lost alone. So a direction is measured without clocks that
//! agree, and a dead one is known on both sides as long as one path works each way.
//!
//! Invariant: an interruption is not a loss. What did not arrive while nothing did is forgotten when
//! something arrives again; before, the direction is said to be dead.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::Time;

/// The least difference is taken over this time: many round trips on any network where a pair makes sense.
const SLOT: Duration = Duration::from_secs(5);
/// So many slots make the minute over which losses are told.
const SLOTS: usize = 12;
/// So many packets must have been sent in vain, for as long as the detection time, before a direction is dead.
const IN_VAIN: u32 = 3;

/// Packets of the last minute, in one direction of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Sent.
    pub sent: u32,
    /// Of these, never arrived, or too late to be believed.
    pub lost: u32,
}

impl Loss {
    /// The share that was lost, in percent.
    pub fn percent(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { f64::from(self.lost) * 100.0 / f64::from(self.sent) }
    }
}

/// One direction of one path.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Losses {
    /// The newest last; the first is the one from which the present minute is counted.
    slots: VecDeque<Slot>,
    now: Option<Counted>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Slot {
    began: Time,
    sent: u32,
    missing: i32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Counted {
    at: Time,
    sent: u32,
    arrived: u32,
    /// When `arrived` last grew (or the counting began), and what had been sent then.
    grew: (Time, u32),
}

impl Losses {
    /// At `now` it is known that `sent` packets were sent by the path since the beginning, and `arrived`
    /// arrived. `silence`: after that time without any, the direction is dead.
    pub fn count(&mut self, now: Time, sent: u32, arrived: u32, silence: Duration) {
        let mut grew = (now, sent);
        if let Some(before) = &self.now {
            if before.arrived == arrived {
                grew = before.grew;
            } else if is_dead(before.grew, now, sent, silence) {
                self.slots.clear();
            }
        }
        self.now = Some(Counted { at: now, sent, arrived, grew });
        let missing = sent.wrapping_sub(arrived) as i32;
        match self.slots.back_mut() {
            Some(slot) if now.since(slot.began) < SLOT => {
                if missing <= slot.missing {
                    (slot.sent, slot.missing) = (sent, missing);
                }
            }
            _ => {
                self.slots.push_back(Slot { began: now, sent, missing });
                // The newest is not over yet, and the first is where counting starts.
                if self.slots.len() > SLOTS + 2 {
                    self.slots.pop_front();
                }
            }
        }
    }

    /// Whether anything arrives; `None` before anything was counted.
    pub fn carries(&self, silence: Duration) -> Option<bool> {
        self.now.map(|now| !is_dead(now.grew, now.at, now.sent, silence))
    }

    /// What was lost in the last minute, up to the last slot that is over; `None` in the first seconds.
    pub fn lately(&self) -> Option<Loss> {
        let (first, last) = (self.slots.front()?, self.slots.iter().rev().nth(1)?);
        let sent = last.sent.wrapping_sub(first.sent);
        let lost = last.missing.saturating_sub(first.missing).max(0) as u32;
        (sent > 0 && sent <= i32::MAX as u32).then_some(Loss { sent, lost: lost.min(sent) })
    }

    /// One of the two counts from zero again.
    pub fn forget(&mut self) {
        *self = Losses::default();
    }
}

fn is_dead((grew_at, sent_then): (Time, u32), now: Time, sent: u32, silence: Duration) -> bool {
    now.since(grew_at) > silence && sent.wrapping_sub(sent_then) >= IN_VAIN
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_millis(300);

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    /// A packet each 100 ms from `from` on; `arrives` says of each whether it does. `ahead` are under way.
    fn run(
        losses: &mut Losses,
        beats: std::ops::Range<u32>,
        arrived: &mut u32,
        arrives: impl Fn(u32) -> bool,
    ) {
        for n in beats {
            *arrived += u32::from(arrives(n));
            // Every other look finds one packet on its way.
            losses.count(at(u64::from(n) * 100), n + n % 2, *arrived, SILENCE);
        }
    }

    #[test]
    fn what_is_under_way_is_not_lost() {
        let (mut losses, mut arrived) = (Losses::default(), 0);
        run(&mut losses, 1..700, &mut arrived, |_| true);
        assert_eq!(losses.carries(SILENCE), Some(true));
        let lately = losses.lately().unwrap();
        assert_eq!(lately.lost, 0, "{lately:?}");
        assert!((550..=650).contains(&lately.sent), "{lately:?}");
    }

    #[test]
    fn every_tenth_packet_lost_is_ten_percent_and_forgotten_after_a_minute() {
        let (mut losses, mut arrived) = (Losses::default(), 0);
        run(&mut losses, 1..700, &mut arrived, |n| n % 10 != 0);
        let lately = losses.lately().unwrap();
        assert!((9.0..=11.0).contains(&lately.percent()), "{lately:?}");
        run(&mut losses, 700..1500, &mut arrived, |_| true);
        assert_eq!(losses.lately().unwrap().lost, 0);
    }

    #[test]
    fn a_direction_in_which_nothing_arrives_is_dead_and_not_lossy() {
        let (mut losses, mut arrived) = (Losses::default(), 0);
        run(&mut losses, 1..200, &mut arrived, |_| true);
        run(&mut losses, 200..203, &mut arrived, |_| false);
        assert_eq!(losses.carries(SILENCE), Some(true), "three beats are the detection time");
        run(&mut losses, 203..400, &mut arrived, |_| false);
        assert_eq!(losses.carries(SILENCE), Some(false));
        run(&mut losses, 400..700, &mut arrived, |_| true);
        assert_eq!(losses.carries(SILENCE), Some(true));
        assert_eq!(losses.lately().unwrap().lost, 0, "an interruption is no loss");
    }

    #[test]
    fn a_sender_that_says_nothing_loses_nothing() {
        let mut losses = Losses::default();
        losses.count(at(0), 10, 10, SILENCE);
        losses.count(at(60_000), 12, 10, SILENCE);
        assert_eq!(losses.carries(SILENCE), Some(true), "two packets may be under way");
        losses.forget();
        assert_eq!((losses.carries(SILENCE), losses.lately()), (None, None));
    }

    #[test]
    fn counters_may_wrap() {
        let mut losses = Losses::default();
        for n in 0..200u32 {
            let count = u32::MAX.wrapping_sub(100).wrapping_add(n);
            losses.count(at(u64::from(n) * 100), count, count.wrapping_add(7), SILENCE);
        }
        let lately = losses.lately().unwrap();
        assert_eq!(lately.lost, 0, "{lately:?}");
        assert!(lately.sent >= 90, "{lately:?}");
    }
}
