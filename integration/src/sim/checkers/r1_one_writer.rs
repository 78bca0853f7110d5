//! R1: at most one member is ever primary in an epoch; a vote is durable before it is sent.

use std::collections::BTreeMap;

use holdfast_agent::node::effect::Effect;
use holdfast_agent::node::hard_state::HardState;
use holdfast_heartbeat::{Epoch, Member, NodeId};

use holdfast_replication::stream::Frame;

use super::Checker;
use crate::sim::world::shape::MOST_HOSTS;
use crate::sim::world::{Seen, World};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct OneWriter {
    reigned: BTreeMap<Epoch, Member>,
    /// Whom each voter helped in each epoch.
    voted: BTreeMap<(NodeId, Epoch), usize>,
    /// The epoch that each host promised last, in this life.
    promised: [Epoch; MOST_HOSTS],
    /// How far each host's log reached when it was open last.
    reached: [Epoch; MOST_HOSTS],
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
            Seen::Born { host } => return self.remembers(world, *host),
            Seen::Effect { host, effect: Effect::Persist { state, .. }, .. } => {
                return self.stands_above_its_record(world, *host, state);
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
                if let Some(log) = voter.life.as_ref().and_then(|life| life.log.as_ref()) {
                    self.reached[*host] = log.engine.log().last_epoch();
                }
                let reached = self.reached[*host];
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

impl OneWriter {
    /// A member that starts has promised at least the epoch that its log reaches into.
    fn remembers(&mut self, world: &World, h: usize) -> Result<(), String> {
        let host = &world.hosts[h];
        let Some(life) = host.life.as_ref() else { return Ok(()) };
        let promised = life.node.view(world.clock(h)).epoch;
        self.promised[h] = promised;
        let reached = life.log.as_ref().map_or(Epoch::ZERO, |log| log.engine.log().last_epoch());
        if promised < reached {
            return Err(format!(
                "{} starts with the promise of epoch {promised}, and its log reaches into {reached}",
                host.name
            ));
        }
        Ok(())
    }

    /// Who stands for an epoch knows of no in-sync record of it or a later one: somebody has reigned in that.
    fn stands_above_its_record(&mut self, world: &World, h: usize, state: &HardState) -> Result<(), String> {
        let before = std::mem::replace(&mut self.promised[h], state.epoch);
        let host = &world.hosts[h];
        let itself = host.life.as_ref().is_some_and(|life| state.voted_for.as_ref() == Some(&life.member));
        let known = state.record.as_ref().map_or(Epoch::ZERO, |record| record.epoch);
        if itself && state.epoch > before && known >= state.epoch {
            return Err(format!(
                "{} stands for epoch {}, and has a record of epoch {known}",
                host.name, state.epoch
            ));
        }
        Ok(())
    }
}
