//! A scenario file as it is written: prose, a cluster, steps.

use super::golden::MARK;
use super::words::{self, Misread, Step};
use crate::sim::world::shape::Shape;

/// What the line that describes the cluster begins with.
const CLUSTER: &str = "cluster:";

/// A step and where it stands.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The number of its line, from 1.
    pub number: usize,
    /// The line.
    pub text: String,
    /// What it means.
    pub step: Step,
}

/// A scenario.
#[derive(Clone, Debug)]
pub struct Script {
    /// The whole file.
    pub text: String,
    /// Its first line.
    pub title: String,
    /// The members and their settings.
    pub shape: Shape,
    /// Whether the agents run, and the cluster is healthy, before the first step.
    pub started: bool,
    /// What is done.
    pub steps: Vec<Placed>,
}

/// A line that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{number}: {what}\n  {line}\n{known}")]
pub struct ParseError {
    /// The file.
    pub file: String,
    /// The line's number, from 1.
    pub number: usize,
    /// The line.
    pub line: String,
    /// What is wrong with it.
    pub what: String,
    /// What could stand there.
    pub known: String,
}

impl Script {
    /// Reads the text of `file`.
    pub fn parse(file: &str, text: &str) -> Result<Script, ParseError> {
        let error = |number: usize, line: &str, misread: Misread| ParseError {
            file: file.to_owned(),
            number,
            line: line.to_owned(),
            what: misread.what,
            known: misread.known,
        };
        let mut cluster = None;
        let mut steps = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let said = line.split('#').next().unwrap_or_default().trim();
            match &cluster {
                _ if line.starts_with(MARK) || said.is_empty() => {}
                None => {
                    if let Some(items) = said.strip_prefix(CLUSTER) {
                        cluster =
                            Some(words::cluster(items).map_err(|misread| error(number, line, misread))?);
                    }
                }
                Some((shape, _)) => {
                    let step = words::step(said, shape).map_err(|misread| error(number, line, misread))?;
                    steps.push(Placed { number, text: said.to_owned(), step });
                }
            }
        }
        let Some((shape, started)) = cluster else {
            let what = format!("no line begins with {CLUSTER:?}");
            let known = "  a scenario has a title, prose, such a line, and then steps".to_owned();
            return Err(error(text.lines().count(), "", Misread { what, known }));
        };
        let title = text.lines().next().unwrap_or_default().to_owned();
        Ok(Script { text: text.to_owned(), title, shape, started, steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_step_is_an_error_that_names_the_line_and_what_is_known() {
        let text = "Title\n\ncluster: 2 data, witness\n# nothing yet\npower of a\n";
        let error = Script::parse("some.txt", text).expect_err("there is no such step");
        assert_eq!((error.number, error.line.as_str()), (5, "power of a"));
        let shown = error.to_string();
        assert!(shown.starts_with("some.txt:5: "), "{shown}");
        assert!(shown.contains("power off HOST"), "{shown}");
    }

    #[test]
    fn a_host_that_is_not_there_is_an_error() {
        let error = Script::parse("some.txt", "T\ncluster: 2 data\nfreeze w\n").expect_err("there is no w");
        assert!(error.to_string().contains("a, b"), "{error}");
    }

    #[test]
    fn a_text_without_a_cluster_is_an_error() {
        assert!(Script::parse("some.txt", "Title\nfreeze a\n").is_err());
    }

    #[test]
    fn golden_lines_prose_and_comments_are_no_steps() {
        let text =
            "Title\n\nfreeze a: prose\n\ncluster: 3 data, interval 20ms # small\nfreeze a # now\n> seen\n";
        let script = Script::parse("some.txt", text).expect("it is a scenario");
        assert_eq!(script.steps.len(), 1);
        assert_eq!((script.shape.data, script.shape.witness, script.shape.interval_ms), (3, false, 20));
    }
}
