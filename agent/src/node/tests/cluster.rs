//! A cluster in a box: nodes, a network that can be cut, disks that take their time.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use holdfast_heartbeat::{
    BootNonce, Epoch, Heartbeat, InSyncRecord, Incarnation, Keyring, Lsn, Member, MemberKind, Message,
    NodeId, Notice, Role, Time,
};

use crate::node::effect::Effect;
use crate::node::event::{Answer, Command, Event};
use crate::node::hard_state::HardState;
use crate::node::settings::{Failback, PeerSettings, Settings, Timers, TwoNode};
use crate::node::transition::Transition;
use crate::node::{LogPosition, Node};

pub(super) const MS: Duration = Duration::from_millis(1);

/// What travels or ripens.
enum Arrival {
    Packet { to: usize, from: usize, path: usize, bytes: Vec<u8> },
    Event { to: usize, boot: u64, event: Event },
}

/// One host: its node while it runs, and what outlives it.
pub(super) struct Host {
    pub settings: Settings,
    pub node: Option<Node>,
    pub disk: HardState,
    pub boot: u64,
    pub paused: bool,
    /// Postponed while paused, like a socket's queue.
    queue: Vec<Event>,
    pub log: LogPosition,
    /// What the gate allows, until when: the address answers only within it.
    pub gate_until: Time,
    pub vip: bool,
    pub serving: Option<Epoch>,
    leading: Option<(Epoch, Vec<Member>)>,
    waits: Option<(Epoch, u64, Vec<Member>)>,
    following: Option<(Epoch, Member)>,
    epoch_started: bool,
    pub transitions: Vec<Transition>,
    pub notes: Vec<String>,
    pub answers: BTreeMap<u64, Answer>,
    pub exited: bool,
    /// The interface is missing: the address cannot be claimed.
    pub no_interface: bool,
}

pub(super) struct Cluster {
    pub hosts: Vec<Host>,
    pub now: Time,
    arrivals: BinaryHeap<Reverse<(Time, u64)>>,
    payloads: BTreeMap<u64, Arrival>,
    serial: u64,
    /// Directed pairs that lose everything.
    pub cut: BTreeSet<(usize, usize)>,
    keys: Keyring,
    pub disk_delay: Duration,
    pub probe_answer: Cell<Option<usize>>,
    /// Log streams do not come up between these.
    pub stream_cut: BTreeSet<(usize, usize)>,
    pub packets: Vec<(usize, usize, Vec<u8>)>,
    pub record_packets: bool,
    disk_writes: BTreeMap<(usize, u64, u64), HardState>,
    streams: BTreeMap<(usize, usize), (Epoch, Lsn)>,
    /// Who reigned in which epoch, ever.
    reigns: BTreeMap<Epoch, Member>,
}

pub(super) struct Shape {
    pub data: usize,
    pub witness: bool,
    pub two_node: TwoNode,
    pub failback: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { data: 2, witness: true, two_node: TwoNode::Probe, failback: false }
    }
}

pub(super) fn timers(interval_ms: u64) -> Timers {
    let interval = MS * interval_ms as u32;
    let lease = interval * 3;
    Timers {
        interval,
        detect: lease,
        lease,
        drift_margin: lease / 100 + MS,
        gate_excess: Duration::ZERO,
        probe_window: interval.clamp(15 * MS, 150 * MS),
        handover_probe_window: 10 * MS,
        standby_timeout: 1000 * MS,
        drain: 50 * MS,
        handover: 1000 * MS,
    }
}

impl Cluster {
    pub(super) fn new(shape: Shape) -> Cluster {
        let total = shape.data + usize::from(shape.witness);
        let kind = |i: usize| if i < shape.data { MemberKind::Data } else { MemberKind::Witness };
        let hosts = (0..total)
            .map(|i| {
                let id = if kind(i) == MemberKind::Witness {
                    "w".to_owned()
                } else {
                    char::from(b'a' + i as u8).to_string()
                };
                let settings = Settings {
                    me: Member { id: NodeId::new(id).unwrap(), incarnation: Incarnation(100 + i as u64) },
                    kind: kind(i),
                    boot: BootNonce(0),
                    priority: 50 * (1 + i as u32),
                    prefers_primary: i == 0,
                    peers: (0..total)
                        .filter(|j| *j != i)
                        .map(|j| PeerSettings { label: format!("host{j}"), kind: kind(j), paths: 1 })
                        .collect(),
                    timers: timers(100),
                    two_node: shape.two_node,
                    failback: Failback {
                        automatic: shape.failback,
                        allowed: true,
                        delay: Duration::from_secs(1),
                        window: Duration::from_secs(30),
                    },
                    automatic: true,
                    probe_vip: true,
                };
                Host {
                    settings,
                    node: None,
                    disk: HardState::default(),
                    boot: 0,
                    paused: false,
                    queue: Vec::new(),
                    log: LogPosition::default(),
                    gate_until: Time::ZERO,
                    vip: false,
                    serving: None,
                    leading: None,
                    waits: None,
                    following: None,
                    epoch_started: false,
                    transitions: Vec::new(),
                    notes: Vec::new(),
                    answers: BTreeMap::new(),
                    exited: false,
                    no_interface: false,
                }
            })
            .collect();
        Cluster {
            hosts,
            now: Time(1_000_000_000),
            arrivals: BinaryHeap::new(),
            payloads: BTreeMap::new(),
            serial: 0,
            cut: BTreeSet::new(),
            keys: Keyring::new([b"a secret of the test cluster".as_slice()]),
            disk_delay: MS / 2,
            probe_answer: Cell::new(None),
            stream_cut: BTreeSet::new(),
            packets: Vec::new(),
            record_packets: false,
            disk_writes: BTreeMap::new(),
            streams: BTreeMap::new(),
            reigns: BTreeMap::new(),
        }
    }

    pub(super) fn started(shape: Shape) -> Cluster {
        let mut cluster = Cluster::new(shape);
        for i in 0..cluster.hosts.len() {
            cluster.boot(i);
        }
        cluster.run(1500 * MS);
        assert_eq!(cluster.primary(), Some(0), "a bootstraps: {:#?}", cluster.story());
        assert_eq!(cluster.in_sync(0), (0..cluster.data()).collect::<Vec<_>>(), "{:#?}", cluster.story());
        cluster
    }

    fn data(&self) -> usize {
        self.hosts.iter().filter(|host| host.settings.kind == MemberKind::Data).count()
    }

    pub(super) fn boot(&mut self, i: usize) {
        self.serial += 1;
        let boot = self.serial;
        let host = &mut self.hosts[i];
        assert!(host.node.is_none());
        host.boot = boot;
        host.exited = false;
        host.settings.boot = BootNonce(0xb007_0000 + boot);
        host.node = Some(Node::new(host.settings.clone(), host.disk.clone(), host.log, self.now));
    }

    /// The machine loses power: everything volatile is gone, the gate with it.
    pub(super) fn power_off(&mut self, i: usize) {
        self.kill(i);
        self.hosts[i].gate_until = Time::ZERO;
        self.hosts[i].vip = false;
    }

    /// The process dies; the kernel keeps the address until the gate shuts.
    pub(super) fn kill(&mut self, i: usize) {
        let host = &mut self.hosts[i];
        host.node = None;
        host.serving = None;
        host.leading = None;
        host.following = None;
        host.paused = false;
        host.queue.clear();
    }

    /// The supervisor clears the address and says so.
    pub(super) fn bury(&mut self, i: usize, epoch: Epoch) {
        let host = &mut self.hosts[i];
        host.vip = false;
        let notice = Notice { member: host.settings.me.clone(), boot: host.settings.boot, epoch };
        for j in (0..self.hosts.len()).filter(|j| *j != i) {
            let bytes = self.keys.seal(&Message::Notice(notice.clone()));
            self.post(MS / 5, Arrival::Packet { to: j, from: i, path: 0, bytes });
        }
    }

    pub(super) fn pause(&mut self, i: usize) {
        self.hosts[i].paused = true;
    }

    pub(super) fn resume(&mut self, i: usize) {
        self.hosts[i].paused = false;
        for event in std::mem::take(&mut self.hosts[i].queue) {
            self.feed(i, event);
        }
        self.feed(i, Event::Ticked);
    }

    pub(super) fn isolate(&mut self, i: usize) {
        for j in 0..self.hosts.len() {
            self.cut.insert((i, j));
            self.cut.insert((j, i));
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(super) fn command(&mut self, i: usize, id: u64, command: Command) {
        self.feed(i, Event::CommandGiven { id, command });
    }

    pub(super) fn feed(&mut self, i: usize, event: Event) {
        if self.hosts[i].paused {
            self.hosts[i].queue.push(event);
            return;
        }
        let mut out = Vec::new();
        let Some(node) = &mut self.hosts[i].node else { return };
        node.handle(self.now, event, &mut out);
        for effect in out {
            self.execute(i, effect);
        }
        self.check();
    }

    fn post(&mut self, after: Duration, arrival: Arrival) {
        self.serial += 1;
        self.arrivals.push(Reverse((self.now + after, self.serial)));
        self.payloads.insert(self.serial, arrival);
    }

    fn event(&mut self, i: usize, after: Duration, event: Event) {
        let boot = self.hosts[i].boot;
        self.post(after, Arrival::Event { to: i, boot, event });
    }

    /// The index among `to`'s peers under which `to` knows `from`.
    fn slot(to: usize, from: usize) -> usize {
        if from < to { from } else { from - 1 }
    }

    fn host_of(i: usize, slot: usize) -> usize {
        if slot < i { slot } else { slot + 1 }
    }

    fn execute(&mut self, i: usize, effect: Effect) {
        match effect {
            Effect::Send { peer, path, heartbeat } => {
                let to = Self::host_of(i, peer);
                let bytes = self.keys.seal(&Message::Heartbeat(heartbeat));
                if self.record_packets {
                    self.packets.push((i, to, bytes.clone()));
                }
                if !self.cut.contains(&(i, to)) {
                    self.post(MS / 5, Arrival::Packet { to, from: i, path, bytes });
                }
            }
            Effect::Persist { token, state } => {
                // A write that is under way when the host dies has happened or not; here it has not.
                let boot = self.hosts[i].boot;
                let delay = self.disk_delay;
                self.post(delay, Arrival::Event { to: i, boot, event: Event::Persisted { token } });
                self.disk_writes.insert((i, boot, token), state);
            }
            Effect::ExtendLease { until, .. } => self.hosts[i].gate_until = until,
            Effect::EndLease => self.hosts[i].gate_until = Time::ZERO,
            Effect::ProbeVip { round, window } => {
                let holder = (0..self.hosts.len()).find(|j| {
                    *j != i
                        && self.answers_vip(*j)
                        && !self.cut.contains(&(i, *j))
                        && !self.cut.contains(&(*j, i))
                });
                let conflict = holder.or(self.probe_answer.get()).map(|j| format!("host{j}"));
                self.event(i, window, Event::ProbeFinished { round, conflict });
            }
            Effect::ClaimVip { .. } if self.hosts[i].no_interface => {}
            Effect::ClaimVip { epoch } => {
                self.hosts[i].vip = true;
                self.event(i, MS, Event::VipClaimed { epoch });
            }
            Effect::ReleaseVip => {
                self.hosts[i].vip = false;
                self.event(i, MS, Event::VipReleased);
            }
            Effect::Lead { epoch, members } => {
                let host = &mut self.hosts[i];
                host.leading = Some((epoch, members));
                host.following = None;
                host.epoch_started = false;
                host.log.last_epoch = epoch;
                host.log.end += 100;
                host.log.durable = host.log.end;
                let log = host.log;
                self.event(
                    i,
                    self.disk_delay,
                    Event::LogAdvanced { end: log.end, durable: log.durable, last_epoch: epoch },
                );
                self.replicate();
            }
            Effect::Follow { epoch, leader, .. } => {
                self.hosts[i].leading = None;
                self.hosts[i].following = Some((epoch, leader));
                self.replicate();
            }
            Effect::StandDown { .. } => {
                self.hosts[i].leading = None;
                self.hosts[i].following = None;
                self.hosts[i].waits = None;
                self.replicate();
            }
            Effect::Promise { .. } => {}
            Effect::WaitFor { epoch, version, members } => {
                self.hosts[i].waits = Some((epoch, version, members.clone()));
                if let Some((leading, set)) = &mut self.hosts[i].leading
                    && *leading == epoch
                {
                    *set = members;
                }
                self.replicate();
            }
            Effect::Serve { epoch } => self.hosts[i].serving = Some(epoch),
            Effect::StopServing { .. } => {
                self.hosts[i].serving = None;
                self.event(i, MS, Event::ServiceStopped);
            }
            Effect::Report(transition) => self.hosts[i].transitions.push(transition),
            Effect::Note { message } | Effect::Warn { message } => self.hosts[i].notes.push(message),
            Effect::Answer { id, answer } => {
                self.hosts[i].answers.insert(id, answer);
            }
            Effect::Exit => self.hosts[i].exited = true,
        }
    }

    /// The stand-in for the log: a follower that can reach its leader has everything a little later.
    fn replicate(&mut self) {
        let n = self.hosts.len();
        for leader in 0..n {
            let Some((epoch, set)) = self.hosts[leader].leading.clone() else { continue };
            if self.hosts[leader].paused || self.hosts[leader].node.is_none() {
                continue;
            }
            let me = self.hosts[leader].settings.me.clone();
            let end = self.hosts[leader].log.end;
            let mut streaming = BTreeSet::from([me.clone()]);
            for f in (0..n).filter(|f| *f != leader) {
                let host = &self.hosts[f];
                let member = host.settings.me.clone();
                let cut = [(leader, f), (f, leader)]
                    .iter()
                    .any(|pair| self.cut.contains(pair) || self.stream_cut.contains(pair));
                let up = host.following.as_ref() == Some(&(epoch, me.clone()))
                    && host.node.is_some()
                    && !host.paused
                    && !cut;
                let known = self.streams.get(&(leader, f)).copied();
                if up && known != Some((epoch, end)) {
                    self.streams.insert((leader, f), (epoch, end));
                    let host = &mut self.hosts[f];
                    host.log = LogPosition { end, durable: end, last_epoch: epoch };
                    self.event(f, 2 * MS, Event::LogAdvanced { end, durable: end, last_epoch: epoch });
                    self.event(
                        leader,
                        3 * MS,
                        Event::FollowerProgressed { member: member.clone(), streaming: true, durable: end },
                    );
                } else if !up && known.is_some() {
                    self.streams.remove(&(leader, f));
                    let durable = self.hosts[f].log.durable;
                    self.event(
                        leader,
                        MS,
                        Event::FollowerProgressed { member: member.clone(), streaming: false, durable },
                    );
                }
                if up {
                    streaming.insert(member);
                }
            }
            if set.iter().all(|member| streaming.contains(member)) {
                if !self.hosts[leader].epoch_started {
                    self.hosts[leader].epoch_started = true;
                    self.event(leader, 4 * MS, Event::EpochStarted { epoch });
                }
                if let Some((epoch, version, _)) = self.hosts[leader].waits.take() {
                    self.event(leader, 4 * MS, Event::WaitReached { epoch, version });
                }
            }
        }
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = self.arrivals.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
            let wake = (0..self.hosts.len())
                .filter(|i| !self.hosts[*i].paused)
                .filter_map(|i| self.hosts[i].node.as_ref().map(|node| (node.deadline(), i)))
                .min()
                .unwrap_or((Time::NEVER, 0));
            let next = due.min(wake.0);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if due <= wake.0 {
                let Reverse((_, serial)) = self.arrivals.pop().unwrap();
                let arrival = self.payloads.remove(&serial).unwrap();
                self.arrive(arrival);
            } else {
                self.feed(wake.1, Event::Ticked);
            }
            self.replicate();
        }
        self.now = end;
        self.check();
    }

    /// Runs until `wanted` holds, and says how long it took.
    pub(super) fn run_until(&mut self, limit: Duration, wanted: impl Fn(&Cluster) -> bool) -> Duration {
        let start = self.now;
        while !wanted(self) {
            assert!(self.now.since(start) < limit, "not reached within {limit:?}: {:#?}", self.story());
            self.run(MS / 2);
        }
        self.now.since(start)
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Packet { to, from, path, bytes } => {
                if self.cut.contains(&(from, to)) {
                    return;
                }
                match self.keys.open(&bytes).expect("our own packets are authentic") {
                    Message::Heartbeat(heartbeat) => self.deliver(to, from, path, heartbeat),
                    Message::Notice(notice) => self.feed(to, Event::NoticeReceived(notice)),
                }
            }
            Arrival::Event { to, boot, event } => {
                if self.hosts[to].boot != boot || self.hosts[to].node.is_none() {
                    return;
                }
                if let Event::Persisted { token } = event {
                    let state =
                        self.disk_writes.remove(&(to, boot, token)).expect("each token is written once");
                    self.hosts[to].disk = state;
                }
                self.feed(to, event);
            }
        }
    }

    pub(super) fn deliver(&mut self, to: usize, from: usize, path: usize, heartbeat: Box<Heartbeat>) {
        let peer = Self::slot(to, from);
        self.feed(to, Event::HeartbeatReceived { peer, path, heartbeat });
    }

    /// Opens a recorded packet as `to` would.
    pub(super) fn open(&self, bytes: &[u8]) -> Message {
        self.keys.open(bytes).unwrap()
    }

    /// Whether a client that asks for the VIP would get an answer from this host.
    pub(super) fn answers_vip(&self, i: usize) -> bool {
        self.hosts[i].vip && self.now < self.hosts[i].gate_until
    }

    pub(super) fn serves(&self, i: usize) -> bool {
        self.answers_vip(i)
            && self.hosts[i].serving.is_some()
            && !self.hosts[i].paused
            && self.hosts[i].node.is_some()
    }

    /// The safety rules that can be seen from outside, at every event.
    fn check(&mut self) {
        let answering: Vec<usize> = (0..self.hosts.len()).filter(|i| self.answers_vip(*i)).collect();
        let pair = self.hosts.len() == 2;
        assert!(
            pair || answering.len() <= 1,
            "two hosts answer on the address: {answering:?} at {:?}: {:#?}",
            self.now,
            self.story()
        );
        for host in &self.hosts {
            if let (Some(epoch), Some(node)) = (host.serving, &host.node) {
                let me = &host.settings.me;
                if node.reigning_epoch() == epoch {
                    let holder = self.reigns.entry(epoch).or_insert_with(|| me.clone());
                    assert_eq!(holder, me, "R1: two primaries in epoch {epoch}");
                }
            }
        }
    }

    pub(super) fn primary(&self) -> Option<usize> {
        let all: Vec<_> =
            (0..self.hosts.len()).filter(|i| self.serves(*i) && self.role(*i) == Role::Primary).collect();
        assert!(all.len() <= 1 || self.hosts.len() == 2, "{all:?}");
        all.first().copied()
    }

    pub(super) fn role(&self, i: usize) -> Role {
        self.hosts[i].node.as_ref().map_or(Role::Witness, |node| node.view(self.now).role)
    }

    pub(super) fn epoch(&self, i: usize) -> Epoch {
        self.hosts[i].node.as_ref().map_or(Epoch::ZERO, |node| node.view(self.now).epoch)
    }

    /// The in-sync set as host `i` knows it, as indices.
    pub(super) fn in_sync(&self, i: usize) -> Vec<usize> {
        let record: Option<InSyncRecord> =
            self.hosts[i].node.as_ref().and_then(|node| node.view(self.now).record);
        let mut set: Vec<usize> = record
            .map(|record| record.members)
            .unwrap_or_default()
            .iter()
            .map(|member| self.hosts.iter().position(|host| host.settings.me == *member).unwrap())
            .collect();
        set.sort_unstable();
        set
    }

    /// What happened, for a failing test.
    pub(super) fn story(&self) -> Vec<String> {
        let mut story = vec![format!("now {} ms", self.now.0 / 1_000_000)];
        for host in &self.hosts {
            for t in &host.transitions {
                story.push(format!(
                    "{}: {:?} -> {:?} epoch {} ({:?}) {:?}",
                    host.settings.me, t.from, t.to, t.epoch, t.cause, t.peer
                ));
            }
            for note in &host.notes {
                story.push(format!("{}: {note}", host.settings.me));
            }
            if let Some(node) = &host.node {
                let view = node.view(self.now);
                story.push(format!(
                    "{}: {:?} epoch {} record {:?} waiting for {:?} warnings {:?}",
                    host.settings.me,
                    view.role,
                    view.epoch,
                    view.record
                        .map(|r| (r.rank(), r.members.iter().map(Member::to_string).collect::<Vec<_>>())),
                    view.waiting_for,
                    view.warnings
                ));
            }
        }
        story
    }
}
