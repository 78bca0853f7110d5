//! Each fuzz target on its corpus and on some thousands of inputs like it, without libFuzzer: what no longer holds,
//! or no longer reaches its parser, is noticed with the other tests.

use std::fs;
use std::path::Path;

use holdfast_integration::fuzz::mutate::mutated;
use holdfast_integration::fuzz::{TARGETS, Target};
use holdfast_replication::testing::Dice;

/// Mutations of each target: a second or two of each in a build without optimisation.
const MUTATIONS: u64 = 4000;

/// What is committed, and what the real encoders make today.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("a directory that can be listed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    let seeds = (target.seeds)();
    seeds.into_iter().chain(files.iter().map(|path| fs::read(path).expect("a file"))).collect()
}

/// Runs the corpus and its mutations; a panic says with which input.
fn holds(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let corpus = corpus(target);
    let accepted = corpus.iter().filter(|input| told(target, input)).count();
    assert!(accepted > 0, "{name}: nothing of the corpus is accepted any more");
    let refused = corpus.len() - accepted;
    assert!(refused > 0, "{name}: everything is accepted");
    let mut dice = Dice(0x5eed);
    for _ in 0..MUTATIONS {
        told(target, &mutated(&mut dice, &corpus, target.max_len));
    }
}

fn told(target: &Target, input: &[u8]) -> bool {
    let outcome = std::panic::catch_unwind(|| (target.run)(input));
    outcome.unwrap_or_else(|panic| {
        eprintln!("{}: on the input (hexadecimal) {}", target.name, hex::encode(input));
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn config_holds() {
    holds("config");
}

#[test]
fn packet_holds() {
    holds("packet");
}

#[test]
fn stream_frame_holds() {
    holds("stream_frame");
}

#[test]
fn record_holds() {
    holds("record");
}

#[test]
fn state_file_holds() {
    holds("state_file");
}

#[test]
fn flight_holds() {
    holds("flight");
}
