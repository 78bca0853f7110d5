//! Fence devices: what `runtime::fence` answers, in the world's time and with its own chance, so that a world without
//! them is the same as ever. A host that is switched off really is.

use holdfast_agent::node::event::Event;
use holdfast_heartbeat::NodeId;

use super::happening::Part;
use super::hosts::Death;
use super::network::{MS, S};
use super::{Future, Ns, World};
use crate::sim::chance::Chance;

/// How the fence devices that a host uses behave. Whatever they do, they say "off" of nobody who is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// They switch off at once and say so.
    #[default]
    Work,
    /// They are slow, fail, do it and do not say so, and now and then are never heard of again.
    Troubled,
    /// They answer that they cannot.
    Fail,
    /// They are never heard of again.
    Hang,
}

/// How long a device takes that works.
const USUAL: Ns = 200 * MS;
/// The longest that a troubled one takes: beyond the limit that follows from the simulated configuration.
const LONGEST: Ns = 12 * S;

impl World {
    pub(super) fn fence(&mut self, h: usize, round: u64, member: &NodeId) {
        self.tell_story(h, format!("has {member} switched off"));
        let Some(target) = self.hosts.iter().position(|host| host.name == member.as_str()) else { return };
        let dice = &mut self.fence_dice;
        // Whether it is done, and whether that, or the failure, is said.
        let (after, done, said) = match self.hosts[h].devices {
            Devices::Work => (USUAL, true, true),
            Devices::Fail => (USUAL, false, true),
            Devices::Hang => return,
            Devices::Troubled => {
                let after = if dice.one_in(2) { dice.up_to(S) } else { dice.up_to(LONGEST) };
                (after, !dice.one_in(3), !dice.one_in(5))
            }
        };
        let fails_to_say = done && self.hosts[h].devices == Devices::Troubled && dice.one_in(6);
        let Some(life) = self.hosts[h].life.as_ref().map(|life| life.number) else { return };
        let order = FenceOrder { by: h, life, round, target, done, said, fails_to_say };
        self.future.push(self.now + after, Future::Fence(Box::new(order)));
    }

    pub(super) fn call_off_fence(&mut self, h: usize, round: u64) {
        if let Some(life) = self.hosts[h].life.as_mut() {
            life.fence_called_off = life.fence_called_off.max(round);
        }
    }

    /// The device does what it does.
    pub(super) fn device_acts(&mut self, order: &FenceOrder) {
        let life = self.hosts[order.by].life.as_ref().filter(|life| life.number == order.life);
        // What was on its way to the device when the agent died has arrived, or has not.
        let wanted = match life {
            Some(life) => life.fence_called_off < order.round,
            None => self.fence_dice.one_in(2),
        };
        if !wanted {
            return;
        }
        if order.done {
            self.switch_off(order.target);
        }
        if life_is(self, order) && order.said {
            let confirmed = order.done && !order.fails_to_say;
            let detail =
                if confirmed { "the simulated device says off" } else { "the simulated device failed" };
            let event = Event::FenceFinished { round: order.round, confirmed, detail: detail.to_owned() };
            let happening = super::happening::Happening::Attended { event: Box::new(event) };
            self.schedule_for(order.by, order.life, MS, Part::Control, happening);
        }
    }

    /// The power of a host is cut; somebody switches it on again, if this world has such people.
    fn switch_off(&mut self, h: usize) {
        if self.hosts[h].up {
            self.tell_story(h, "is switched off by a fence device".into());
            self.kill(h, Death::Power);
        }
        if self.back_after_fence > 0 {
            let after = self.fence_dice.between(50 * MS, self.back_after_fence);
            self.power_on_later(h, after);
        } else {
            self.hosts[h].wanted = false;
        }
    }
}

fn life_is(world: &World, order: &FenceOrder) -> bool {
    world.hosts[order.by].life.as_ref().is_some_and(|life| life.number == order.life)
}

/// An order on its way to a device.
#[derive(Debug)]
pub struct FenceOrder {
    by: usize,
    life: u64,
    round: u64,
    target: usize,
    done: bool,
    said: bool,
    fails_to_say: bool,
}
