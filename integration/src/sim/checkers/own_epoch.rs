//! An object is made of bytes that were received in the epoch in which it is stored: positions of an earlier
//! reign may have been cut and written anew since.

use super::Checker;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
pub(super) struct OwnEpoch;

impl Checker for OwnEpoch {
    fn rule(&self) -> &'static str {
        "own epoch"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Committed { host, lsn, received_in: Some(received), .. } = seen else { return Ok(()) };
        let log = world.hosts[*host].life.as_ref().and_then(|life| life.log.as_ref());
        match log.and_then(|log| log.engine.log().history().epoch_at(*lsn)) {
            Some(stored) if stored != *received => Err(format!(
                "{} stores an object in epoch {stored}, at LSN {lsn}, of bytes that it received in epoch {received}",
                world.hosts[*host].name
            )),
            _ => Ok(()),
        }
    }
}
