//! The addresses' thread of an agent: it claims, keeps and releases the virtual address, and probes for it.

use std::time::Duration;

use holdfast_agent::node::event::Event;
use holdfast_agent::runtime::address::{Order, PROBES, REFRESH_EVERY, RETRY};
use holdfast_config::timers::valid_lft_seconds;
use holdfast_vip::gate::Gate;

use super::happening::{Happening, Part};
use super::network::{MS, US};
use super::service::nanos;
use super::{Seen, World};
use crate::sim::chance::Chance;

impl World {
    /// An order of the core has reached the thread.
    pub(super) fn take_address_order(&mut self, h: usize, order: Order) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let thread = &mut life.addresses;
        match order {
            Order::Probe { round, window } => {
                thread.probes.insert(round, None);
                self.probe(h, round, PROBES, window / PROBES);
            }
            // Nobody checks anything here, and an announcement moves nothing.
            Order::Announce(_) => {}
            _ if thread.busy => thread.queue.push_back(order),
            Order::Claim(epoch) => {
                thread.held = Some((epoch, false));
                thread.serial += 1;
                thread.busy = true;
                let serial = thread.serial;
                let _ = life.lease.gate().repair();
                self.act_soon(h, serial);
            }
            Order::Release => {
                thread.held = None;
                thread.serial += 1;
                self.release_address(h);
            }
        }
    }

    fn act_soon(&mut self, h: usize, serial: u64) {
        let after = self.dice.between(50 * US, self.netlink_delay.max(50 * US));
        self.schedule(h, after, Part::Addresses, Happening::AddressAct { serial });
    }

    fn release_address(&mut self, h: usize) {
        if self.release_fails(h) {
            // The thread tries again until the address is gone; nothing else is done meanwhile.
            let thread = &mut self.hosts[h].life.as_mut().expect("it lives").addresses;
            thread.queue.push_front(Order::Release);
            thread.busy = true;
            let serial = thread.serial;
            return self.schedule(h, nanos(RETRY), Part::Addresses, Happening::AddressAct { serial });
        }
        self.hosts[h].kernel.address_until = None;
        self.tell_core(h, Event::VipReleased);
        self.next_address_order(h);
    }

    fn release_fails(&mut self, h: usize) -> bool {
        let often = self.netlink_fails;
        self.hosts[h].kernel.has_address(self.clock(h)) && self.dice.per_million(often)
    }

    fn next_address_order(&mut self, h: usize) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        life.addresses.busy = false;
        if let Some(order) = life.addresses.queue.pop_front() {
            self.take_address_order(h, order);
        }
    }

    /// A claim or a refresh meets the kernel: the lease is looked at before and after.
    pub(super) fn act_on_address(&mut self, h: usize, serial: u64) {
        let now = self.clock(h);
        let interval = self.lifetime(h);
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if life.addresses.serial != serial {
            return;
        }
        let Some((epoch, claimed)) = life.addresses.held else {
            return self.next_address_order(h);
        };
        let entitled =
            life.lease.held(now) == Some(epoch) || holdfast_heartbeat::planted::is("claim-without-lease");
        let refused = self.netlink_fails > 0 && self.dice.per_million(self.netlink_fails);
        if !entitled || refused || self.hosts[h].link_down {
            if !claimed {
                self.hosts[h].life.as_mut().expect("it lives").addresses.busy = false;
            }
            self.schedule(h, nanos(RETRY), Part::Addresses, Happening::AddressAct { serial });
            return self.drain_address_queue(h);
        }
        self.hosts[h].kernel.address_until = Some(now + interval);
        if !claimed {
            let life = self.hosts[h].life.as_mut().expect("it lives");
            life.addresses.held = Some((epoch, true));
            self.see(Seen::Claimed { host: h, epoch });
            self.tell_core(h, Event::VipClaimed { epoch });
        }
        self.announce(h);
        self.schedule(h, nanos(REFRESH_EVERY), Part::Addresses, Happening::AddressAct { serial });
        self.drain_address_queue(h);
    }

    fn drain_address_queue(&mut self, h: usize) {
        self.next_address_order(h);
    }

    fn lifetime(&self, h: usize) -> Duration {
        Duration::from_secs(valid_lft_seconds(self.hosts[h].derived.lease))
    }

    /// Gratuitous ARP: whoever hears it finds the address here from now on.
    fn announce(&mut self, h: usize) {
        if !self.hosts[h].answers_on_address(self.now) || self.network.service_cut[h] {
            return;
        }
        let lost = self.network.lost;
        for client in &mut self.clients {
            if !self.dice.per_million(lost) {
                client.neighbour = Some(h);
            }
        }
    }

    /// One of the questions of a probe goes out, and the next one is prepared.
    pub(super) fn probe(&mut self, h: usize, round: u64, left: u32, pause: Duration) {
        let asked = !self.hosts[h].link_down;
        let lost = self.network.lost;
        let answering = (0..self.hosts.len()).find(|other| {
            *other != h
                && asked
                && self.hosts[*other].answers_on_address(self.now)
                && self.network.service_reaches(h, *other)
        });
        let answering = answering.filter(|_| !self.dice.per_million(lost));
        let foreign = (self.foreign_address && asked).then(|| "02:00:5e:00:00:99".to_owned());
        let name = answering.map(|other| self.hosts[other].name.clone()).or(foreign);
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let Some(conflict) = life.addresses.probes.get_mut(&round) else { return };
        if conflict.is_none() {
            *conflict = name;
        }
        if left > 1 {
            let next = Happening::ProbeAgain { round, left: left - 1, pause };
            return self.schedule(h, nanos(pause), Part::Addresses, next);
        }
        let conflict = life.addresses.probes.remove(&round).flatten();
        if life.addresses.probed.is_none_or(|(newest, _)| newest < round) {
            life.addresses.probed = Some((round, conflict.is_some()));
        }
        self.schedule(h, nanos(pause), Part::Addresses, Happening::ProbeOver { round, conflict, asked });
    }

    /// A supervisor, or the next life, takes off what a dead agent left.
    pub(super) fn sweep_address(&mut self, h: usize) {
        self.hosts[h].kernel.address_until = None;
        let _ = self.hosts[h].kernel.gate.close();
    }

    /// Another program takes the address off; the agent notices and puts it back if it may.
    pub fn steal_address(&mut self, h: usize) {
        if self.hosts[h].kernel.address_until.take().is_none() {
            return;
        }
        if let Some(life) = self.hosts[h].life.as_mut()
            && let Some((_, true)) = life.addresses.held
        {
            life.addresses.serial += 1;
            let serial = life.addresses.serial;
            let after = self.dice.between(20 * US, MS);
            self.schedule(h, after, Part::Addresses, Happening::AddressAct { serial });
        }
    }
}
