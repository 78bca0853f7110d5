//! R1: at most one member is ever primary in an epoch; a vote is durable before it is sent.

use std::collections::BTreeMap;

use holdfast_agent::node::effect::Effect;
use holdfast_heartbeat::{Epoch, Member, NodeId};

use holdfast_replication::stream::Frame;

use super::Checker;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct OneWriter {
    reigned: BTreeMap<Epoch, Member>,
    /// Whom each voter helped in each epoch.
    voted: BTreeMap<(NodeId, Epoch), usize>,
}

impl Checker for OneWriter {
    fn rule(&self) -> &'static str {
        "R1"
    }

    fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Frame { host, frame: Frame::Ack { epoch, .. } } => {
                let host = &world.hosts[*host];
                let log = host.life.as_ref().and_then(|life| life.log.as_ref());
                let in_log = log.map_or(Epoch::ZERO, |log| log.engine.log().last_epoch());
                if *epoch > host.hard.epoch.max(in_log) {
                    return Err(format!(
                        "{} acknowledges in epoch {epoch}, and its disk knows {}",
                        host.name, host.hard.epoch
                    ));
                }
            }
            Seen::Stepped { host } => {
                let epoch = world.reign(*host);
                let Some(life) = world.hosts[*host].life.as_ref().filter(|_| epoch > Epoch::ZERO) else {
                    return Ok(());
                };
                let holder = self.reigned.entry(epoch).or_insert_with(|| life.member.clone());
                if *holder != life.member {
                    return Err(format!("{} and {} both reign in epoch {epoch}", holder, life.member));
                }
            }
            Seen::Effect { host, effect: Effect::Send { peer, heartbeat, .. }, .. } => {
                let voter = &world.hosts[*host];
                let disk = &voter.hard;
                // A log that reaches into an epoch is as good a promise as one in the state file.
                let log = voter.life.as_ref().and_then(|life| life.log.as_ref());
                let reached = log.map_or(Epoch::ZERO, |log| log.engine.log().last_epoch());
                if heartbeat.state.epoch > disk.epoch.max(reached) {
                    return Err(format!(
                        "{} says that it promised epoch {}, and its disk knows {}",
                        voter.name, heartbeat.state.epoch, disk.epoch
                    ));
                }
                let Some(vote) = heartbeat.state.vote.filter(|vote| !vote.pre && vote.refusal.is_none())
                else {
                    return Ok(());
                };
                let candidate = world.host_of_peer(*host, *peer);
                let helped =
                    disk.voted_for.as_ref().is_some_and(|m| m.id.as_str() == world.hosts[candidate].name);
                if disk.epoch < vote.epoch || disk.epoch == vote.epoch && !helped {
                    return Err(format!(
                        "{} votes for {} in epoch {} before that is on its disk (which has {}, {:?})",
                        voter.name, world.hosts[candidate].name, vote.epoch, disk.epoch, disk.voted_for
                    ));
                }
                let key = (heartbeat.from.id.clone(), vote.epoch);
                let first = *self.voted.entry(key).or_insert(candidate);
                // A voter whose disk was lost is another member under the same name, which the epoch of
                // its successor's record keeps apart; only within one life of the disk is this a lie.
                if first != candidate && voter.lives > 0 && !world.disks_lost {
                    return Err(format!("{} votes twice in epoch {}", voter.name, vote.epoch));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
