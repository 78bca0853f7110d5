//! Fencing: who must be confirmed to be off before this member goes on, and what an answer means.
//!
//! Two things wait for it. A promotion waits, between the lease and the log (rule R7), until whoever was primary
//! before and vanished without letting go is off. And under `two_node = "fence"` each half of a pair waits before it
//! goes on without the other: the standby before it stands alone, the primary before it leaves the other one out of
//! the in-sync set. There the primary shoots at once and the standby later, so that a cut cable leaves one of them.
//!
//! ```text
//!   wanted ── Effect::Fence ──> under way ── FenceFinished, confirmed ──> off: that life of it has ended
//!     ^                            │  └───── failed, or nothing heard within the limit ──> wait, twice as long each time
//!     └── heard after all: Effect::CallOffFence
//! ```
//!
//! What must hold: nobody is taken for off but by a device or by an operator's word, and only the life that was
//! running then; whoever is heard afterwards in that same life was never off. What is owed survives a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_heartbeat::{BootNonce, Heartbeat, NodeId, Role, Time, planted};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::event::{Answer, Declined};
use super::settings::TwoNode;
use super::transition::Cause;
use super::{Node, Phase};

/// What the runtime may need beyond the limit that it stated, to kill what exceeds it and to say so.
const GRACE: Duration = Duration::from_secs(3);

/// How long no device is used after an order failed; doubles with each failure in a row, up to
/// [`LONGEST_RETREAT`].
const RETREAT: Duration = Duration::from_secs(5);
/// See [`RETREAT`].
const LONGEST_RETREAT: Duration = Duration::from_secs(60);

/// How long after its start a member waits before it shoots one that it has not heard in this life: after a power
/// cut of everything that one may be booting as well.
const STARTUP_PATIENCE: Duration = Duration::from_secs(30);

/// Most names that are remembered as owed; a cluster has fewer members.
const MOST_OWED: usize = 16;

/// An order to the devices that is not answered yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    round: u64,
    target: NodeId,
    since: Time,
    /// The life of it that is to end; `None` where this member has never heard it.
    boot: Option<BootNonce>,
}

/// A life that was confirmed to have ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Off {
    at: Time,
    /// `None` where this member had never heard it.
    boot: Option<BootNonce>,
}

/// What this node knows and wants of fencing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Fence {
    /// Counts the orders.
    round: u64,
    order: Option<Order>,
    /// Somebody asked for the order in this turn; what nobody asks for any more is called off.
    wanted: Option<NodeId>,
    /// Orders in a row that failed, and why the last one did.
    failures: u32,
    why: String,
    not_before: Time,
    /// Who is off, until a later life of it is heard.
    off: BTreeMap<NodeId, Off>,
    /// When this life of the process began.
    born: Time,
}

impl Fence {
    pub(super) fn new(now: Time) -> Fence {
        Fence { born: now, ..Fence::default() }
    }

    /// When something is to be done, if nothing happens before.
    pub(super) fn deadline(&self) -> Time {
        self.not_before
    }
}

impl Node {
    // ---- who must be off ---------------------------------------------------------------------------

    /// The member that was primary before, may still think so, and is not known to be off; where nothing here can
    /// switch it off, there is nothing to wait for.
    pub(super) fn unfenced_predecessor(&self, now: Time) -> Option<NodeId> {
        let fencing = self.settings.fencing.as_ref()?;
        if planted::is("takes-over-before-fence-confirmed") {
            return None;
        }
        let owed = |id: &&NodeId| {
            fencing.targets.contains(id) && !self.is_off(id) && !self.is_heard_as_follower(now, id)
        };
        self.hard.owed.iter().find(owed).cloned()
    }

    /// Whether a device or an operator confirmed that it is off, and nothing was heard of it since.
    pub(super) fn is_off(&self, id: &NodeId) -> bool {
        self.fence.off.contains_key(id)
    }

    /// It lives, and says that it does not reign: it has let go by itself.
    fn is_heard_as_follower(&self, now: Time, id: &NodeId) -> bool {
        self.peers.iter().any(|peer| {
            peer.member.as_ref().is_some_and(|member| member.id == *id)
                && peer.alive(now)
                && !peer.reigns(now)
        })
    }

    /// Whether `two_node = "fence"` decides here.
    pub(super) fn is_fencing_pair(&self) -> bool {
        self.is_two_node() && self.settings.two_node == TwoNode::Fence
    }

    /// The name of the other half of a pair: as it was heard, or else the one that a device here is for.
    pub(super) fn other_half(&self) -> Option<NodeId> {
        let heard = self.peers.first().and_then(|peer| peer.member.as_ref()).map(|member| member.id.clone());
        heard.or_else(|| self.settings.fencing.as_ref().and_then(|fencing| fencing.targets.first().cloned()))
    }

    /// Whether the other half of a pair, which is not heard, can do nothing by itself any more: it is off, or the
    /// life of it that followed last has ended or was ending, and no later one has been heard of. A later one
    /// stands for nothing before it has followed anew, and for that it must be heard here first.
    pub(super) fn other_half_is_out(&self) -> bool {
        let Some(peer) = self.peers.first() else { return false };
        let off = peer.member.as_ref().map_or_else(|| self.other_half(), |member| Some(member.id.clone()));
        let ending = peer.state.as_ref().is_some_and(|state| state.leaving);
        off.is_some_and(|id| self.is_off(&id)) || (peer.is_dead() || ending) && !peer.another_life_calls()
    }

    /// The life of it that is believed in, or was last.
    fn life_of(&self, id: &NodeId) -> Option<BootNonce> {
        let named = |peer: &&super::peer::Peer| peer.member.as_ref().is_some_and(|m| m.id == *id);
        self.peers.iter().find(named).and_then(|peer| peer.guard.current_boot())
    }

    // ---- what is remembered ------------------------------------------------------------------------

    /// A believed peer says that it reigns. Once it is primary it has seen to those before it.
    pub(super) fn remember_reigning(&mut self, id: &NodeId, role: Role) -> bool {
        if self.settings.fencing.is_none() {
            return false;
        }
        let before = self.hard.owed.len();
        let settled = role != Role::Promoting;
        if settled {
            self.hard.owed.retain(|owed| owed == id);
        }
        let known = self.hard.owed.contains(id);
        if !known && self.hard.owed.len() < MOST_OWED {
            self.hard.owed.push(id.clone());
        }
        !known || self.hard.owed.len() != before
    }

    /// This member owes nothing for `id` any more; `None`: for nobody.
    pub(super) fn forget_owed(&mut self, id: Option<&NodeId>, out: &mut Vec<Effect>) {
        let before = self.hard.owed.len();
        self.hard.owed.retain(|owed| id.is_some_and(|id| id != owed));
        if self.hard.owed.len() != before {
            self.persist(out);
        }
    }

    // ---- orders ------------------------------------------------------------------------------------

    /// Has `target` switched off, from `earliest` on. Called in each turn for as long as it is wanted.
    pub(super) fn want_off(&mut self, now: Time, target: NodeId, earliest: Time, out: &mut Vec<Effect>) {
        self.fence.wanted = Some(target.clone());
        if self.fence.order.as_ref().is_some_and(|order| order.target == target) {
            return;
        }
        let mut earliest = earliest.max(self.fence.not_before);
        let heard = |peer: &super::peer::Peer| peer.member.as_ref().is_some_and(|m| m.id == target);
        if !self.peers.iter().any(heard) {
            earliest = earliest.max(self.fence.born + STARTUP_PATIENCE);
        }
        if now < earliest {
            return;
        }
        self.call_off_order(out);
        self.fence.round += 1;
        let round = self.fence.round;
        let boot = self.life_of(&target);
        self.fence.order = Some(Order { round, target: target.clone(), since: now, boot });
        let message = format!("{target} vanished without letting go: having it switched off");
        out.push(Effect::Warn { message });
        out.push(Effect::Fence { round, member: target });
    }

    fn call_off_order(&mut self, out: &mut Vec<Effect>) {
        if let Some(order) = self.fence.order.take() {
            let message = format!("switching {} off is called off, if it has not begun", order.target);
            out.push(Effect::Note { message });
            out.push(Effect::CallOffFence { round: order.round });
        }
    }

    /// Calls off what nobody wants any more, and gives up what is overdue. Comes after whoever may want it.
    pub(super) fn watch_fence(&mut self, now: Time, out: &mut Vec<Effect>) {
        let wanted = self.fence.wanted.take();
        let Some(order) = &self.fence.order else {
            if wanted.is_none() {
                self.fence.failures = 0;
                self.fence.not_before = Time::ZERO;
            }
            return;
        };
        if wanted.as_ref() != Some(&order.target) {
            return self.call_off_order(out);
        }
        let limit = self.settings.fencing.as_ref().map_or(Duration::ZERO, |fencing| fencing.limit) + GRACE;
        if now >= order.since + limit {
            let round = order.round;
            let detail = "nothing was heard of the devices within their limits".to_owned();
            self.note_fenced(now, round, false, detail, out);
        }
    }

    /// The runtime says what became of an order.
    pub(super) fn note_fenced(
        &mut self,
        now: Time,
        round: u64,
        confirmed: bool,
        detail: String,
        out: &mut Vec<Effect>,
    ) {
        let Some(order) = self.fence.order.take_if(|order| order.round == round) else { return };
        if confirmed {
            out.push(Effect::Note { message: format!("{} is confirmed to be off: {detail}", order.target) });
            return self.take_for_off(now, &order.target, order.boot, out);
        }
        let retreat = (RETREAT * 2_u32.pow(self.fence.failures.min(8))).min(LONGEST_RETREAT);
        self.fence.failures += 1;
        self.fence.why.clone_from(&detail);
        self.fence.not_before = now + retreat;
        let promoting = matches!(&self.phase, Phase::Reigning(reign) if reign.opened.is_none());
        let required = self.settings.fencing.as_ref().is_none_or(|fencing| fencing.required);
        let heir = promoting && self.rivals(now).next().is_some();
        let consequence = if promoting && !required {
            "taking over all the same, as fencing = \"preferred\" says".to_owned()
        } else if heir {
            format!(
                "the role is left to another member, and this one does not stand by itself for {} s",
                retreat.as_secs()
            )
        } else {
            format!("trying again in {} s", retreat.as_secs())
        };
        let message = format!(
            "{0} could not be confirmed to be off: {detail}; {consequence}. If you made sure that {0} is off: holdfast ha fence-confirmed {0}",
            order.target
        );
        out.push(Effect::Warn { message });
        if promoting && !required {
            self.forget_owed(Some(&order.target), out);
        } else if heir {
            self.step_down(now, Cause::NotFenced, Some(order.target), out);
            self.stand_after = self.stand_after.max(now + retreat);
        }
    }

    /// The life of `id` that was heard last has ended, as surely as if its supervisor had buried it.
    ///
    /// Where a later life has been heard meanwhile, that one is not meant: if it is silent, it is asked for anew.
    fn take_for_off(&mut self, now: Time, id: &NodeId, boot: Option<BootNonce>, out: &mut Vec<Effect>) {
        self.fence.failures = 0;
        self.fence.not_before = Time::ZERO;
        if self.life_of(id) != boot {
            return;
        }
        let named = |peer: &&mut super::peer::Peer| peer.member.as_ref().is_some_and(|m| m.id == *id);
        if let Some(peer) = self.peers.iter_mut().find(named)
            && boot.is_some()
        {
            peer.dead_boot = boot;
        }
        self.fence.off.insert(id.clone(), Off { at: now, boot });
        self.forget_owed(Some(id), out);
    }

    /// An authentic packet of somebody that is taken for off. Of a later life it says nothing about that; of the same
    /// one it does if it answers to what was said here since then: the device has switched off something else.
    pub(super) fn heed_packet_of_the_dead(
        &mut self,
        now: Time,
        peer: usize,
        heartbeat: &Heartbeat,
        out: &mut Vec<Effect>,
    ) {
        let id = &heartbeat.from.id;
        let Some(off) = self.fence.off.get(id) else { return };
        let since =
            heartbeat.echo.as_ref().filter(|echo| echo.boot == self.settings.boot && echo.sent_at > off.at);
        if off.boot != Some(heartbeat.boot) || since.is_none() {
            return;
        }
        self.fence.off.remove(id);
        self.peers[peer].dead_boot = None;
        let message = format!(
            "{id} was confirmed to be off and is heard all the same: its fence device switches something else. Look at `plug` and the address of the device; until then fencing protects nothing"
        );
        self.warn_once(now, message, out);
    }

    /// A believed packet of a life that nobody has declared dead.
    pub(super) fn note_alive(&mut self, id: &NodeId) {
        self.fence.off.remove(id);
    }

    // ---- orders of people --------------------------------------------------------------------------

    /// An operator has made sure that `id` is off.
    pub(super) fn order_fence_confirmed(&mut self, now: Time, id: &NodeId, out: &mut Vec<Effect>) -> Answer {
        let decline = |code, message: String| Err(Declined { code, message });
        if *id == self.settings.me.id {
            return decline("myself", format!("{id} is this very member, and it runs"));
        }
        let named = |peer: &&super::peer::Peer| peer.member.as_ref().is_some_and(|member| member.id == *id);
        let peer = self.peers.iter().find(named);
        let expected = self.other_half().as_ref() == Some(id) && self.is_two_node();
        let targeted = self.settings.fencing.as_ref().is_some_and(|fencing| fencing.targets.contains(id));
        match peer {
            Some(peer) if peer.alive(now) => {
                return decline(
                    "heard",
                    format!("{id} is heard at this moment, so it is not off; nothing was changed"),
                );
            }
            None if !expected && !targeted => {
                return decline("unknown", format!("there is no member {id} here; see: holdfast ha status"));
            }
            _ => {}
        }
        let message = format!("{id} is off by an operator's word");
        out.push(Effect::Warn { message });
        if let Some(order) = self.fence.order.take_if(|order| order.target == *id) {
            out.push(Effect::CallOffFence { round: order.round });
        }
        let boot = self.life_of(id);
        self.take_for_off(now, id, boot, out);
        Ok(format!("{id} is taken for off, until it is heard again; whoever waited for that goes on"))
    }

    /// An operator takes the role although the one before could not be switched off. Says whether a promotion
    /// waits for that.
    pub(super) fn waits_for_fence(&self) -> bool {
        matches!(&self.phase, Phase::Reigning(reign) if reign.opened.is_none())
    }

    // ---- for people --------------------------------------------------------------------------------

    /// What is under way or has failed, in words.
    pub(super) fn fence_warnings(&self, now: Time) -> Vec<String> {
        let mut warnings = Vec::new();
        let what = match &self.phase {
            Phase::Reigning(reign) if reign.opened.is_none() => "taking over",
            Phase::Reigning(_) => "acknowledging writes alone",
            _ => "standing for the role",
        };
        if let Some(order) = &self.fence.order {
            warnings.push(format!(
                "{what} waits until {} is confirmed to be off, for {} ms now",
                order.target,
                now.since(order.since).as_millis()
            ));
        } else if self.fence.failures > 0 {
            let again = self.fence.not_before.since(now).as_secs() + 1;
            warnings.push(format!(
                "{what} waits: a member could not be confirmed to be off ({}); it is tried again in {again} s. If you made sure that it is off: holdfast ha fence-confirmed NAME",
                self.fence.why
            ));
        }
        if let Some(fencing) = &self.settings.fencing {
            let unknown = self.peers.iter().filter_map(|peer| peer.member.as_ref()).filter(|member| {
                let data = self.peers.iter().any(|peer| {
                    peer.member.as_ref() == Some(*member)
                        && peer.settings.kind == holdfast_heartbeat::MemberKind::Data
                });
                data && !fencing.targets.contains(&member.id)
            });
            for member in unknown {
                warnings.push(format!(
                    "no fence device of this member is for {}: name it in `member` or `members` of a `fence` block",
                    member.id
                ));
            }
        }
        warnings
    }
}
