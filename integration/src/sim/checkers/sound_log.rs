//! A log goes out of service only where its disk gave a reason.

use super::Checker;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
pub(super) struct SoundLog;

impl Checker for SoundLog {
    fn rule(&self) -> &'static str {
        "sound log"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::LogFailed { host, error } = seen else { return Ok(()) };
        let host = &world.hosts[*host];
        if host.disk_harmed {
            return Ok(());
        }
        Err(format!("the log of {} fails, whose disk is well: {error}", host.name))
    }
}
