//! Other programs on this host that take off or change what is ours: what is said of it, and how often.
//!
//! What they did is mended each time and at once; that is not decided here. What happens together is one line
//! of the history; from the [`FIGHT`]th time within [`QUIET`] on it is called a fight, in one line more and a
//! warning of `ha status`, until they have left us alone for that long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Saying;
use super::rivals::listed;

/// What is mended within this time of the first belongs together.
const TOGETHER: Duration = Duration::from_millis(100);
/// So many times within [`QUIET`] are a fight.
const FIGHT: usize = 4;
/// After so long without meddling it is over.
const QUIET: Duration = Duration::from_secs(60);

/// Something that was mended.
#[derive(Clone, Debug)]
pub(super) struct Mended {
    /// An address or a route, in words.
    pub(super) what: String,
    /// What was done to it, as in `was taken off`.
    pub(super) did: String,
    /// The interface.
    pub(super) interface: String,
    /// From the kernel's notice until it was mended.
    pub(super) took: Duration,
}

/// What other programs did lately.
#[derive(Debug, Default)]
pub(super) struct Meddling {
    /// What belongs together, and since when.
    open: Option<(Instant, Vec<Mended>)>,
    /// When it happened lately; at most [`FIGHT`].
    times: VecDeque<Instant>,
    /// The last time.
    last: Option<Instant>,
    /// The fight that was reported.
    fight: Option<Fight>,
}

#[derive(Debug)]
struct Fight {
    mended: u64,
    words: String,
}

fn hint(interface: &str) -> String {
    format!(
        "Whoever manages {interface} must leave it alone: NetworkManager with `unmanaged-devices=interface-name:{interface}`, systemd-networkd with `KeepConfiguration=yes` (and `ManageForeignRoutes=no` in networkd.conf)"
    )
}

impl Meddling {
    /// Takes in what was mended just now.
    pub(super) fn mended(&mut self, now: Instant, mended: Mended) {
        self.last = Some(now);
        match &mut self.open {
            Some((_, together)) => together.push(mended),
            None => self.open = Some((now, vec![mended])),
        }
    }

    /// What there is to say by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Option<Saying> {
        if self.open.as_ref().is_some_and(|(begun, _)| now >= *begun + TOGETHER) {
            let (begun, together) = self.open.take()?;
            return self.close(begun, &together);
        }
        if self.open.is_none() && self.last.is_some_and(|last| now >= last + QUIET) {
            self.last = None;
            self.times.clear();
            return self.fight.take().map(|fight| {
                Saying::Note(format!(
                    "the other program has left the virtual addresses alone for {} s; they had been mended {} more times",
                    QUIET.as_secs(),
                    fight.mended
                ))
            });
        }
        None
    }

    fn close(&mut self, begun: Instant, together: &[Mended]) -> Option<Saying> {
        let first = together.first()?;
        if let Some(fight) = &mut self.fight {
            fight.mended += together.len() as u64;
            return None;
        }
        self.times.push_back(begun);
        while self.times.front().is_some_and(|at| begun >= *at + QUIET) {
            self.times.pop_front();
        }
        let mut names: Vec<String> = together.iter().map(|mended| mended.what.clone()).collect();
        names.dedup();
        let (which, hint) = (listed(&names), hint(&first.interface));
        if self.times.len() >= FIGHT {
            let words = format!(
                "another program on this host fights for {which}: {FIGHT} times in {} s it {}. It is mended each time. {hint}",
                QUIET.as_secs(),
                first.did
            );
            self.times.clear();
            self.fight = Some(Fight { mended: 0, words: words.clone() });
            return Some(Saying::Warning(words));
        }
        let took = together.iter().map(|mended| mended.took).max().unwrap_or_default();
        Some(Saying::Note(format!("{which} {}; put back after {} us. {hint}", first.did, took.as_micros())))
    }

    /// When [`due`](Meddling::due) has something next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        match &self.open {
            Some((begun, _)) => Some(*begun + TOGETHER),
            None => self.last.map(|last| last + QUIET),
        }
    }

    /// What `ha status` says of it.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.fight.iter().map(|fight| fight.words.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(what: &str) -> Mended {
        Mended {
            what: what.to_owned(),
            did: "was taken off by another program".to_owned(),
            interface: "eth1".to_owned(),
            took: Duration::from_micros(912),
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_happens_together_is_one_line() {
        let (mut meddling, begun) = (Meddling::default(), Instant::now());
        for n in 0..5 {
            meddling.mended(begun + ms(n), taken(&format!("10.0.0.{n} on eth1")));
        }
        assert!(meddling.due(begun + ms(99)).is_none());
        assert_eq!(meddling.next_at(), Some(begun + TOGETHER));
        let Some(Saying::Note(words)) = meddling.due(begun + TOGETHER) else { panic!("a note") };
        assert!(words.contains("10.0.0.2 on eth1 and 2 more was taken off"), "{words}");
        assert!(words.contains("after 912 us") && words.contains("unmanaged-devices"), "{words}");
        assert!(meddling.due(begun + ms(200)).is_none());
        assert!(meddling.warnings().is_empty());
    }

    #[test]
    fn a_fight_is_said_to_be_one_and_does_not_fill_the_history() {
        let (mut meddling, begun) = (Meddling::default(), Instant::now());
        let (mut notes, mut warnings) = (0, 0);
        for second in 0..600 {
            let now = begun + Duration::from_secs(second);
            meddling.mended(now, taken("10.0.0.100 on eth1"));
            match meddling.due(now + TOGETHER) {
                Some(Saying::Note(_)) => notes += 1,
                Some(Saying::Warning(words)) => {
                    warnings += 1;
                    assert!(words.contains("fights for 10.0.0.100 on eth1"), "{words}");
                }
                None => {}
            }
        }
        assert_eq!((notes, warnings), (FIGHT - 1, 1));
        assert_eq!(meddling.warnings().len(), 1);
        let last = begun + Duration::from_secs(599);
        assert_eq!(meddling.next_at(), Some(last + QUIET));
        let Some(Saying::Note(words)) = meddling.due(last + QUIET) else { panic!("a note") };
        assert!(words.contains("596 more times"), "{words}");
        assert!(meddling.warnings().is_empty() && meddling.next_at().is_none());
    }

    #[test]
    fn once_an_hour_is_no_fight() {
        let (mut meddling, begun) = (Meddling::default(), Instant::now());
        for hour in 0..10 {
            let now = begun + Duration::from_secs(3600 * hour);
            meddling.mended(now, taken("10.0.0.100 on eth1"));
            assert!(matches!(meddling.due(now + TOGETHER), Some(Saying::Note(_))));
            assert!(meddling.due(now + QUIET * 2).is_none());
        }
    }
}
