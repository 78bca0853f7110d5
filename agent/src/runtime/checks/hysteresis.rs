//! How many runs in a row make a judgement: one that differs does not.
//!
//! Pure. Invariant: the judgement changes only with a run that says so, and, after the first, only with the
//! `rise`th or `fall`th of them in a row.

/// The judgement of one check.
#[derive(Clone, Debug)]
pub(super) struct Hysteresis {
    rise: u32,
    fall: u32,
    passing: Option<bool>,
    /// Runs in a row that say otherwise.
    against: u32,
}

impl Hysteresis {
    /// Not judged yet. `rise` and `fall` count runs in a row and are at least 1.
    pub(super) fn new(rise: u32, fall: u32) -> Hysteresis {
        Hysteresis { rise, fall, passing: None, against: 0 }
    }

    /// Takes the outcome of a run in; the new judgement where it changes. The first run judges at once: a member
    /// that starts must not count as well for want of runs.
    pub(super) fn take(&mut self, passed: bool) -> Option<bool> {
        let needed = match self.passing {
            None => 1,
            Some(passing) if passing == passed => {
                self.against = 0;
                return None;
            }
            Some(true) => self.fall,
            Some(false) => self.rise,
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.passing = Some(passed);
        self.passing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(rise: u32, fall: u32, runs: &str) -> String {
        let mut judged = Hysteresis::new(rise, fall);
        let shown = |change| match change {
            None => '.',
            Some(true) => 'U',
            Some(false) => 'D',
        };
        runs.chars().map(|run| shown(judged.take(run == '+'))).collect()
    }

    #[test]
    fn the_first_run_judges_at_once() {
        assert_eq!(changes(5, 5, "+"), "U");
        assert_eq!(changes(5, 5, "-"), "D");
    }

    #[test]
    fn it_falls_and_rises_only_with_enough_runs_in_a_row() {
        assert_eq!(changes(2, 3, "+--+--+---"), "U........D");
        assert_eq!(changes(2, 3, "+----+-+-++"), "U..D......U");
        assert_eq!(changes(1, 1, "+-+-"), "UDUD");
    }

    #[test]
    fn a_judgement_is_said_once() {
        assert_eq!(changes(2, 2, "++++----++++"), "U....D...U..");
    }
}
