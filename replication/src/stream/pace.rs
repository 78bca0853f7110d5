//! Whether what comes over a connection moves on: bytes that drip so slowly that they never make a frame hold no
//! connection. Judged by progress and not by the time that a frame takes: an honest slow link may need long for a large
//! one, and is left alone.
//!
//! No clock: the caller says what time it is, and closes the connection when [`Pace::due`] has come before more bytes.

use std::time::Duration;

use holdfast_heartbeat::Time;

/// While a frame is on its way, at least [`LEAST_BYTES`] of it, or its end, come within this time. Longer than the two
/// seconds of silence after which the other side's kernel gives the connection up.
const WITHIN: Duration = Duration::from_secs(5);
/// See [`WITHIN`]: less than a kilobyte in a second, which carries no log.
const LEAST_BYTES: u64 = 4096;
/// Whoever accepted a connection hears something that proves the secret within this time: the first message has 64 KiB
/// at most.
const PROOF_WITHIN: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Until when the other side has to prove that it has the secret; none once it did.
    proof: Option<Time>,
    /// What is waited for: since when, and how many bytes of it have come. None between two frames.
    waiting: Option<(Time, u64)>,
}

impl Pace {
    /// Of a connection whose other side has proved nothing yet: its first frame is waited for.
    pub fn unproved(now: Time) -> Pace {
        Pace { proof: Some(now + PROOF_WITHIN), waiting: Some((now, 0)) }
    }

    /// Of a connection whose other side has proved that it has the secret, and may be silent.
    pub fn proved() -> Pace {
        Pace { proof: None, waiting: None }
    }

    /// `bytes` came. `frames` became whole by them, and `part` of another one is here.
    pub fn received(&mut self, now: Time, bytes: usize, frames: usize, part: bool) {
        if frames > 0 {
            (self.proof, self.waiting) = (None, None);
        }
        if !part && self.proof.is_none() {
            self.waiting = None;
            return;
        }
        let (since, came) = self.waiting.unwrap_or((now, 0));
        let came = came + bytes as u64;
        self.waiting = Some(if came >= LEAST_BYTES { (now, 0) } else { (since, came) });
    }

    /// When the connection is too slow, unless something comes before.
    pub fn due(&self) -> Option<Time> {
        let moves = self.waiting.map(|(since, _)| since + WITHIN);
        moves.into_iter().chain(self.proof).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// How long it takes until somebody who sends `bytes` every `every` is cut off, in a frame of `frame` bytes.
    fn cut_off(mut pace: Pace, bytes: usize, every: Duration, frame: usize) -> Option<Duration> {
        let (mut now, mut sent) = (Time(7 * SECOND), 0);
        let begun = now;
        while sent < frame {
            let next = now + every;
            if let Some(due) = pace.due().filter(|due| *due <= next) {
                return Some(due.since(begun));
            }
            (now, sent) = (next, sent + bytes);
            pace.received(now, bytes, usize::from(sent >= frame), sent < frame);
        }
        assert_eq!(pace.due(), None, "between two frames anybody may be silent");
        None
    }

    #[test]
    fn who_drips_is_cut_off_within_a_bound_and_an_honest_slow_link_is_not() {
        let (stranger, member) = (Pace::unproved(Time(7 * SECOND)), Pace::proved());
        let (second, largest) = (Duration::from_secs(1), super::super::MAX_FRAME);
        // A byte a second: as a stranger, and in the middle of a stream.
        assert_eq!(cut_off(stranger, 1, second, 100), Some(WITHIN));
        assert_eq!(cut_off(member, 1, second, 100), Some(second + WITHIN));
        // Just enough to move on, and not enough to ever prove anything.
        assert_eq!(cut_off(stranger, LEAST_BYTES as usize, second * 4, 65_000), Some(PROOF_WITHIN));
        // The largest frame over 16 kbit/s takes a quarter of an hour.
        assert_eq!(cut_off(member, 2048, second, largest), None);
        // A stranger's first frame over 64 kbit/s.
        assert_eq!(cut_off(stranger, 8192, second, 65_000), None);
        // One that stops in the middle.
        assert!(cut_off(member, 1 << 20, WITHIN * 2, largest).is_some());
    }

    #[test]
    fn silence_before_the_first_frame_is_bounded_too() {
        let now = Time(SECOND);
        assert_eq!(Pace::unproved(now).due(), Some(now + WITHIN));
        assert_eq!(Pace::proved().due(), None);
    }
}
