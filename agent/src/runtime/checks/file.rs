//! Something exists at a path, and is young enough where an age is given.
//!
//! Ages are by the wall clock, which is what wrote them: a file from the future counts as young.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use holdfast_config::show_duration;

use super::{Apart, Outcome};

pub(super) struct File {
    path: PathBuf,
    max_age: Option<Duration>,
    apart: Apart,
}

impl File {
    pub(super) fn new(path: PathBuf, max_age: Option<Duration>) -> File {
        File { path, max_age, apart: Apart::default() }
    }

    pub(super) async fn run(&mut self) -> Outcome {
        let (path, max_age) = (self.path.clone(), self.max_age);
        self.apart.run(move || look(&path, max_age)).await
    }
}

fn look(path: &Path, max_age: Option<Duration>) -> Outcome {
    let modified = match std::fs::metadata(path).and_then(|found| found.modified()) {
        Ok(modified) => modified,
        Err(error) => return Outcome::failed(format!("{}: {error}", path.display())),
    };
    let age = SystemTime::now().duration_since(modified).unwrap_or_default();
    match max_age {
        None => Outcome::passed("exists"),
        Some(most) => {
            let words = format!("modified {} ago", show_duration(Duration::from_secs(age.as_secs())));
            Outcome { passed: age <= most, words }
        }
    }
}
