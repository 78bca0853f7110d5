//! The configuration of a member: HCL in, checked types out.
//!
//! [`Config::load`] reads a file; what comes out of it can be used without another check, and says
//! with it, in [`Loaded::warnings`], what loads but will not do what a reader may expect.
//! [`explain()`] puts all of it in words, [`timers::Derived`] computes the timers.
//!
//! This crate never talks to the network, never looks up a name, and knows of no other crate of
//! Holdfast. It reads the file that it is given and the files of secrets that this one names.
//!
//! Invariants: every line of the file is either used or complained about; every complaint shows the
//! line and what to write instead; no complaint, `Debug` or explanation shows a secret.

#![warn(missing_docs)]

mod address;
mod check;
mod explain;
pub mod fence;
mod hooks;
mod mask;
mod model;
mod nesting;
mod quantity;
mod read;
mod read_check;
mod read_fence;
mod read_ha;
mod read_hooks;
mod read_store;
mod read_sync_files;
mod read_virtual_ip;
pub mod reference;
mod report;
mod secret;
mod secret_file;
mod section;
mod sync_files;
mod syntax;
pub mod timers;
mod vocabulary;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

pub use crate::address::{MAX_MEMBERS, MAX_PATHS};
pub use crate::explain::explain;
pub use crate::fence::{FenceDevice, FenceTarget};
pub use crate::hooks::{DEFAULT_HOOK_TIMEOUT, DEFAULT_UNIT_TIMEOUT, Hook, HookEvent, OnFailure, Service};
pub use crate::model::{
    Ack, Api, Check, CheckKind, Config, ConntrackSync, Failback, FailbackMode, GateChoice, Ha, HeartbeatPath,
    Keys, Mode, Peer, PeerKind, RootCredentials, Route, Rule, StandbyReads, Store, TwoNode, VirtualIp,
    WatchdogDevice,
};
pub use crate::quantity::{MAX_DURATION, show as show_duration};
pub use crate::read::{DEFAULT_STATE_DIR, MIN_SECRET_BYTES, SHORTEST_SECRET_BYTES};
pub use crate::report::{ConfigError, Fault, MAX_FAULTS_SHOWN, Position, Warning};
pub use crate::secret::Secret;
pub use crate::sync_files::{SyncFiles, TEMPORARY_PREFIX};

/// Largest configuration, in bytes: anything larger is some other file.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Permission bits by which anybody but the owner can read a file.
const OTHERS_READ: u32 = 0o044;

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// What the operator should know all the same, in the order of the file.
    pub warnings: Vec<Warning>,
    /// SHA-256 of the text, in hexadecimal, in which each secret is starred out first: it tells two files apart and
    /// of a secret nothing but its length. What `sha256sum FILE` says where the secrets stand in files of their own.
    pub digest: String,
}

impl Config {
    /// Reads and checks the file at `path`. Relative paths of secrets start at its directory.
    pub fn load(path: impl AsRef<Path>) -> Result<Loaded, ConfigError> {
        let path = path.as_ref();
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode();
        let mut text = String::new();
        file.take(MAX_CONFIG_BYTES as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() > MAX_CONFIG_BYTES {
            let why = format!("it is larger than {MAX_CONFIG_BYTES} bytes, and no configuration");
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        parse(&path.display().to_string(), &text, Some(mode))
    }

    /// Checks `text`, calling it `name` in messages. Relative paths of secrets start at the directory
    /// of `name`.
    pub fn parse(name: &str, text: &str) -> Result<Loaded, ConfigError> {
        parse(name, text, None)
    }
}

/// `mode` are the permissions of the file that the text came from.
fn parse(name: &str, text: &str, mode: Option<u32>) -> Result<Loaded, ConfigError> {
    // Some editors put a byte-order mark before everything.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut notes = report::Notes::default();
    notes.own_files.extend(std::path::absolute(name));
    let config = match syntax::parse(text, &mut notes) {
        Some(body) => read::file(&mut notes, &body, Path::new(name).parent().unwrap_or(Path::new(""))),
        None => None,
    };
    match config {
        Some(config) if !notes.has_errors() => {
            if let (Some(mode), Some(secret)) = (mode, notes.secret_within.clone())
                && mode & OTHERS_READ != 0
            {
                let message =
                    format!("others can read this file (mode {:03o}), and a secret is in it", mode & 0o777);
                notes.warn(&secret, message, format!("run `chmod 600 {name}`"));
            }
            let digest = hex::encode(Sha256::digest(mask::mask(text).as_bytes()));
            Ok(Loaded { config, warnings: notes.into_warnings(name, text), digest })
        }
        _ => Err(notes.into_error(name, text)),
    }
}
