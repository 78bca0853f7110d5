//! Fresh reads: whatever anybody had acknowledged when a standby asked how far the primary is lies below the answer.
//! So what the standby shows once it is that far is as new as the question.

use std::collections::BTreeMap;

use holdfast_heartbeat::Lsn;

use super::Checker;
use crate::sim::world::service::RequestId;
use crate::sim::world::{Ns, Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Fresh {
    /// Where the last record of a request ends.
    committed: BTreeMap<RequestId, Lsn>,
    /// When the end of what was acknowledged grew, and how far.
    acknowledged: Vec<(Ns, Lsn)>,
}

impl Checker for Fresh {
    fn rule(&self) -> &'static str {
        "fresh reads"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Committed { request, end, .. } => {
                self.committed.insert(*request, *end);
            }
            Seen::Answering { request, answer, .. } => {
                let Some(end) = self.committed.remove(request) else { return Ok(()) };
                let grew = self.acknowledged.last().is_none_or(|(_, known)| *known < end);
                if grew && answer.is_success() {
                    self.acknowledged.push((world.now, end));
                }
            }
            // Halves of a pair that was cut in two may both acknowledge; whoever accepted a loss has one.
            Seen::Told { host, asked_at, committed } if !world.shape.is_pair() && !world.price_accepted => {
                let before = self.acknowledged.partition_point(|(at, _)| at < asked_at);
                let Some((at, end)) = before.checked_sub(1).map(|i| self.acknowledged[i]) else {
                    return Ok(());
                };
                if *committed < end {
                    return Err(format!(
                        "{} asked at {asked_at} ns and was told LSN {committed}; LSN {end} had been acknowledged at {at} ns",
                        world.hosts[*host].name
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
