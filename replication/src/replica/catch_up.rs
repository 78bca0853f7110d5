//! How far a member is that lacks much, for people, and how fast it may be brought up to date.
//!
//! Both sides know of it: the primary by what each peer acknowledged, a standby by what the primary said was to come.
//! Nothing is decided by the figures. The [`Allowance`] bounds what a member is sent that nobody waits for; by how much
//! the log grows meanwhile it is more, so that every member catches up in the end however much is written.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_heartbeat::{Lsn, Time};
use serde::Serialize;

/// Whoever lacks more than this is catching up, in bytes: twice what may be lacked at the moment of admission.
const FAR: u64 = 8 << 20;
/// Whoever lacks no more than this has caught up, in bytes. Below [`FAR`], so that it is not said in turns.
const NEAR: u64 = 1 << 20;
/// What is lacked last is sent without limit, in bytes. A member that is about to be admitted is never held
/// back.
pub(super) const UNLIMITED: u64 = 16 << 20;
/// The pace that is shown is that of so long.
const PACE_OVER: Duration = Duration::from_secs(10);
/// Its samples are so far apart at least.
const APART: Duration = Duration::from_millis(500);
/// An allowance that was not used is kept for so long.
const KEPT_FOR: Duration = Duration::from_millis(250);
/// Fewest bytes of records that are sent at a time under a limit.
const LEAST_RUN: u64 = 64 << 10;

/// A member that lacks much, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CatchUp {
    /// Bytes of the log that it was sent since it began.
    pub received_bytes: u64,
    /// Bytes that it lacks. On the member itself at most so many: it does not know what is garbage by now.
    pub remaining_bytes: u64,
    /// How much of both together it has, in percent.
    pub percent: u64,
    /// How fast it goes at present.
    pub bytes_per_second: u64,
    /// When it has caught up at this pace, in seconds; not known while nothing moves.
    pub seconds_left: Option<u64>,
    /// How long it has been at it, in milliseconds.
    pub running_ms: u64,
    /// The most that the primary sends, where that is limited, in bytes a second beyond what is written meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes_per_second: Option<u64>,
}

/// Watches a member catch up.
#[derive(Debug, Default)]
pub(super) struct Watch(Option<Running>);

#[derive(Debug)]
struct Running {
    began: Time,
    received: u64,
    remaining: u64,
    /// When how much had been received.
    samples: VecDeque<(Time, u64)>,
}

impl Watch {
    /// `received` more bytes came, and `remaining` are to come.
    pub(super) fn note(&mut self, received: u64, remaining: u64, now: Time) {
        if remaining <= NEAR || (self.0.is_none() && remaining <= FAR) {
            self.0 = None;
            return;
        }
        let fresh = || Running { began: now, received: 0, remaining, samples: [(now, 0)].into() };
        let running = self.0.get_or_insert_with(fresh);
        running.received += received;
        running.remaining = remaining;
        if running.samples.back().is_none_or(|(at, _)| now.since(*at) >= APART) {
            running.samples.push_back((now, running.received));
            while running.samples.len() > 2 && now.since(running.samples[1].0) >= PACE_OVER {
                running.samples.pop_front();
            }
        }
    }

    pub(super) fn status(&self, now: Time, limit: Option<u64>) -> Option<CatchUp> {
        let running = self.0.as_ref()?;
        let (since, had) = running.samples.front().copied().unwrap_or((now, running.received));
        let millis = now.since(since).as_millis().max(1);
        let pace = u128::from(running.received - had) * 1000 / millis;
        let bytes_per_second = u64::try_from(pace).unwrap_or(u64::MAX);
        let both = u128::from(running.received) + u128::from(running.remaining);
        let percent = (u128::from(running.received) * 100).checked_div(both).unwrap_or(100);
        Some(CatchUp {
            received_bytes: running.received,
            remaining_bytes: running.remaining,
            percent: percent as u64,
            bytes_per_second,
            seconds_left: running.remaining.checked_div(bytes_per_second),
            running_ms: u64::try_from(now.since(running.began).as_millis()).unwrap_or(u64::MAX),
            limit_bytes_per_second: limit,
        })
    }
}

/// What a member may be sent that nobody waits for.
#[derive(Debug)]
pub(super) struct Allowance {
    /// Bytes; below zero while what was sent last is not yet allowed.
    bytes: i64,
    at: Time,
    /// The end of the log then.
    end: Lsn,
}

impl Allowance {
    pub(super) fn new(now: Time, end: Lsn) -> Allowance {
        Allowance { bytes: 0, at: now, end }
    }

    /// Time has passed, and the log has grown.
    pub(super) fn grow(&mut self, rate: u64, now: Time, end: Lsn) {
        let of = |span: Duration| {
            i64::try_from(u128::from(rate) * span.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX)
        };
        let most = of(KEPT_FOR).max(LEAST_RUN as i64);
        let earned = of(now.since(self.at));
        if earned > 0 {
            self.bytes = self.bytes.saturating_add(earned).min(most.max(self.bytes));
            self.at = now;
        }
        let grown = i64::try_from(end.bytes_since(self.end)).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add(grown);
        self.end = end;
    }

    /// Bytes of records that may be sent at once now.
    pub(super) fn run(&self, rate: u64, most: usize) -> Option<usize> {
        let share = (rate / 10).max(LEAST_RUN);
        (self.bytes > 0).then(|| usize::try_from(share).unwrap_or(most).min(most))
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// When something may be sent again.
    pub(super) fn due(&self, rate: u64) -> Time {
        let owed = u128::try_from(1 - self.bytes).unwrap_or(0);
        let nanos = (owed * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
        self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn progress_is_shown_from_far_behind_until_nearly_there_with_its_pace() {
        let mut watch = Watch::default();
        watch.note(0, FAR, at(0));
        assert_eq!(watch.status(at(0), None), None, "a little behind is nothing to speak of");
        let all = 100 << 20;
        watch.note(0, all, at(1000));
        for second in 1..=20 {
            watch.note(2 << 20, all - (second << 21), at(1000 + second * 1000));
        }
        let status = watch.status(at(21_000), Some(5)).unwrap();
        assert_eq!((status.received_bytes, status.remaining_bytes, status.percent), (40 << 20, 60 << 20, 40));
        assert_eq!((status.bytes_per_second, status.seconds_left), (2 << 20, Some(30)));
        assert_eq!((status.running_ms, status.limit_bytes_per_second), (20_000, Some(5)));
        // It stands still: the pace goes down, and nobody knows when it ends.
        for second in 21..60 {
            watch.note(0, 60 << 20, at(1000 + second * 1000));
        }
        let status = watch.status(at(60_000), None).unwrap();
        assert_eq!((status.bytes_per_second, status.seconds_left), (0, None));
        watch.note(1, NEAR + 1, at(61_000));
        assert!(watch.status(at(61_000), None).is_some(), "not said in turns");
        watch.note(1, NEAR, at(61_000));
        assert_eq!(watch.status(at(61_000), None), None);
    }

    /// What is sent within `seconds` while so much is written in each, looked at every `every` milliseconds.
    fn sent(rate: u64, written: u64, seconds: u64, every: u64) -> u64 {
        let (mut allowance, mut end, mut sent) = (Allowance::new(at(0), Lsn(0)), 0, 0);
        for ms in (0..=seconds * 1000).step_by(every as usize) {
            end += written * every / 1000;
            allowance.grow(rate, at(ms), Lsn(end));
            while let Some(run) = allowance.run(rate, 1 << 20) {
                allowance.spend(run as u64);
                sent += run as u64;
            }
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_and_what_is_written_meanwhile_comes_on_top() {
        for (rate, written, every) in
            [(10 << 20, 0, 1), (10 << 20, 0, 100), (1 << 20, 30 << 20, 7), (100_000, 0, 1), (1 << 30, 0, 50)]
        {
            let (got, allowed) = (sent(rate, written, 20, every), 20 * (rate + written));
            let slack = allowed / 50 + (1 << 20);
            assert!(got <= allowed + slack && got + slack >= allowed, "{got} of {allowed}");
        }
        // Who looks rarely sends no flood for the time that was slept through.
        let mut allowance = Allowance::new(at(0), Lsn(0));
        allowance.grow(1 << 20, at(3_600_000), Lsn(0));
        assert!(allowance.bytes <= 1 << 20);
        let mut spent = Allowance::new(at(0), Lsn(0));
        spent.spend(1 << 20);
        assert_eq!(spent.due(1 << 20).0, at(1000).0 + 954);
        assert_eq!(spent.run(1 << 20, 1 << 20), None);
        spent.grow(1 << 20, spent.due(1 << 20), Lsn(0));
        assert!(spent.run(1 << 20, 1 << 20).is_some());
    }
}
