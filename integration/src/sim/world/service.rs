//! Clients on the wire, and the service that answers them: the same steps, and the same looks at the lease,
//! as the S3 endpoint and its control take in an agent.

use std::time::Duration;

use bytes::Bytes;
use holdfast_agent::node::event::Event;
use holdfast_agent::runtime::service::{LAST_WORDS, REFUSE_FOR, ServiceOrder};
use holdfast_heartbeat::Epoch;
use holdfast_replication::RecordKind;
use holdfast_replication::replica::{Done, Input, SubmitError, Wait};
use holdfast_store::apply::Outcome;

use super::happening::{Happening, Part};
use super::life::Mode;
use super::network::{MS, US};
use super::space::HOUSEKEEPING;
use super::{Future, Seen, World};
use crate::sim::chance::Chance;
use crate::sim::s3::call::{Answer, Call, Code, Doubt};
use crate::sim::s3::session::{Context, Logged, Session, Step};

/// Names a request in the whole world: whose, and the how-manieth of that client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    /// The client.
    pub client: usize,
    /// Counts its requests.
    pub serial: u64,
}

/// By which address a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The virtual address.
    Virtual,
    /// The host's own.
    Direct,
}

/// A request that is being answered.
pub struct Underway {
    session: Session,
    route: Route,
    /// Whether anything was handed to the log: from then on its fate is open until the log has answered.
    submitted: bool,
    changes: bool,
}

impl World {
    /// A request has come to the service of host `h`.
    pub(super) fn take_request(&mut self, h: usize, request: RequestId, route: Route, call: Call) {
        let now = self.clock(h);
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let refusal = match life.service.mode {
            Mode::Draining => Some(Answer::Refused(Code::Unavailable)),
            Mode::No => Some(Answer::Refused(Code::NotPrimary)),
            Mode::Yes if life.lease.held(now).is_none() => Some(Answer::Refused(Code::NotPrimary)),
            Mode::Yes => None,
        };
        if let Some(answer) = refusal {
            return self.leave(h, request, route, answer);
        }
        let epoch = life.lease.held(now).unwrap_or(Epoch::ZERO);
        let changes = !call.is_read();
        let Some((session, step)) = self.with_context(h, epoch, |context| Session::begin(call, context))
        else {
            return;
        };
        let life = self.hosts[h].life.as_mut().expect("it lives");
        life.service.underway.insert(request, Underway { session, route, submitted: false, changes });
        self.take_step(h, request, step);
    }

    fn with_context<T>(
        &mut self,
        h: usize,
        epoch: Epoch,
        run: impl FnOnce(&mut Context<'_>) -> T,
    ) -> Option<T> {
        let wall_ms = self.hosts[h].clock.wall_ms(self.now);
        let log = self.hosts[h].life.as_ref()?.log.as_ref()?;
        let (index, reader) = (log.index.clone(), log.reader.clone());
        Some(run(&mut Context { index: &index, log: &*reader, wall_ms, epoch, dice: &mut self.dice }))
    }

    fn take_step(&mut self, h: usize, request: RequestId, step: Step) {
        match step {
            Step::Answer(answer) => {
                let after = self.dice.up_to(self.service_delay);
                let answer = Box::new(answer);
                self.schedule(h, after, Part::Service, Happening::Leave { request, answer });
            }
            Step::Append(payload) if self.now < self.slow_bodies_until && self.dice.one_in(4) => {
                let after = self.dice.up_to(self.slow_body);
                self.schedule(h, after, Part::Service, Happening::Body { request, payload });
            }
            Step::Append(payload) => {
                // Where space is won back, some bodies take so long that it happens below them.
                let slow = self.reclaim_pause.filter(|_| self.dice.one_in(8));
                if let Some(pause) = slow {
                    let after = self.dice.up_to(4 * pause);
                    return self.schedule(h, after, Part::Service, Happening::Body { request, payload });
                }
                self.submit(h, request, RecordKind::Data, payload, Wait::Appended);
            }
            Step::Commit(payload) => self.submit(h, request, RecordKind::Op, payload, Wait::Committed),
        }
    }

    /// Hands a record of a request that still waits to the log.
    pub(super) fn submit(
        &mut self,
        h: usize,
        request: RequestId,
        kind: RecordKind,
        payload: Vec<Bytes>,
        wait: Wait,
    ) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let Some(log) = life.log.as_mut() else { return };
        let Some(underway) = life.service.underway.get_mut(&request) else { return };
        if log.full {
            let logged = Logged::Refused(SubmitError::DiskFull);
            return self.schedule(h, US, Part::Service, Happening::Logged { request, logged });
        }
        life.service.in_flight += 1;
        underway.submitted = true;
        if let (RecordKind::Op, Some(epoch)) = (kind, underway.session.received_in()) {
            life.service.received.insert(request, epoch);
        }
        self.tell_log(h, Input::Submit { kind, payload, wait, reply: request });
    }

    /// The log has answered; the service's thread hears of it a little later.
    pub(super) fn log_replied(
        &mut self,
        h: usize,
        request: RequestId,
        result: Result<Done<Outcome>, SubmitError>,
    ) {
        let logged = match result {
            Ok(Done::Appended { lsn, end }) => Logged::Appended { lsn, end },
            Ok(Done::Committed { outcome, .. }) if request == HOUSEKEEPING => Logged::Committed(outcome),
            Ok(Done::Committed { lsn, end, outcome }) => {
                let life = self.hosts[h].life.as_mut();
                let received_in = life.and_then(|life| life.service.received.remove(&request));
                let received_in = received_in.filter(|_| matches!(outcome, Outcome::Stored { .. }));
                self.see(Seen::Committed { host: h, request, lsn, end, received_in });
                Logged::Committed(outcome)
            }
            Err(error) => Logged::Refused(error),
        };
        let after = self.dice.between(US, 20 * US);
        self.schedule(h, after, Part::Service, Happening::Logged { request, logged });
    }

    pub(super) fn take_logged(&mut self, h: usize, request: RequestId, logged: Logged) {
        let now = self.clock(h);
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        life.service.in_flight = life.service.in_flight.saturating_sub(1);
        let epoch = life.lease.held(now).unwrap_or(Epoch::ZERO);
        let Some(mut underway) = life.service.underway.remove(&request) else { return };
        let step = self.with_context(h, epoch, |context| underway.session.go_on(logged, context));
        if let (Some(step), Some(life)) = (step, self.hosts[h].life.as_mut()) {
            life.service.underway.insert(request, underway);
            self.take_step(h, request, step);
        }
    }

    /// The answer is about to leave: the lease is looked at once more.
    pub(super) fn let_leave(&mut self, h: usize, request: RequestId, answer: Answer) {
        let now = self.clock(h);
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let Some(underway) = life.service.underway.remove(&request) else { return };
        let held = life.lease.held(now);
        if held.is_none() && !holdfast_heartbeat::planted::is("answer-without-lease") {
            let open = underway.submitted && underway.changes;
            let away =
                if open { Answer::Unknown(Doubt::NotPrimary) } else { Answer::Refused(Code::NotPrimary) };
            return self.leave(h, request, underway.route, away);
        }
        self.see(Seen::Answering { host: h, request, route: underway.route, answer: &answer });
        let written = underway.changes && answer.is_success();
        self.leave(h, request, underway.route, answer);
        if written && std::mem::take(&mut self.dies_after_answer) {
            self.die_now(h);
        }
    }

    /// A packet with the answer tries to leave the host, past its kernel's gate.
    fn leave(&mut self, h: usize, request: RequestId, route: Route, answer: Answer) {
        let now = self.clock(h);
        let host = &self.hosts[h];
        let passes = host.up
            && !host.link_down
            && !self.network.service_cut[h]
            && match route {
                Route::Virtual => host.kernel.answers_on_address(now),
                Route::Direct => host.kernel.port_open(now),
            };
        if passes {
            let after = self.network.delay + self.dice.up_to(self.network.jitter);
            self.future.push(self.now + after, Future::Answer { request, answer: Box::new(answer) });
        }
    }

    /// A new order for the service's control.
    pub(super) fn order_service(&mut self, h: usize, order: ServiceOrder) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if life.service.busy {
            return life.service.queue.push_back(order);
        }
        life.service.serial += 1;
        let serial = life.service.serial;
        match order {
            ServiceOrder::Serve => {
                life.lease.bind_ports();
                life.service.mode = Mode::Yes;
                self.next_service_order(h);
            }
            ServiceOrder::Stop { drain } if drain.is_zero() => {
                life.service.busy = true;
                self.stop_answering(h, serial);
            }
            ServiceOrder::Stop { drain } => {
                life.service.busy = true;
                life.service.mode = Mode::Draining;
                life.service.drain_until = self.now + drain.as_nanos() as u64;
                let after = nanos(REFUSE_FOR.min(drain));
                self.schedule(h, after, Part::Control, Happening::Drained { serial });
            }
        }
    }

    pub(super) fn drained(&mut self, h: usize, serial: u64) {
        let now = self.now;
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if life.service.serial != serial {
            return;
        }
        if life.service.in_flight > 0 && now < life.service.drain_until {
            return self.schedule(h, MS, Part::Control, Happening::Drained { serial });
        }
        self.stop_answering(h, serial);
    }

    /// Closes every connection that began before.
    fn stop_answering(&mut self, h: usize, serial: u64) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        life.service.mode = Mode::No;
        for (request, underway) in std::mem::take(&mut life.service.underway) {
            self.leave(h, request, underway.route, Answer::Unknown(Doubt::ConnectionLost));
        }
        self.schedule(h, nanos(LAST_WORDS), Part::Control, Happening::Stopped { serial });
    }

    pub(super) fn service_stopped(&mut self, h: usize, serial: u64) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        if life.service.serial != serial {
            return;
        }
        life.lease.open_ports_for_standby();
        self.tell_core(h, Event::ServiceStopped);
        self.next_service_order(h);
    }

    fn next_service_order(&mut self, h: usize) {
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        life.service.busy = false;
        if let Some(order) = life.service.queue.pop_front() {
            self.order_service(h, order);
        }
    }
}

/// A span in nanoseconds.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
