//! Many runs on several threads, one seed each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::run::{Verdict, quiet_panics, run_seed};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The first seed.
    pub from: u64,
    /// How many, at most.
    pub seeds: u64,
    /// For how long, at most.
    pub within: Duration,
    /// On how many threads.
    pub jobs: usize,
    /// Runs each seed a second time and compares.
    pub twice: bool,
    /// Goes on after a failure.
    pub keep_going: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Nanoseconds that the worlds lived together.
    pub simulated: u128,
    /// Things that happened in them.
    pub happened: u64,
    /// Requests that were answered with success.
    pub answered: u64,
    /// Members that became primary.
    pub reigns: u64,
    /// Times that space was won back.
    pub reclaims: u64,
    /// Questions about what clients saw that were left open.
    pub undecided: usize,
    /// How long it took.
    pub took: Duration,
    /// Runs in which a rule was broken.
    pub failed: Vec<Verdict>,
    /// Seeds that gave another event log the second time.
    pub differed: Vec<u64>,
}

impl Tally {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.differed.is_empty()
    }

    /// Simulated hours in a minute of real time.
    pub fn hours_per_minute(&self) -> f64 {
        let hours = self.simulated as f64 / 3.6e12;
        hours / (self.took.as_secs_f64() / 60.0).max(1e-9)
    }
}

impl Sweep {
    /// Runs everything; `tell` hears of each run as it ends.
    pub fn run(&self, tell: impl Fn(&Verdict, &Tally) + Sync) -> Tally {
        quiet_panics();
        let begun = Instant::now();
        let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let tally = Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) && begun.elapsed() < self.within {
                        let nth = next.fetch_add(1, Ordering::Relaxed);
                        if nth >= self.seeds {
                            return;
                        }
                        let seed = self.from.wrapping_add(nth);
                        let verdict = run_seed(seed, None);
                        let same = !self.twice || run_seed(seed, None).digest == verdict.digest;
                        let mut tally = tally.lock().expect("nobody panics with the tally in hand");
                        tally.add(&verdict, same, begun.elapsed());
                        if (verdict.violation.is_some() || !same) && !self.keep_going {
                            stop.store(true, Ordering::Relaxed);
                        }
                        tell(&verdict, &tally);
                    }
                });
            }
        });
        let mut tally = tally.into_inner().expect("nobody panics with the tally in hand");
        tally.took = begun.elapsed();
        tally.failed.sort_by_key(|verdict| verdict.seed);
        tally
    }
}

impl Tally {
    fn add(&mut self, verdict: &Verdict, same: bool, took: Duration) {
        self.runs += 1;
        self.simulated += u128::from(verdict.simulated);
        self.happened += verdict.happened;
        self.answered += verdict.answered;
        self.reigns += verdict.reigns;
        self.reclaims += verdict.reclaims;
        self.undecided += verdict.undecided;
        self.took = took;
        if verdict.violation.is_some() {
            self.failed.push(verdict.clone());
        }
        if !same {
            self.differed.push(verdict.seed);
        }
    }
}
