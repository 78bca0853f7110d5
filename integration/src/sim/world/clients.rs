//! Clients on the service network: they find the address by ARP, as any neighbour does, and believe the
//! last announcement.

use super::happening::{Happening, Part};
use super::network::{MS, US};
use super::service::{RequestId, Route};
use super::{Future, Ns, World};
use crate::sim::chance::Chance;
use crate::sim::s3::call::{Answer, Call, Code, Doubt};
use crate::sim::s3::client::Client;
use crate::sim::s3::history::{ClientId, OpId};
use crate::sim::s3::workload::Workload;

/// Of this many requests one goes to a host's own address instead of the virtual one.
const DIRECT_ONE_IN: u64 = 6;

/// A client and its place on the wire.
pub struct WiredClient {
    /// What it wants.
    pub client: Client,
    /// The host that it takes for the owner of the address.
    pub neighbour: Option<usize>,
    /// What it asks next, or has asked.
    call: Option<Call>,
    /// Whether that is the client's own wish, and not the bucket that everybody needs first.
    own: bool,
    serial: u64,
    waiting: Option<OpId>,
    /// Asks for nothing by itself: [`World::ask`] says what, and when.
    led: bool,
}

impl World {
    /// Adds clients of one mixture; each begins by itself.
    pub fn add_clients(&mut self, count: usize, workload: &Workload) {
        for _ in 0..count {
            let id = ClientId(self.clients.len() as u16);
            let client = Client::new(id, workload.clone(), &mut self.dice);
            self.wire(client, false);
            self.prepare(usize::from(id.0));
        }
    }

    fn wire(&mut self, client: Client, led: bool) {
        let wired =
            WiredClient { client, neighbour: None, call: None, own: false, serial: 0, waiting: None, led };
        self.clients.push(wired);
    }

    /// Adds a client that asks for nothing by itself.
    pub fn add_led_client(&mut self) -> usize {
        let c = self.clients.len();
        let workload = Workload::draw(&mut self.dice);
        let client = Client::new(ClientId(c as u16), workload, &mut self.dice);
        self.wire(client, true);
        c
    }

    /// Lets such a client ask for something: by the virtual address, or by the own one of `host`. It must
    /// not be waiting for anything, and waits no longer than `patience`.
    pub fn ask(&mut self, c: usize, call: Call, host: Option<usize>, patience: Ns) -> OpId {
        assert!(self.clients[c].led && self.clients[c].waiting.is_none(), "one request at a time");
        let wired = &mut self.clients[c];
        wired.serial += 1;
        let request = RequestId { client: c, serial: wired.serial };
        let op = self.history.invoked(ClientId(c as u16), call.clone(), self.now);
        self.clients[c].waiting = Some(op);
        self.future.push(self.now + patience, Future::GiveUp { request });
        let (route, target) = match host {
            Some(host) => (Route::Direct, Some(host)),
            None => (Route::Virtual, self.resolve(c)),
        };
        self.send_request(request, route, target, call);
        op
    }

    /// Whether this client waits for an answer.
    pub fn is_waiting(&self, c: usize) -> bool {
        self.clients[c].waiting.is_some()
    }

    fn prepare(&mut self, c: usize) {
        let wired = &mut self.clients[c];
        let (call, at) = if self.bucket_made {
            wired.client.next(self.now, &mut self.dice)
        } else {
            (Call::CreateBucket, self.now + self.dice.between(50 * MS, 500 * MS))
        };
        wired.own = self.bucket_made;
        wired.call = Some(call);
        self.future.push(at, Future::Client { client: c });
    }

    /// The client sends what it has prepared.
    pub(super) fn client_acts(&mut self, c: usize) {
        if !self.clients_work || self.clients[c].waiting.is_some() {
            return;
        }
        let Some(call) = self.clients[c].call.clone() else { return };
        let wired = &mut self.clients[c];
        wired.serial += 1;
        let request = RequestId { client: c, serial: wired.serial };
        wired.waiting = Some(self.history.invoked(ClientId(c as u16), call.clone(), self.now));
        let patience = wired.client.patience();
        self.future.push(self.now + patience, Future::GiveUp { request });
        let (route, target) = if self.dice.one_in(DIRECT_ONE_IN) {
            (Route::Direct, Some(self.dice.below(self.shape.data as u64) as usize))
        } else {
            (Route::Virtual, self.resolve(c))
        };
        self.send_request(request, route, target, call);
    }

    fn send_request(&mut self, request: RequestId, route: Route, target: Option<usize>, call: Call) {
        let Some(host) = target else { return };
        let after = self.network.delay + self.dice.up_to(self.network.jitter);
        self.future.push(self.now + after, Future::Request { host, request, route, call: Box::new(call) });
    }

    /// Who answers for the address, by the client's neighbour table or by asking everybody.
    fn resolve(&mut self, c: usize) -> Option<usize> {
        if self.clients[c].neighbour.is_none() {
            let answering: Vec<usize> = (0..self.hosts.len())
                .filter(|h| self.hosts[*h].answers_on_address(self.now) && !self.network.service_cut[*h])
                .collect();
            if !answering.is_empty() {
                self.clients[c].neighbour = Some(*self.dice.pick(&answering));
            }
        }
        self.clients[c].neighbour
    }

    /// A request reaches a host's kernel.
    pub(super) fn request_arrives(&mut self, h: usize, request: RequestId, route: Route, call: Box<Call>) {
        let now = self.clock(h);
        let host = &self.hosts[h];
        let passes = host.up
            && !host.link_down
            && !self.network.service_cut[h]
            && match route {
                Route::Virtual => host.kernel.answers_on_address(now),
                Route::Direct => host.kernel.port_open(now),
            };
        if !passes {
            return;
        }
        if host.life.is_none() {
            // Nobody listens: the kernel says so.
            let answer = Box::new(Answer::Unknown(Doubt::ConnectionLost));
            return self.future.push(self.now + 200 * US, Future::Answer { request, answer });
        }
        let after = self.dice.between(10 * US, 100 * US);
        self.schedule(h, after, Part::Service, Happening::Request { request, route, call });
    }

    /// An answer reaches its client, if that one still waits for it.
    pub(super) fn answer_arrives(&mut self, request: RequestId, answer: Answer) {
        let c = request.client;
        let wired = &mut self.clients[c];
        if wired.serial != request.serial {
            return;
        }
        let Some(op) = wired.waiting.take() else { return };
        self.history.completed(op, &answer, self.now);
        if answer.is_success() {
            self.counts.answered += 1;
            self.last_success = self.now;
        }
        match answer {
            Answer::BucketCreated | Answer::Refused(Code::BucketExists) => self.bucket_made = true,
            // Whoever is sent away looks again for the address.
            Answer::Refused(Code::NotPrimary) | Answer::Unknown(_) => self.clients[c].neighbour = None,
            _ => {}
        }
        if self.clients[c].led {
            return;
        }
        if self.clients[c].own {
            self.clients[c].client.answered(&answer, &mut self.dice);
        }
        self.prepare(c);
    }

    pub(super) fn client_gives_up(&mut self, request: RequestId) {
        let c = request.client;
        let wired = &mut self.clients[c];
        if wired.serial != request.serial || wired.waiting.is_none() {
            return;
        }
        wired.neighbour = None;
        self.answer_arrives(request, Answer::Unknown(Doubt::TimedOut));
    }

    /// When a client last had success.
    pub fn last_success(&self) -> Ns {
        self.last_success
    }
}
