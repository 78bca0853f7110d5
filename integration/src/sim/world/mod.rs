//! The world: time, hosts, networks, clocks, disks and kernels, all simulated, around the production core,
//! codecs, log and store.
//!
//! One seed decides everything; nothing here reads a clock, a file or an address of this machine. A heartbeat
//! goes `agent` (the node's effect) -> `network` -> `agent` (the other core's inbox); a PUT goes `clients` ->
//! `service` -> `agent` (the log's thread) -> `streams` -> `agent` of the standby, and back; a failover is the
//! node's, seen by `addresses` and `kernel`.
//!
//! What the world does by itself is only physics. What goes wrong is decided in [`super::faults`]; what must
//! never happen, in [`super::checkers`], which are told of everything through [`Seen`].

pub mod addresses;
pub mod agent;
pub mod attendants;
pub mod clients;
pub mod clock;
pub mod fencing;
pub mod happening;
pub mod host;
pub mod hosts;
pub mod kernel;
pub mod life;
pub mod network;
pub mod queue;
pub mod service;
pub mod shape;
pub mod space;
pub mod streams;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_agent::node::effect::Effect;
use holdfast_agent::node::event::{Answer as CommandAnswer, Event};
use holdfast_config::timers::Derived;
use holdfast_heartbeat::packet::NEWEST;
use holdfast_heartbeat::{BootNonce, Epoch, Heartbeat, InSyncRecord, Keyring, Lsn, Notice, Role, Time};
use holdfast_replication::RecordKind;
use holdfast_replication::replica::{ConnId, Output, Wait};
use holdfast_replication::stream::Frame;
use holdfast_replication::testing::{Dice, MemDisk};
use holdfast_store::apply::Outcome;
use holdfast_store::space::Told;

use self::clients::WiredClient;
use self::clock::Clock;
use self::happening::{Happening, Part};
use self::host::Host;
use self::kernel::Kernel;
use self::network::{MS, Network, US};
use self::queue::Queue;
use self::service::{RequestId, Route};
use self::shape::{MOST_HOSTS, Shape};
use self::space::HOUSEKEEPING;
use self::streams::Conn;
use super::checkers::Checkers;
use super::s3::call::{Answer, Call};
use super::s3::history::History;
use super::story::Story;

/// Nanoseconds since the beginning of the world, or between two moments of it.
pub type Ns = u64;

/// What lies in the future.
#[allow(missing_docs, reason = "the fields repeat the vocabulary of the parts")]
pub enum Future {
    /// A packet arrives at a host.
    Packet { from: usize, to: usize, path: usize, bytes: Rc<[u8]> },
    /// Something happens to a part of an agent, in this life of it.
    Part { host: usize, life: u64, part: Part, what: Happening },
    /// What is under way on a connection moves on.
    Flow { conn: ConnId, side: usize },
    /// The supervisor has noticed the death of its agent.
    Bury { host: usize, notice: Box<Notice> },
    /// systemd, or the supervisor, starts the agent.
    Start { host: usize, life: u64 },
    /// Somebody who does not wait for the disk of a host has judged a stall of it.
    Judge { host: usize, stall: u64, good: bool },
    /// A client does the next thing.
    Client { client: usize },
    /// A fence device does what it was told.
    Fence(Box<fencing::FenceOrder>),
    /// A request arrives at a host.
    Request { host: usize, request: RequestId, route: Route, call: Box<Call> },
    /// An answer arrives at a client.
    Answer { request: RequestId, answer: Box<Answer> },
    /// A client stops waiting.
    GiveUp { request: RequestId },
}

/// What the checkers are told of, at the moment when it happens.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields repeat the vocabulary of the parts")]
pub enum Seen<'a> {
    /// An authentic heartbeat was taken out of a socket.
    Received { host: usize, from: usize, heartbeat: &'a Heartbeat },
    /// A node has taken a heartbeat for true and new; `role` is what stood in it.
    Believed { host: usize, peer: usize, boot: BootNonce, seq: u64, role: Role },
    /// A node wants something done; it is not done yet.
    Effect { host: usize, at: Time, effect: &'a Effect },
    /// A node has taken an event in, and its effects were carried out.
    Stepped { host: usize },
    /// A state file was written.
    Persisted { host: usize },
    /// A replica sends a frame.
    Frame { host: usize, frame: &'a Frame },
    /// A log was synced; acknowledgements are on their way.
    Flushed { host: usize },
    /// A primary's log says that a write is committed, and in which epoch the host had received the bytes
    /// that lie before it in the log, where they are stored now.
    Committed { host: usize, request: RequestId, lsn: Lsn, end: Lsn, received_in: Option<Epoch> },
    /// An answer is about to leave a host, having passed the looks at the lease.
    Answering { host: usize, request: RequestId, route: Route, answer: &'a Answer },
    /// A standby was told what is committed, having asked then.
    Told { host: usize, asked_at: Ns, committed: Lsn },
    /// The address was put on an interface.
    Claimed { host: usize, epoch: Epoch },
    /// A divergent tail was set aside.
    SetAside { host: usize, archive: &'a str, from: Lsn, to: Lsn },
    /// A copy of the log begins from nothing.
    BegunAnew { host: usize, shared: Lsn },
    /// A log is out of service until its agent is started anew.
    LogFailed { host: usize, error: &'a str },
    /// An agent has begun to live; its log is open.
    Born { host: usize },
    /// An agent's life is over; its disk is as the next life will find it.
    Dead { host: usize },
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Events that nodes took in.
    pub events: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets that were not authentic.
    pub bad_packets: u64,
    /// Requests that were answered with success.
    pub answered: u64,
    /// Members that became primary.
    pub reigns: u64,
    /// Times that space was won back.
    pub reclaims: u64,
    /// Damaged places that were put right.
    pub healed: u64,
    /// Things that happened in the world.
    pub happened: u64,
}

/// See the module's documentation.
pub struct World {
    /// The moment.
    pub now: Ns,
    /// All chance.
    pub dice: Dice,
    /// The members and their settings.
    pub shape: Shape,
    /// The machines.
    pub hosts: Vec<Host>,
    /// The networks.
    pub network: Network,
    /// Bytes that the disk of each host may hold, where it is limited.
    pub capacity: [Option<u64>; MOST_HOSTS],
    /// The usual pause between two looks for space that can be won back, if any is.
    pub reclaim_pause: Option<Ns>,
    /// The usual pause between two questions of a standby how far the primary is, if it asks.
    pub ask_pause: Option<Ns>,
    /// A thread gets the processor this much later at most.
    pub wake_delay: Ns,
    /// A request is worked on for this long at most.
    pub service_delay: Ns,
    /// Until when clients are slow to send bodies.
    pub slow_bodies_until: Ns,
    /// A slow client makes a service wait this long at most for the next bytes.
    pub slow_body: Ns,
    /// A change of an address takes this long at most.
    pub netlink_delay: Ns,
    /// So many changes of addresses of a million fail.
    pub netlink_fails: u64,
    /// Whoever answers next that something was written dies as soon as the answer has left.
    pub dies_after_answer: bool,
    /// One packet in so many is remembered by somebody who means harm; none if zero.
    pub recording: u64,
    /// Clients.
    pub clients: Vec<WiredClient>,
    /// What they did.
    pub history: History,
    /// What was counted.
    pub counts: Counts,
    /// What happened, for people, and the digest of everything.
    pub story: Story,
    /// What must never happen.
    pub checkers: Option<Box<Checkers>>,
    /// Whether some disk was lost with what it held.
    pub disks_lost: bool,
    /// An operator has accepted that acknowledged data may be lost.
    pub price_accepted: bool,
    /// A clock ran at a rate outside of the bound.
    pub rate_outside: bool,
    /// Whether clients ask for anything.
    pub clients_work: bool,
    /// Whether the bucket that everybody needs was seen to exist.
    pub bucket_made: bool,
    last_success: Ns,
    /// Results of commands, in the order in which they came.
    pub answers: Vec<(usize, u64, CommandAnswer)>,
    /// Each host's path from a configured peer to the host behind it.
    routes: Vec<Vec<usize>>,
    /// The newest in-sync record that a quorum ever had: while votes are moved, a disk may have the one that follows it
    /// and is not decided yet.
    pub decided: Option<InSyncRecord>,
    future: Queue<Future>,
    conns: BTreeMap<ConnId, Conn>,
    conn_serial: u64,
    life_serial: u64,
    recorded: Vec<(usize, usize, Rc<[u8]>)>,
    /// Notices of deaths, and whose, that somebody remembers who means harm.
    notices: Vec<(usize, Rc<[u8]>)>,
    /// A host that is no member has the address: it answers whoever asks for it.
    pub foreign_address: bool,
    log_out: Vec<Output<RequestId, Outcome>>,
    /// The chance of hooks and services alone.
    attendants_dice: Dice,
    /// The chance of fence devices alone.
    fence_dice: Dice,
    /// Who was switched off by a device is back after this long at most; never if zero.
    pub back_after_fence: Ns,
}

/// Packets that are remembered to be sent again, at most.
const RECORDED: usize = 64;

/// The secret of every simulated cluster; another number is another secret.
pub fn secret(number: u32) -> String {
    format!("the simulated secret, number {number}, of thirty-two bytes and more")
}

impl World {
    /// A world in which every host is switched on and no agent runs yet.
    pub fn new(shape: Shape, seed: u64) -> World {
        let secrets = [secret(1)];
        let hosts: Vec<Host> = (0..shape.hosts()).map(|i| Self::host(&shape, i, &secrets)).collect();
        let routes = hosts
            .iter()
            .map(|host| {
                let number = |peer: &holdfast_config::Peer| match peer.host {
                    std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]) - 1,
                    std::net::IpAddr::V6(_) => unreachable!("simulated hosts have IPv4 addresses"),
                };
                host.config.peers.iter().map(number).collect()
            })
            .collect();
        World {
            now: 0,
            dice: Dice(seed),
            hosts,
            network: Network::default(),
            capacity: [None; MOST_HOSTS],
            reclaim_pause: None,
            ask_pause: None,
            wake_delay: 50 * US,
            service_delay: 200 * US,
            slow_bodies_until: 0,
            slow_body: 0,
            netlink_delay: 500 * US,
            netlink_fails: 0,
            dies_after_answer: false,
            recording: 0,
            clients: Vec::new(),
            history: History::default(),
            counts: Counts::default(),
            story: Story::default(),
            checkers: Some(Box::new(Checkers::new(&shape))),
            disks_lost: false,
            price_accepted: false,
            rate_outside: false,
            clients_work: true,
            bucket_made: false,
            last_success: 0,
            answers: Vec::new(),
            routes,
            decided: None,
            shape,
            future: Queue::default(),
            conns: BTreeMap::new(),
            conn_serial: 0,
            life_serial: 0,
            recorded: Vec::new(),
            notices: Vec::new(),
            foreign_address: false,
            log_out: Vec::new(),
            attendants_dice: Dice(seed ^ 0x686f_6f6b_7321_0001),
            fence_dice: Dice(seed ^ 0x6665_6e63_6521_0001),
            back_after_fence: 0,
        }
    }

    fn host(shape: &Shape, i: usize, secrets: &[String]) -> Host {
        let config = shape.config(i, secrets);
        let keys = keyring(&config);
        let derived = shape.derived(i, &config);
        Host {
            name: shape.name(i),
            kind: shape.kind(i),
            up: true,
            clock: Clock::new(0, 0),
            kernel: Kernel::new(shape.gates[i]),
            derived,
            life: None,
            frozen: false,
            deferred: Default::default(),
            stalled: [0; Part::COUNT],
            hard: Default::default(),
            lost_record: None,
            state_incarnation: None,
            log_incarnation: None,
            disk: MemDisk::new(),
            index: None,
            disk_harmed: false,
            index_on_disk: None,
            config: Arc::new(config),
            keys: Arc::new(keys),
            speaks: NEWEST,
            sync_delay: 200 * US,
            sync_jitter: 100 * US,
            disk_stalled_until: 0,
            stall: 0,
            disk_bad: None,
            penalties: Vec::new(),
            state_disk_fails: false,
            conduct: Default::default(),
            devices: Default::default(),
            link_down: false,
            wanted: false,
            dies_after: None,
            lives: 0,
        }
    }

    /// Lets everything happen that happens by `until`, or until a checker objects.
    pub fn run_until(&mut self, until: Ns) {
        while !self.violated() {
            let Some((at, what)) = self.future.pop_until(until) else { break };
            self.now = self.now.max(at);
            self.counts.happened += 1;
            self.happen(what);
        }
        self.now = self.now.max(until);
    }

    /// Whether a checker has objected.
    pub fn violated(&self) -> bool {
        self.checkers.as_ref().is_some_and(|checkers| checkers.violation().is_some())
    }

    fn happen(&mut self, what: Future) {
        match what {
            Future::Packet { from, to, path, bytes } => {
                if self.hosts[to].up && !self.network.is_cut(from, to, path) {
                    self.schedule(to, 2 * US, Part::Sockets, Happening::Packet { from, path, bytes });
                }
            }
            Future::Part { host, life, part, what } => self.reach(host, life, part, what),
            Future::Flow { conn, side } => self.flow(conn, side),
            Future::Start { host, life } => {
                let waiting = self.hosts[host].life.is_none() && self.hosts[host].lives == life;
                if self.hosts[host].up && self.hosts[host].wanted && waiting {
                    self.start(host);
                }
            }
            Future::Bury { host, notice } => self.bury(host, &notice),
            Future::Judge { host, stall, good } => {
                if self.hosts[host].stall == stall {
                    self.judge_disk(host, good);
                }
            }
            Future::Client { client } => self.client_acts(client),
            Future::Fence(order) => self.device_acts(&order),
            Future::Request { host, request, route, call } => {
                self.request_arrives(host, request, route, call)
            }
            Future::Answer { request, answer } => self.answer_arrives(request, *answer),
            Future::GiveUp { request } => self.client_gives_up(request),
        }
    }

    /// Lets something happen to a part of this host's present agent after `after`.
    pub(super) fn schedule(&mut self, host: usize, after: Ns, part: Part, what: Happening) {
        if let Some(life) = self.hosts[host].life.as_ref().map(|life| life.number) {
            self.schedule_for(host, life, after, part, what);
        }
    }

    /// Likewise for one particular life of it.
    pub(super) fn schedule_for(&mut self, host: usize, life: u64, after: Ns, part: Part, what: Happening) {
        self.future.push(self.now + after, Future::Part { host, life, part, what });
    }

    /// Something reaches a part of an agent, unless that one is dead, frozen or held up.
    fn reach(&mut self, h: usize, number: u64, part: Part, what: Happening) {
        let host = &mut self.hosts[h];
        if host.life.as_ref().is_none_or(|life| life.number != number) {
            return;
        }
        if host.frozen {
            return host.deferred.push_back((part, what));
        }
        let stalled = host.stalled[part as usize];
        if stalled > self.now {
            return self.future.push(stalled, Future::Part { host: h, life: number, part, what });
        }
        match what {
            Happening::Packet { from, path, bytes } => self.take_packet(h, from, path, &bytes),
            Happening::CoreTurn => self.core_turn(h),
            Happening::CoreTick => self.core_tick(h),
            Happening::StateWritten { token, state } => self.state_written(h, token, *state),
            Happening::StateRetry => self.write_state(h),
            Happening::LogTurn => self.log_turn(h),
            Happening::LogSynced => self.log_synced(h),
            Happening::AddressOrder(order) => self.take_address_order(h, order),
            Happening::AddressAct { serial } => self.act_on_address(h, serial),
            Happening::ProbeAgain { round, left, pause } => self.probe(h, round, left, pause),
            Happening::ProbeOver { round, conflict, asked } => {
                self.tell_core(h, Event::ProbeFinished { round, conflict, asked });
            }
            Happening::ServiceOrder(order) => self.order_service(h, order),
            Happening::Drained { serial } => self.drained(h, serial),
            Happening::Stopped { serial } => self.service_stopped(h, serial),
            Happening::Attended { event } => self.attended(h, *event),
            Happening::Request { request, route, call } => self.take_request(h, request, route, *call),
            Happening::Body { request, payload } => {
                self.submit(h, request, RecordKind::Data, payload, Wait::Appended);
            }
            Happening::LookForGarbage => self.look_for_garbage(h),
            Happening::AskHowFar => self.ask_how_far(h),
            Happening::GoOnThinning => self.go_on_thinning(h, Told::Nothing),
            Happening::Logged { request, logged } if request == HOUSEKEEPING => self.housekept(h, logged),
            Happening::Logged { request, logged } => self.take_logged(h, request, logged),
            Happening::Leave { request, answer } => self.let_leave(h, request, *answer),
            Happening::Connect { serial } => self.connect(h, serial),
            Happening::Shaken { serial, conn } => self.shaken(h, serial, conn),
            Happening::Stretch { conn, bytes } => self.take_stretch(h, conn, &bytes),
            Happening::Ended { conn } => self.take_end(h, conn),
        }
    }

    /// Tells the checkers.
    pub(super) fn see(&mut self, seen: Seen<'_>) {
        if let Some(mut checkers) = self.checkers.take() {
            checkers.see(self, &seen);
            self.checkers = Some(checkers);
        }
    }

    /// The deciding clock of a host.
    pub fn clock(&self, h: usize) -> Time {
        self.hosts[h].clock.at(self.now)
    }

    /// The timers of a host, as its present configuration gives them.
    pub fn derived(&self, h: usize) -> &Derived {
        &self.hosts[h].derived
    }

    /// How long the next sync of a host's disk takes.
    fn sync_time(&mut self, h: usize) -> Ns {
        let (least, more) = (self.hosts[h].sync_delay, self.hosts[h].sync_jitter);
        let spent = least + super::chance::Chance::up_to(&mut self.dice, more);
        spent.max(self.hosts[h].disk_stalled_until.saturating_sub(self.now))
    }

    /// Which host stands behind a configured peer of host `h`.
    pub fn host_of_peer(&self, h: usize, peer: usize) -> usize {
        self.routes[h][peer]
    }

    /// Under which number host `h` has host `other` in its configuration.
    pub fn peer_of_host(&self, h: usize, other: usize) -> usize {
        self.routes[h].iter().position(|host| *host == other).unwrap_or(usize::MAX)
    }

    /// A line for the story of a host.
    pub(super) fn tell_story(&mut self, h: usize, line: String) {
        self.story.tell(self.now, h, line);
    }

    fn note_event(&mut self, h: usize, event: &Event) {
        self.story.note_event(self.now, h, event);
    }

    fn take_answer(&mut self, h: usize, id: u64, answer: CommandAnswer) {
        let words = match &answer {
            Ok(words) => format!("command answered: {words}"),
            Err(declined) => format!("command declined ({}): {}", declined.code, declined.message),
        };
        self.tell_story(h, words);
        self.answers.push((h, id, answer));
    }

    fn record(&mut self, from: usize, path: usize, bytes: &Rc<[u8]>) {
        if self.recorded.len() == RECORDED {
            let at = self.dice.below(RECORDED as u64) as usize;
            self.recorded.swap_remove(at);
        }
        self.recorded.push((from, path, bytes.clone()));
    }

    /// Somebody who means harm sends an old packet again, or one of his own, from any address.
    pub fn attack(&mut self) {
        let n = self.hosts.len() as u64;
        if !self.notices.is_empty() && self.dice.below(8) == 0 {
            let at = self.dice.below(self.notices.len() as u64) as usize;
            return self.replay_notice(at);
        }
        let to = self.dice.below(n) as usize;
        let mut from = self.dice.below(n) as usize;
        let mut path = self.dice.below(self.shape.paths as u64) as usize;
        let bytes: Rc<[u8]> = if self.recorded.is_empty() || self.dice.below(4) == 0 {
            let len = self.dice.below(400) as usize;
            (0..len).map(|_| self.dice.roll() as u8).collect::<Vec<_>>().into()
        } else {
            let at = self.dice.below(self.recorded.len() as u64) as usize;
            let (sender, by, bytes) = self.recorded[at].clone();
            if self.dice.below(4) > 0 {
                (from, path) = (sender, by);
            }
            bytes
        };
        if from != to {
            self.future.push(self.now + MS, Future::Packet { from, to, path, bytes });
        }
    }

    /// Sends the latest notice of a death of `h` again; says whether there is one.
    pub fn replay_notice_of(&mut self, h: usize) -> bool {
        let latest = self.notices.iter().rposition(|(of, _)| *of == h);
        latest.is_some_and(|at| {
            self.replay_notice(at);
            true
        })
    }

    fn replay_notice(&mut self, at: usize) {
        let (from, bytes) = self.notices[at].clone();
        for to in (0..self.hosts.len()).filter(|to| *to != from) {
            self.future.push(self.now + MS, Future::Packet { from, to, path: 0, bytes: bytes.clone() });
        }
    }
}

/// The keys of a configuration.
pub fn keyring(config: &holdfast_config::Config) -> Keyring {
    holdfast_agent::runtime::secrets::Current::of(&config.keys).keyring
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The queue moves its entries about: what is large goes behind a pointer.
    #[test]
    fn what_lies_in_the_future_is_small() {
        assert!(size_of::<Future>() <= 96, "{}", size_of::<Future>());
    }
}
