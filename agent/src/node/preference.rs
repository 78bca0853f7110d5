//! How much this member is preferred to the others, and how an operator changes it.
//!
//! It is this member's own to say, in every heartbeat. Nobody else sets it, and a new one holds until the agent restarts: it
//! decides whose turn it is among those that may be primary anyway, never who may be.

use holdfast_heartbeat::MemberKind;

use super::Node;
use super::effect::Effect;
use super::event::Answer;
use super::handover::decline;

impl Node {
    /// An operator sets another preference. The others know it with the next heartbeat.
    pub(super) fn order_priority(&mut self, priority: u32, out: &mut Vec<Effect>) -> Answer {
        let me = self.settings.me.clone();
        if self.settings.kind == MemberKind::Witness {
            return decline(
                "witness",
                format!("{me} is a witness: it is never primary and has no preference"),
            );
        }
        let before = std::mem::replace(&mut self.settings.priority, priority);
        if before == priority {
            return Ok(format!("the priority of {me} is {priority} already; nothing was changed"));
        }
        let message = format!(
            "the priority of {me} is {priority} until its agent restarts, by an operator's order (before: {before})"
        );
        out.push(Effect::Note { message });
        Ok(format!(
            "the priority of {me} is {priority} (before: {before}), until its agent restarts. To keep it, write priority = {priority} into the ha block of its configuration{}",
            self.who_may_take_the_role()
        ))
    }

    /// What automatic failback may make of the preferences as they are.
    fn who_may_take_the_role(&self) -> String {
        let mine = self.settings.priority;
        if self.phase.reigns() {
            let preferred = self.peers.iter().filter(|peer| {
                peer.settings.kind == MemberKind::Data
                    && peer.configured()
                    && peer.state.as_ref().is_some_and(|state| state.priority < mine)
            });
            let names: Vec<_> = preferred.map(super::peer::Peer::name).collect();
            return match names.is_empty() {
                true => String::new(),
                false => format!(
                    ". Preferred to it: {}; with failback_mode = \"auto\" there the role goes there by itself",
                    names.join(", ")
                ),
            };
        }
        let leader = self.leader.map(|(_, peer)| &self.peers[peer]);
        let preferred = leader.filter(|peer| peer.state.as_ref().is_some_and(|state| mine < state.priority));
        match preferred {
            Some(peer) if self.settings.failback.automatic && self.failback_enabled => format!(
                ". It is preferred to {}, which is primary: as its failback_mode is \"auto\", it takes the role over by itself when it is in sync and fit",
                peer.name()
            ),
            _ => String::new(),
        }
    }
}
