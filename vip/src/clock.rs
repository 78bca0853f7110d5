//! The clock of the gate: CLOCK_BOOTTIME, which counts suspend and never jumps.

use nix::time::{ClockId, clock_gettime};

/// The present moment, in nanoseconds of CLOCK_BOOTTIME. The eBPF gate compares against the same clock.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every kernel this runs on has CLOCK_BOOTTIME");
    let seconds = u64::try_from(now.tv_sec()).expect("time since boot is not negative");
    let nanoseconds = u64::try_from(now.tv_nsec()).expect("a fraction of a second is not negative");
    seconds * 1_000_000_000 + nanoseconds
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_never_goes_back() {
        let earlier = super::boottime_ns();
        assert!(super::boottime_ns() >= earlier);
        assert!(earlier > 0);
    }
}
