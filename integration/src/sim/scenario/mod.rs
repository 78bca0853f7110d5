//! Scenario files: the protocol's behaviour as short texts with their golden outcome.
//!
//! A scenario is a text for people that a machine checks. It has a title and some prose, a line that describes
//! the cluster, and steps, one a line. Below each step, in lines that begin with `>`, stands what came of it:
//! changes of role, changes of the in-sync set, answers to orders, what clients saw. Those lines are written by
//! the runner and read by people; a run that differs from them fails, and shows the difference.
//!
//! ```text
//! The primary loses its power
//!
//! Prose: what the operator sees, and why it is right.
//!
//! cluster: 2 data, witness, interval 100ms
//! write x
//! > client  write x: stored
//! power off a
//! wait until b is primary
//! >   +300 ms  b  Standby -> Candidate ...
//! ```
//!
//! A time is counted from the last thing that was done to the cluster. The cluster of a scenario is healthy
//! when its first step begins: `a` is primary, everybody is in the in-sync set (unless the line says `not
//! started`). Networks and disks take always equally long, so that a time changes only with the protocol.
//! `#` begins a comment. [`words`] lists every step.
//!
//! [`script`] reads a file, [`play`] runs it, [`golden`] compares and rewrites. All checkers of the simulator
//! watch a scenario too, and its clients' history is judged at the end.

pub mod golden;
pub mod play;
pub mod script;
pub mod watch;
pub mod words;

use std::path::Path;

use self::script::{ParseError, Script};
use super::world::Ns;

/// Why a scenario could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{file}: {error}")]
    Unreadable {
        /// Its path.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not a scenario.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The file's path.
    pub file: String,
    /// Its first line.
    pub title: String,
    /// The file with the lines that this run would have below its steps.
    pub text: String,
    /// How these differ from those that the file has, if they do.
    pub difference: Option<String>,
    /// A step that did not come about, or a rule that was broken.
    pub failure: Option<String>,
    /// How long the world lived, in nanoseconds.
    pub simulated: Ns,
    /// Stands for everything that happened, in its order.
    pub digest: u64,
}

impl Outcome {
    /// Whether everything is as the file says.
    pub fn passed(&self) -> bool {
        self.failure.is_none() && self.difference.is_none()
    }

    /// For people: what is wrong, and how to go on.
    pub fn report(&self) -> String {
        match (&self.failure, &self.difference) {
            (None, None) => format!("{}: as written", self.file),
            (Some(failure), _) => format!("{}: {failure}", self.file),
            (None, Some(difference)) => format!(
                "{}: the outcome is not the one that is written there\n{difference}\
                 If each line is right, write it down: HOLDFAST_BLESS=1 cargo test -p holdfast-integration --test scenarios",
                self.file
            ),
        }
    }
}

/// Runs the scenario in a file. Nothing is written.
pub fn run_file(path: &Path) -> Result<Outcome, ScenarioError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ScenarioError::Unreadable { file: file.clone(), error })?;
    Ok(run_text(&file, &text)?)
}

/// Runs a scenario that was read from `file`.
pub fn run_text(file: &str, text: &str) -> Result<Outcome, ParseError> {
    let script = Script::parse(file, text)?;
    let played = play::play(&script);
    let text = golden::rewritten(&script, &played.lines);
    Ok(Outcome {
        file: file.to_owned(),
        title: script.title.clone(),
        difference: golden::difference(&script.text, &text),
        text,
        failure: played.failure,
        simulated: played.simulated,
        digest: played.digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: &str = "Calm\n\ncluster: 2 data, witness\nnothing changes for 1s\n";

    fn run(steps: &str) -> Outcome {
        run_text("some.txt", &format!("{CALM}{steps}")).expect("it is a scenario")
    }

    #[test]
    fn a_run_that_differs_from_what_is_written_does_not_pass() {
        let wrong = run("write x\n>     +2 ms  client  write x: lost\n");
        assert!(wrong.failure.is_none() && !wrong.passed());
        assert!(wrong.report().contains("- >     +2 ms  client  write x: lost"), "{}", wrong.report());
        let right = run_text("some.txt", &wrong.text).expect("it is a scenario");
        assert!(right.passed(), "{}", right.report());
        assert_eq!(right.digest, wrong.digest);
    }

    #[test]
    fn a_step_that_does_not_come_about_does_not_pass() {
        for (steps, what) in [
            ("write x fails\n", "line 5"),
            ("power off a\nnothing changes for 1s\n", "a role or an epoch changes"),
            ("power off w\npower off a\nwait until b is primary\n", "does not come about"),
        ] {
            let outcome = run(steps);
            let failure = outcome.failure.expect("it cannot come about");
            assert!(failure.contains(what), "{failure}");
        }
    }
}
