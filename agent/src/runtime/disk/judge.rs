//! Whether the disk takes small writes in time, judged by somebody who does not wait for it.
//!
//! Pure: [`Judge::look`] is called with what the writer's progress is and how long ago it was called last.
//! Time counts only while looks follow each other: a process that was stopped, or a machine that was suspended,
//! says nothing about a disk. Invariants: a write under way that is older than the bound, or one that failed
//! otherwise than for want of space, is a bad disk at once; a bad one is good again only after
//! [`GOOD_IN_A_ROW`] writes in time, one after the other.

use std::time::Duration;

/// Writes in time, one after the other, that make a disk good again.
pub(super) const GOOD_IN_A_ROW: u32 = 3;

/// How far the writer has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Writes that were begun; the last one is under way while this is greater than `ended`.
    pub begun: u64,
    /// Writes that have ended.
    pub ended: u64,
    /// How the last of them ended.
    pub outcome: Option<Ended>,
    /// How long the last of them took, by the writer's clock: shown, never judged by.
    pub took: Duration,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is durable.
    Durable,
    /// There was no space: the disk is full, and works.
    NoSpace,
    /// The disk, or the file system, refused.
    Failed(String),
}

/// The judgement of one disk.
#[derive(Debug)]
pub(super) struct Judge {
    bound: Duration,
    /// Longest time between two looks that counts.
    most_at_once: Duration,
    begun: u64,
    ended: u64,
    /// How long the newest write was seen to be under way.
    waited: Duration,
    good_in_a_row: u32,
    bad: Option<Bad>,
}

/// Why a disk is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Late,
    Failed(String),
}

impl Judge {
    /// Good, until shown otherwise. Looks follow each other about every `look_every`.
    pub(super) fn new(bound: Duration, look_every: Duration) -> Judge {
        Judge {
            bound,
            most_at_once: look_every * 3,
            begun: 0,
            ended: 0,
            waited: Duration::ZERO,
            good_in_a_row: 0,
            bad: None,
        }
    }

    /// Why the disk is bad, if it is.
    pub(super) fn bad(&self) -> Option<&Bad> {
        self.bad.as_ref()
    }

    /// How long the write that is under way, or the last one, was seen to take.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    /// Takes in how far the writer is, `since` the last look.
    pub(super) fn look(&mut self, since: Duration, progress: &Progress) {
        if progress.begun != self.begun {
            self.begun = progress.begun;
            self.waited = Duration::ZERO;
        } else if self.ended < self.begun {
            self.waited += since.min(self.most_at_once);
        }
        let late = self.waited > self.bound;
        if progress.ended != self.ended {
            self.ended = progress.ended;
            match &progress.outcome {
                Some(Ended::Failed(why)) => {
                    self.good_in_a_row = 0;
                    self.bad = Some(Bad::Failed(why.clone()));
                }
                _ if late => self.good_in_a_row = 0,
                _ => self.good_in_a_row += 1,
            }
        }
        if self.ended < self.begun && late && self.bad.is_none() {
            self.bad = Some(Bad::Late);
        }
        if self.ended < self.begun && late {
            self.good_in_a_row = 0;
        }
        if self.good_in_a_row >= GOOD_IN_A_ROW {
            self.bad = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// A judge with a bound of one second, and the writer that it looks at.
    struct Scene {
        judge: Judge,
        progress: Progress,
    }

    impl Scene {
        fn new() -> Scene {
            Scene { judge: Judge::new(Duration::from_secs(1), TICK), progress: Progress::default() }
        }

        fn looks(&mut self, count: u32) {
            (0..count).for_each(|_| self.judge.look(TICK, &self.progress));
        }

        fn begin(&mut self) {
            self.progress.begun += 1;
            self.looks(1);
        }

        fn end(&mut self, outcome: Ended) {
            self.progress.ended = self.progress.begun;
            self.progress.outcome = Some(outcome);
            self.looks(1);
        }

        fn good_writes(&mut self, count: u32) {
            for _ in 0..count {
                self.begin();
                self.looks(5);
                self.end(Ended::Durable);
                self.looks(4);
            }
        }
    }

    #[test]
    fn writes_in_time_are_a_good_disk() {
        let mut scene = Scene::new();
        scene.good_writes(50);
        assert_eq!(scene.judge.bad(), None);
    }

    #[test]
    fn a_write_that_does_not_end_is_a_bad_disk_after_the_bound_and_not_before() {
        let mut scene = Scene::new();
        scene.good_writes(2);
        scene.begin();
        scene.looks(10);
        assert_eq!(scene.judge.bad(), None);
        scene.looks(1);
        assert_eq!(scene.judge.bad(), Some(&Bad::Late));
    }

    #[test]
    fn it_is_good_again_only_after_several_writes_in_time() {
        let mut scene = Scene::new();
        scene.begin();
        scene.looks(20);
        // The late one itself says nothing good, however it ends.
        scene.end(Ended::Durable);
        scene.good_writes(GOOD_IN_A_ROW - 1);
        assert_eq!(scene.judge.bad(), Some(&Bad::Late));
        // One that is late in between begins the count anew.
        scene.begin();
        scene.looks(15);
        scene.end(Ended::Durable);
        scene.good_writes(GOOD_IN_A_ROW - 1);
        assert!(scene.judge.bad().is_some());
        scene.good_writes(1);
        assert_eq!(scene.judge.bad(), None);
    }

    #[test]
    fn a_refused_write_is_a_bad_disk_at_once_and_a_full_one_is_not() {
        let mut scene = Scene::new();
        scene.begin();
        scene.end(Ended::NoSpace);
        assert_eq!(scene.judge.bad(), None);
        scene.begin();
        scene.end(Ended::Failed("Input/output error".into()));
        assert_eq!(scene.judge.bad(), Some(&Bad::Failed("Input/output error".into())));
        scene.good_writes(GOOD_IN_A_ROW);
        assert_eq!(scene.judge.bad(), None);
    }

    #[test]
    fn a_process_that_was_stopped_says_nothing_about_the_disk() {
        let mut scene = Scene::new();
        scene.begin();
        scene.judge.look(Duration::from_secs(3600), &scene.progress);
        assert_eq!(scene.judge.bad(), None, "the looks stood still too");
        scene.end(Ended::Durable);
        scene.good_writes(5);
        assert_eq!(scene.judge.bad(), None);
    }
}
