//! What every target has.

/// Something that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its corpus.
    pub name: &'static str,
    /// Runs one input; panics when something does not hold. Says whether the input was accepted, so that a
    /// target that accepts nothing any more is noticed.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that the real encoders made, and others that get deep into the parser.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that is worth trying, in bytes.
    pub max_len: usize,
    /// What the parser and the checks may allocate for one input of that length, in bytes.
    pub memory_bytes: usize,
}
