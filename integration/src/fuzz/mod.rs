//! What is fuzzed: everything that parses bytes from outside, and what must hold of each outcome.
//!
//! ```text
//!   config.rs        HCL text                       -> Config, or faults with their places
//!   packet.rs        a datagram, an authentic body  -> heartbeat or notice
//!   stream_frame.rs  a handshake, decrypted bytes   -> frames of the replication stream
//!   record.rs        a segment file with damage     -> the log that opens, or the reason why not
//!   state_file.rs    member.json                    -> what a member must not forget
//!   flight.rs        a recording                    -> what can be replayed of it
//!   mutate.rs        bytes like those of a corpus, from a fixed seed
//! ```
//!
//! libFuzzer runs the targets millions of times (`integration/fuzz/run`, a workspace of its own); the test
//! `fuzz_targets` runs them on the committed corpora and some thousands of mutations of it, so that a target
//! which no longer holds or no longer reaches its parser is noticed without it. A target panics when something
//! does not hold. None of them touches a disk, a socket or a clock.

pub mod config;
pub mod flight;
pub mod mutate;
pub mod packet;
pub mod record;
pub mod state_file;
pub mod stream_frame;
mod target;

pub use target::Target;

/// All of them.
pub const TARGETS: [Target; 6] = [
    config::TARGET,
    packet::TARGET,
    stream_frame::TARGET,
    record::TARGET,
    state_file::TARGET,
    flight::TARGET,
];

/// The one of this name.
///
/// # Panics
///
/// Where there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no fuzz target {name}"))
}
