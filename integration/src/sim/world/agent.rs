//! An agent's core and log threads: what `runtime::core` and `runtime::log_thread` do with the production
//! node and replica, in the world's time.

use std::collections::VecDeque;
use std::rc::Rc;

use holdfast_agent::node::effect::Effect;
use holdfast_agent::node::event::Event;
use holdfast_agent::runtime::address::Order;
use holdfast_agent::runtime::freshness;
use holdfast_agent::runtime::service::ServiceOrder;
use holdfast_agent::runtime::state_file::RETRY_AFTER;
use holdfast_heartbeat::{Message, Role, Time, planted};
use holdfast_replication::replica::{Input, Output};
use holdfast_store::apply::Outcome;

use super::happening::{Happening, Part};
use super::life::LogThread;
use super::network::US;
use super::service::{RequestId, nanos};
use super::{Future, Seen, World};
use crate::sim::chance::Chance;
use crate::sim::checkers::facts;

/// Events that the core takes in one go.
const CORE_BATCH: usize = 64;
/// Inputs that one sync may cover.
const LOG_BATCH: usize = 4096;

impl World {
    // ---- the sockets -------------------------------------------------------------------------------

    /// A packet is taken out of the socket: only what is authentic reaches the core.
    pub(super) fn take_packet(&mut self, h: usize, from: usize, path: usize, bytes: &[u8]) {
        match self.hosts[h].keys.open_up_to(bytes, self.hosts[h].speaks) {
            Ok(Message::Heartbeat(heartbeat)) => {
                self.see(Seen::Received { host: h, from, heartbeat: &heartbeat });
                let peer = self.peer_of_host(h, from);
                self.tell_core(h, Event::HeartbeatReceived { peer, path, heartbeat });
            }
            Ok(Message::Notice(notice)) => self.tell_core(h, Event::NoticeReceived(notice)),
            // They never reach a core.
            Ok(Message::Inquiry(_) | Message::Testimony(_)) => {}
            Err(_) => self.counts.bad_packets += 1,
        }
    }

    // ---- the core ----------------------------------------------------------------------------------

    /// Puts an event into the core's inbox.
    pub(super) fn tell_core(&mut self, h: usize, event: Event) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        life.inbox.push_back(event);
        if !life.core_called {
            life.core_called = true;
            let after = self.dice.between(US, self.wake_delay.max(US));
            self.schedule(h, after, Part::Core, Happening::CoreTurn);
        }
    }

    pub(super) fn core_turn(&mut self, h: usize) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        life.core_called = false;
        let number = life.number;
        for _ in 0..CORE_BATCH {
            let Some(life) = self.hosts[h].life.as_mut().filter(|life| life.number == number) else { return };
            let Some(event) = life.inbox.pop_front() else { break };
            self.step(h, event);
        }
        let Some(life) = self.hosts[h].life.as_mut().filter(|life| life.number == number) else { return };
        if !life.inbox.is_empty() && !life.core_called {
            life.core_called = true;
            self.schedule(h, US, Part::Core, Happening::CoreTurn);
        }
        self.set_tick(h);
    }

    pub(super) fn core_tick(&mut self, h: usize) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if self.now < life.tick_at {
            // A sooner one took this one's place, and has set the next.
            return;
        }
        life.tick_at = u64::MAX;
        let number = life.number;
        if life.node.deadline() <= self.clock(h) {
            self.step(h, Event::Ticked);
        }
        if self.hosts[h].life.as_ref().is_some_and(|life| life.number == number) {
            self.set_tick(h);
        }
    }

    fn set_tick(&mut self, h: usize) {
        let late = self.dice.up_to(self.wake_delay);
        let host = &mut self.hosts[h];
        let Some(life) = host.life.as_mut() else { return };
        let due = host.clock.when(life.node.deadline()).max(self.now) + late;
        // A later tick that is in the queue already finds nothing to do and sets the right one.
        if due < life.tick_at {
            life.tick_at = due;
            let after = due - self.now;
            self.schedule(h, after, Part::Core, Happening::CoreTick);
        }
    }

    /// One event goes through the node, and its effects into the world.
    fn step(&mut self, h: usize, event: Event) {
        let now = self.clock(h);
        self.note_event(h, &event);
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let number = life.number;
        let mut effects = std::mem::take(&mut life.effects);
        let heard = match &event {
            Event::HeartbeatReceived { peer, heartbeat, .. } => {
                Some((*peer, heartbeat.boot, heartbeat.seq, heartbeat.state.role, life.node.disbelieved()))
            }
            _ => None,
        };
        life.node.handle(now, event, &mut effects);
        self.counts.events += 1;
        if let Some((peer, boot, seq, role, disbelieved)) = heard
            && life.node.disbelieved() == disbelieved
        {
            self.see(Seen::Believed { host: h, peer, boot, seq, role });
        }
        for effect in effects.drain(..) {
            if let Some(left) = &mut self.hosts[h].dies_after {
                if *left == 0 {
                    self.die_now(h);
                    return;
                }
                *left -= 1;
            }
            self.execute(h, now, effect);
        }
        if let Some(life) = self.hosts[h].life.as_mut().filter(|life| life.number == number) {
            life.effects = effects;
        }
        self.see(Seen::Stepped { host: h });
    }

    fn execute(&mut self, h: usize, now: Time, effect: Effect) {
        self.see(Seen::Effect { host: h, at: now, effect: &effect });
        match effect {
            Effect::Send { peer, path, version, heartbeat } => {
                let bytes: Rc<[u8]> = self.hosts[h].keys.seal(&Message::Heartbeat(heartbeat), version).into();
                let to = self.host_of_peer(h, peer);
                self.send_packet(h, to, path, bytes);
            }
            Effect::Persist { token, state } => {
                let Some(life) = self.hosts[h].life.as_mut() else { return };
                life.state.waiting = Some((token, state));
                self.write_state(h);
            }
            Effect::ExtendLease { epoch, until } => self.lease(h, |lease| lease.extend(epoch, until)),
            Effect::EndLease => self.lease(h, |lease| lease.end()),
            Effect::ProbeVip { round, window } => self.order_addresses(h, Order::Probe { round, window }),
            Effect::ClaimVip { epoch } => self.order_addresses(h, Order::Claim(epoch)),
            Effect::ReleaseVip => self.order_addresses(h, Order::Release),
            Effect::Lead { epoch, members } => {
                self.set_leader(h, None);
                let wall_ms = self.hosts[h].clock.wall_ms(self.now);
                self.tell_log(h, Input::Lead { epoch, members, wall_ms });
            }
            Effect::Follow { epoch, leader, peer } => {
                self.tell_log(h, Input::Follow { epoch, leader });
                self.set_leader(h, Some((epoch, peer)));
            }
            Effect::StandDown { epoch } => {
                self.set_leader(h, None);
                self.tell_log(h, Input::StandDown { epoch });
            }
            Effect::Promise { epoch } => self.tell_log(h, Input::Promise { epoch }),
            Effect::WaitFor { epoch, version, members } => {
                self.tell_log(h, Input::WaitFor { epoch, version, members });
            }
            Effect::Serve { .. } => self.call_service(h, ServiceOrder::Serve),
            Effect::StopServing { drain } => self.call_service(h, ServiceOrder::Stop { drain }),
            Effect::Report(transition) => {
                self.counts.reigns += u64::from(transition.to == Role::Primary);
                let line = format!(
                    "{:?} -> {:?} in epoch {} ({:?}): {}",
                    transition.from, transition.to, transition.epoch, transition.cause, transition.reason
                );
                self.tell_story(h, line);
            }
            Effect::Note { message } | Effect::Warn { message } => self.tell_story(h, message),
            Effect::Answer { id, answer } => self.take_answer(h, id, answer),
            Effect::Prepare { epoch, round } => self.run_pre_hooks(h, epoch, round),
            Effect::Retire { round, planned, .. } => self.let_services_leave(h, round, planned),
            Effect::Fence { round, member } => self.fence(h, round, &member),
            Effect::CallOffFence { round } => self.call_off_fence(h, round),
            Effect::Exit => self.exit(h),
        }
    }

    fn lease(&mut self, h: usize, change: impl FnOnce(&holdfast_agent::runtime::lease::Lease)) {
        if let Some(life) = self.hosts[h].life.as_ref() {
            change(&life.lease);
        }
    }

    fn order_addresses(&mut self, h: usize, order: Order) {
        self.order(h, Part::Addresses, Happening::AddressOrder(order));
    }

    fn call_service(&mut self, h: usize, order: ServiceOrder) {
        self.order(h, Part::Control, Happening::ServiceOrder(order));
    }

    /// Puts an order into a part's queue.
    fn order(&mut self, h: usize, part: Part, what: Happening) {
        let after = self.dice.between(US, self.wake_delay.max(US));
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let last = &mut life.ordered[part as usize];
        *last = (self.now + after).max(*last + 1);
        let after = *last - self.now;
        self.schedule(h, after, part, what);
    }

    // ---- the state file ----------------------------------------------------------------------------

    /// Writes the newest state unless a write is under way.
    pub(super) fn write_state(&mut self, h: usize) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if life.state.writing.is_some() {
            return;
        }
        let Some((token, state)) = life.state.waiting.take() else { return };
        if self.hosts[h].state_disk_fails {
            let life = self.hosts[h].life.as_mut().expect("it lives");
            life.state.waiting = Some((token, state));
            return self.schedule(h, nanos(RETRY_AFTER), Part::State, Happening::StateRetry);
        }
        let life = self.hosts[h].life.as_mut().expect("it lives");
        life.state.writing = Some(state.clone());
        let after = self.sync_time(h);
        self.schedule(h, after, Part::State, Happening::StateWritten { token, state: Box::new(state) });
    }

    pub(super) fn state_written(
        &mut self,
        h: usize,
        token: u64,
        state: holdfast_agent::node::hard_state::HardState,
    ) {
        self.hosts[h].hard = state;
        self.decided = facts::newest_record(self).cloned();
        self.see(Seen::Persisted { host: h });
        let mut token = token;
        if let Some(life) = self.hosts[h].life.as_mut() {
            life.state.writing = None;
            if planted::is("newest-write-reported") {
                token = life.state.waiting.as_ref().map_or(token, |(newest, _)| *newest);
            }
        }
        self.tell_core(h, Event::Persisted { token });
        self.write_state(h);
    }

    // ---- the log -----------------------------------------------------------------------------------

    /// Puts an input into the inbox of the log's thread.
    pub(super) fn tell_log(&mut self, h: usize, input: Input<RequestId>) {
        let Some(log) = self.log_of(h) else { return };
        log.inbox.push_back(input);
        self.wake_log(h);
    }

    fn wake_log(&mut self, h: usize) {
        let Some(log) = self.log_of(h) else { return };
        if !log.called && !log.syncing {
            log.called = true;
            let after = self.dice.between(US, 20 * US);
            self.schedule(h, after, Part::Log, Happening::LogTurn);
        }
    }

    pub(super) fn log_turn(&mut self, h: usize) {
        let (now, wall_ms) = (self.clock(h), self.hosts[h].clock.wall_ms(self.now));
        let mut out = std::mem::take(&mut self.log_out);
        let Some(log) = self.log_of(h) else { return };
        log.called = false;
        if log.syncing {
            return;
        }
        let batch: VecDeque<_> = if log.inbox.len() <= LOG_BATCH {
            std::mem::take(&mut log.inbox)
        } else {
            log.inbox.drain(..LOG_BATCH).collect()
        };
        log.engine.set_clock(now, wall_ms);
        log.engine.ingest(batch, &mut out);
        if self.stopped_by_disk(h) {
            return;
        }
        self.dispatch(h, &mut out);
        if self.log_of(h).is_some_and(|log| log.engine.leads()) && !self.settle_log(h, &mut out) {
            return;
        }
        let Some(log) = self.log_of(h) else { return };
        if log.engine.failure().is_none() && log.engine.log().durable() < log.engine.log().end() {
            log.syncing = true;
            self.log_out = out;
            let after = self.sync_time(h);
            return self.schedule(h, after, Part::Log, Happening::LogSynced);
        }
        self.flush_log(h, out);
    }

    pub(super) fn log_synced(&mut self, h: usize) {
        let Some(log) = self.log_of(h) else { return };
        log.syncing = false;
        let out = std::mem::take(&mut self.log_out);
        self.flush_log(h, out);
    }

    fn log_of(&mut self, h: usize) -> Option<&mut LogThread> {
        self.hosts[h].life.as_mut().and_then(|life| life.log.as_mut())
    }

    /// Carries out what is committed; `false` if the process died of it.
    fn settle_log(&mut self, h: usize, out: &mut Vec<Output<RequestId, Outcome>>) -> bool {
        let Some(log) = self.log_of(h) else { return false };
        log.engine.settle(out);
        if self.stopped_by_disk(h) {
            return false;
        }
        self.dispatch(h, out);
        true
    }

    fn flush_log(&mut self, h: usize, mut out: Vec<Output<RequestId, Outcome>>) {
        let Some(log) = self.log_of(h) else { return };
        log.engine.sync(&mut out);
        if self.stopped_by_disk(h) {
            return;
        }
        self.dispatch(h, &mut out);
        if !self.settle_log(h, &mut out) {
            return;
        }
        self.log_out = out;
        self.publish(h);
        self.see(Seen::Flushed { host: h });
        self.look_at_space(h);
        let snapshot = self.dice.one_in(16);
        let host = &mut self.hosts[h];
        let Some(log) = host.life.as_mut().and_then(|life| life.log.as_mut()) else { return };
        if snapshot {
            host.index_on_disk = log.index.fork();
        }
        if !log.inbox.is_empty() || log.engine.wants_flush() {
            self.wake_log(h);
        }
    }

    /// The process died in the middle of what it did to its disk: nothing of what it would have said
    /// came out.
    fn stopped_by_disk(&mut self, h: usize) -> bool {
        if !self.hosts[h].disk.is_stopped() {
            return false;
        }
        self.log_out.clear();
        self.die_now(h);
        true
    }

    fn dispatch(&mut self, h: usize, out: &mut Vec<Output<RequestId, Outcome>>) {
        for output in out.drain(..) {
            match output {
                Output::Send { conn, frame } => {
                    self.see(Seen::Frame { host: h, frame: &frame });
                    self.send_frame(h, conn, &frame);
                }
                Output::Close { conn, .. } => self.close_after_sending(h, conn),
                Output::Reply { reply, result } => self.log_replied(h, reply, result),
                Output::EpochStarted { epoch, .. } => {
                    self.publish(h);
                    self.tell_core(h, Event::EpochStarted { epoch });
                }
                Output::WaitReached { epoch, version } => {
                    self.tell_core(h, Event::WaitReached { epoch, version });
                }
                Output::PeerProgress { member, streaming, durable } => {
                    self.tell_core(h, Event::FollowerProgressed { member, streaming, durable });
                }
                Output::Following { .. } => {}
                Output::Asked { conn, token, epoch, committed } => {
                    let now = self.clock(h);
                    let held = self.hosts[h].life.as_ref().and_then(|life| life.lease.held(now));
                    if let Some(frame) = freshness::word(held, token, epoch, committed) {
                        self.send_frame(h, conn, &frame);
                    }
                }
                // The token is the moment of the question.
                Output::Told { token, committed, .. } => {
                    self.see(Seen::Told { host: h, asked_at: token, committed });
                }
                Output::Compare { .. } | Output::Compared { .. } => {}
                Output::SetAside { archive, from, to } => {
                    // An index that was ahead of the cut was emptied, durably.
                    let host = &mut self.hosts[h];
                    if let Some(log) = host.life.as_ref().and_then(|life| life.log.as_ref()) {
                        host.index_on_disk = log.index.fork();
                    }
                    self.see(Seen::SetAside { host: h, archive: &archive, from, to });
                    self.tell_story(h, format!("LSN {from} to {to} set aside as {archive}"));
                }
                Output::Healed { from, to } => {
                    self.counts.healed += 1;
                    self.tell_story(h, format!("LSN {from} to {to} were put right"));
                }
                Output::BegunAnew { shared } => {
                    self.see(Seen::BegunAnew { host: h, shared });
                    self.tell_story(h, format!("the copy of the log begins anew; LSN {shared} was shared"));
                }
                Output::LogFailed { full, error } => {
                    self.see(Seen::LogFailed { host: h, error: &error });
                    self.tell_core(h, Event::LogFailed { full, error });
                }
            }
        }
    }

    /// A standby asks how far the primary is; a member that is none asks nobody.
    pub(super) fn ask_how_far(&mut self, h: usize) {
        let Some(pause) = self.ask_pause else { return };
        let after = self.dice.between(pause / 4, pause * 2);
        self.schedule(h, after, Part::Service, Happening::AskHowFar);
        self.tell_log(h, Input::Ask { token: self.now });
    }

    fn publish(&mut self, h: usize) {
        let Some(log) = self.log_of(h) else { return };
        let kept = log.engine.log();
        let position = (kept.end(), kept.durable(), kept.last_epoch());
        if log.said != Some(position) {
            log.said = Some(position);
            let (end, durable, last_epoch) = position;
            self.tell_core(h, Event::LogAdvanced { end, durable, last_epoch });
        }
    }

    pub(super) fn look_at_space(&mut self, h: usize) {
        let Some(capacity) = self.capacity[h] else {
            return self.note_space(h, false);
        };
        let used = self.hosts[h].disk.used();
        self.note_space(h, used + capacity / 16 > capacity);
    }

    pub(super) fn note_space(&mut self, h: usize, full: bool) {
        let Some(log) = self.log_of(h) else { return };
        if log.full == full {
            return;
        }
        log.full = full;
        if full {
            let error = "little space is left on the simulated disk".to_owned();
            self.tell_core(h, Event::LogFailed { full: true, error });
        } else {
            self.tell_core(h, Event::SpaceReturned);
        }
    }

    // ---- packets -----------------------------------------------------------------------------------

    /// Sends a packet as the network pleases.
    pub(super) fn send_packet(&mut self, from: usize, to: usize, path: usize, bytes: Rc<[u8]>) {
        self.counts.packets += 1;
        if self.network.is_cut(from, to, path) || self.dice.per_million(self.network.lost) {
            return;
        }
        if self.recording > 0 && self.dice.one_in(self.recording) {
            self.record(from, path, &bytes);
        }
        let bytes = if self.dice.per_million(self.network.altered) { self.altered(&bytes) } else { bytes };
        if self.dice.per_million(self.network.doubled) {
            let after = self.network.latency(&mut self.dice, from, to) * 2;
            self.future.push(self.now + after, Future::Packet { from, to, path, bytes: bytes.clone() });
        }
        let after = self.network.latency(&mut self.dice, from, to);
        self.future.push(self.now + after, Future::Packet { from, to, path, bytes });
    }

    fn altered(&mut self, bytes: &[u8]) -> Rc<[u8]> {
        let mut bytes = bytes.to_vec();
        match self.dice.below(3) {
            0 => {
                let at = self.dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.dice.below(8);
            }
            1 => bytes.truncate(self.dice.below(bytes.len() as u64) as usize),
            _ => bytes.push(self.dice.roll() as u8),
        }
        bytes.into()
    }
}
