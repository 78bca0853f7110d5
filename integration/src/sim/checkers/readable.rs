//! What is committed can be read: a member answers that something is damaged only where its disk gave a reason.

use super::Checker;
use crate::sim::s3::call::{Answer, Code};
use crate::sim::world::{Seen, World};

/// See the module's documentation.
pub(super) struct Readable;

/// Whether an answer says that bytes which should be there are not.
pub(super) fn is_damage(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused(Code::Damaged | Code::Internal))
}

impl Checker for Readable {
    fn rule(&self) -> &'static str {
        "readable"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Answering { host, answer, request, .. } = seen else { return Ok(()) };
        let host = &world.hosts[*host];
        if host.disk_harmed || !is_damage(answer) {
            return Ok(());
        }
        Err(format!("{}, whose disk is well, answers {request:?} with {answer}", host.name))
    }
}
