//! Every scenario in `scenarios/` goes as it is written there.
//!
//! `HOLDFAST_SCENARIO=NAME` runs one of them alone. `HOLDFAST_BLESS=1` writes down what came of them instead; read the difference before you commit it.

use std::path::{Path, PathBuf};

use holdfast_integration::sim::scenario::run_file;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(&folder).expect("the folder of scenarios is readable");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder of scenarios is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

#[test]
fn scenarios_go_as_they_are_written() {
    let bless = std::env::var_os("HOLDFAST_BLESS").is_some();
    let only = std::env::var("HOLDFAST_SCENARIO").ok();
    let files = files();
    assert!(!files.is_empty(), "there are no scenarios");
    let mut wrong = Vec::new();
    for path in
        files.iter().filter(|path| only.as_ref().is_none_or(|only| path.ends_with(format!("{only}.txt"))))
    {
        match run_file(path) {
            Ok(outcome) if outcome.passed() => {}
            // What breaks a rule, or does not come about, is never written down as right.
            Ok(outcome) if bless && outcome.failure.is_none() => {
                std::fs::write(path, &outcome.text).expect("the scenario can be written");
            }
            Ok(outcome) => wrong.push(outcome.report()),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
