//! What the lab and the first process of each of its hosts say to one another: JSON, one value a line.
//!
//! Orders go to the host's standard input, reports come from its standard output. The end of the
//! input is an order too: the host ends itself, and every process in it ends at once.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Most bytes of each output stream that an executed command may hand back.
pub(super) const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// The process id that means "every process of the host but the first".
pub(super) const EVERYBODY: i32 = -1;

/// An order with the number that its report will carry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Numbered {
    pub(super) id: u64,
    pub(super) order: Order,
}

/// What a host can be told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Run a command to its end and report what it printed.
    Execute { argv: Vec<String>, timeout_ms: u64 },
    /// Start a command that keeps running; what it prints is appended to `log`.
    Start { argv: Vec<String>, env: Vec<(String, String)>, log: PathBuf },
    /// Send a signal to a process of this host, or to [`EVERYBODY`].
    Signal { pid: i32, signal: i32 },
    /// Mount an empty file system of limited size at `path`.
    MountSmallDisk { path: PathBuf, size_bytes: u64 },
    /// Let the host have a `/var/lib/holdfast` of its own, kept in `path`.
    MountVarLib { path: PathBuf },
    /// Let the host have a directory of its own at `at`, which all hosts see otherwise; it is kept in `from`.
    MountOwn { from: PathBuf, at: PathBuf },
}

/// What a host tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The namespaces exist; the first process has this id outside of them.
    Booted { pid: u32 },
    /// Loopback is up and orders are being taken.
    Ready,
    /// An order was carried out, or could not be.
    Done { id: u64, result: Result<Fruit, String> },
}

/// What an order brought.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fruit {
    Nothing,
    Started { pid: i32 },
    Finished(Output),
}

/// How a command ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Output {
    /// Its exit status, or 128 plus the signal that ended it.
    pub status: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}
