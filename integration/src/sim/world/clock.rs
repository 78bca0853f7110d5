//! A host's two clocks as functions of the world's time.
//!
//! The clock that decides (CLOCK_BOOTTIME) starts at a host's power-on, never jumps, counts suspend, and
//! may run fast or slow. The wall clock may show anything at any time, which must matter to nobody.

use holdfast_heartbeat::Time;

use super::Ns;

/// What a host's clocks show.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The world's time at which the present rate began, and what the clock showed then.
    since: (Ns, u64),
    /// How much faster than the world it runs, in millionths.
    ppm: i64,
    /// What the wall clock shows beyond the world's time, in milliseconds; it may be wrong by years.
    wall_offset_ms: i64,
}

/// What a wall clock shows at the beginning of the world: an hour in 2026.
const WALL_AT_ZERO_MS: i64 = 1_790_000_000_000;

const MILLION: i64 = 1_000_000;

impl Clock {
    /// The clocks of a host that is switched on at `now`.
    pub fn new(now: Ns, ppm: i64) -> Clock {
        // A host's clock shows a few seconds before the agent starts.
        Clock { since: (now, 3_000_000_000), ppm, wall_offset_ms: 0 }
    }

    /// The deciding clock at `now`.
    pub fn at(&self, now: Ns) -> Time {
        let passed = (now - self.since.0) as i64;
        // In whole millions and the rest, so that no product needs more than 64 bits.
        let drift = passed / MILLION * self.ppm + passed % MILLION * self.ppm / MILLION;
        Time(self.since.1.saturating_add_signed(passed + drift))
    }

    /// The first moment of the world at which the deciding clock shows `time` or later.
    pub fn when(&self, time: Time) -> Ns {
        if time == Time::NEVER {
            return Ns::MAX;
        }
        let Some(ahead) = time.0.checked_sub(self.since.1) else { return self.since.0 };
        let (ahead, rate) = (ahead as i64, MILLION + self.ppm);
        let mut at =
            self.since.0.saturating_add_signed(ahead / rate * MILLION + ahead % rate * MILLION / rate);
        while self.at(at) < time {
            at += 1;
        }
        at
    }

    /// Changes the rate from `now` on; the clock does not jump.
    pub fn set_rate(&mut self, now: Ns, ppm: i64) {
        self.since = (now, self.at(now).0);
        self.ppm = ppm;
    }

    /// The rate, in millionths beyond the world's.
    pub fn ppm(&self) -> i64 {
        self.ppm
    }

    /// Moves the wall clock.
    pub fn jump_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms = self.wall_offset_ms.saturating_add(by_ms);
    }

    /// The wall clock at `now`, in milliseconds since 1970.
    pub fn wall_ms(&self, now: Ns) -> u64 {
        (WALL_AT_ZERO_MS + (now / 1_000_000) as i64).saturating_add(self.wall_offset_ms).max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_first_at_the_moment_that_when_names() {
        for ppm in [-20_000, -333, 0, 1, 4_000, 20_000] {
            let mut clock = Clock::new(77, ppm);
            clock.set_rate(1_000_003, -ppm);
            for ahead in [0, 1, 999, 1_000_000_007] {
                let time = Time(clock.at(1_000_003).0 + ahead);
                let when = clock.when(time);
                assert!(clock.at(when) >= time);
                assert!(when == 1_000_003 || clock.at(when - 1) < time, "{ppm} {ahead}");
            }
        }
    }
}
