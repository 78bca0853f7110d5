//! A cluster in a box: nodes, a network that can be cut, disks that take their time.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use holdfast_heartbeat::packet::NEWEST;
use holdfast_heartbeat::{
    BootNonce, Dropped, Epoch, Heartbeat, InSyncRecord, Incarnation, Keyring, Lsn, Member, MemberKind,
    Message, NodeId, Notice, Role, Time,
};

use crate::node::effect::Effect;
use crate::node::event::{Answer, Command, Event, Readiness};
use crate::node::hard_state::HardState;
use crate::node::settings::{Attendance, Failback, Fencing, PeerSettings, Settings, Timers, TwoNode};
use crate::node::transition::Transition;
use crate::node::{LogPosition, Node};

pub(super) const MS: Duration = Duration::from_millis(1);

/// What travels or ripens.
enum Arrival {
    Packet {
        to: usize,
        from: usize,
        path: usize,
        bytes: Vec<u8>,
    },
    Event {
        to: usize,
        boot: u64,
        event: Event,
    },
    /// Records on their way to a follower, from the place `at` on.
    Records {
        to: usize,
        from: usize,
        conn: u64,
        at: usize,
        records: Vec<Record>,
    },
    /// A fence device does its work, if the order was not called off.
    SwitchedOff {
        by: usize,
        boot: u64,
        round: u64,
        target: NodeId,
        works: bool,
    },
    /// A follower holds this many records durably.
    Acknowledged {
        to: usize,
        from: usize,
        conn: u64,
        count: usize,
    },
}

/// One record of the stand-in for the log: who wrote it, and a number that nothing else has (zero: the
/// start of an epoch). A record takes [`RECORD_BYTES`] of LSN.
pub(super) type Record = (Epoch, u64);
const RECORD_BYTES: u64 = 100;

/// The log of a primary: what `holdfast-replication` does, without bytes.
#[derive(Clone, Debug)]
struct Leading {
    epoch: Epoch,
    waited: Vec<Member>,
    held: BTreeMap<Member, usize>,
    /// Records up to the epoch's own first one.
    start: usize,
    committed: usize,
    started: bool,
    reaching: Option<(u64, usize)>,
    answered: usize,
}

/// A stream from a primary to a follower.
#[derive(Clone, Debug)]
struct Stream {
    conn: u64,
    sent: usize,
    acked: usize,
    /// Nothing overtakes what is under way.
    arrived_by: Time,
}

/// What the network, the disks and the clocks do to everybody.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    pub seed: u64,
    /// Of a thousand packets.
    pub lost: u64,
    pub doubled: u64,
    pub delay: Duration,
    /// A packet takes up to this much longer, so that they overtake each other.
    pub jitter: Duration,
    /// A write takes up to this much longer.
    pub disk_jitter: Duration,
}

impl Weather {
    pub(super) fn draw(&mut self, n: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        if n == 0 { 0 } else { self.seed % n }
    }

    fn up_to(&mut self, span: Duration) -> Duration {
        Duration::from_nanos(self.draw(span.as_nanos() as u64))
    }
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
    leading: Option<Leading>,
    following: Option<(Epoch, Member)>,
    promised: Epoch,
    pub records: Vec<Record>,
    reported: BTreeMap<Member, (bool, usize)>,
    /// How much faster this host's clock runs than the cluster's, in millionths.
    pub clock_ppm: i64,
    disk_free_at: Time,
    /// The log says nothing any more of what it hears.
    pub log_hangs: bool,
    /// No write of the state file ends.
    disk_stalled: bool,
    /// Those that wait for the disk, by token.
    held_writes: Vec<u64>,
    /// The process dies before it carries out this many more effects.
    pub dies_after: Option<u64>,
    /// The log refuses to begin a reign for want of space.
    pub log_full: bool,
    /// The address stays on its interface, behind the gate, however often its release is tried.
    pub release_hangs: bool,
    pub transitions: Vec<Transition>,
    pub notes: Vec<String>,
    pub answers: BTreeMap<u64, Answer>,
    pub exited: bool,
    /// The interface is missing: the address cannot be claimed.
    pub no_interface: bool,
    /// How long services and pre-hooks take, and what becomes of them; never answered where it is `None`.
    pub prepares: Option<(Duration, Readiness)>,
    /// How long they take to leave; never answered where it is `None`.
    pub retires: Option<Duration>,
    /// How long its fence devices take, and whether they work; never answered where it is `None`.
    pub fences: Option<(Duration, bool)>,
    /// The devices say that they work and switch off nothing.
    pub fences_another: bool,
    /// What was done about the role, in order, for tests of the order.
    pub deeds: Vec<Deed>,
}

/// Something that a host did about the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Prepares,
    Fences,
    CallsOffFence,
    Probes,
    Claims,
    Serves,
    Retires { planned: bool },
    StopsServing,
    ShutsGate,
    Releases,
}

impl Host {
    /// Whether the log of this host, which leads, waits for the member of that name.
    pub(super) fn waits_for(&self, name: &str) -> bool {
        let waited = self.leading.as_ref().map(|leading| &leading.waited);
        waited.is_some_and(|waited| waited.iter().any(|member| member.id.as_str() == name))
    }
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
    streams: BTreeMap<(usize, usize), Stream>,
    pub weather: Weather,
    /// Records take this much longer than heartbeats.
    pub stream_delay: Duration,
    /// Packets that `held_back` names are lost: (from, to, what it says).
    pub held_back: Option<fn(usize, usize, &Heartbeat) -> bool>,
    /// Packets of one host to another are sent on as well, from the address of a third: (from, to, seemingly from).
    pub sent_on: Option<(usize, usize, usize)>,
    /// What clients were told is stored, by place in the log.
    pub told: BTreeMap<usize, Record>,
    written: u64,
    /// An operator accepted that data may be lost, or a pair was cut: then only what a new primary has
    /// counts as told.
    pub price_accepted: bool,
    called_off: Vec<(usize, u64, u64)>,
    /// Whom a fence device has switched off, in order.
    pub switched_off: Vec<usize>,
    /// Who reigned in which epoch, ever.
    reigns: BTreeMap<Epoch, Member>,
}

pub(super) struct Shape {
    pub data: usize,
    pub witness: bool,
    pub two_node: TwoNode,
    pub failback: bool,
    pub attendance: Option<Attendance>,
    /// Each data member can switch the others off; a takeover requires it.
    pub fencing: bool,
    /// One more data member, the last host, that nobody's configuration names yet.
    pub spare: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            data: 2,
            witness: true,
            two_node: TwoNode::Probe,
            failback: false,
            attendance: None,
            fencing: false,
            spare: false,
        }
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
        let members = shape.data + usize::from(shape.witness);
        let total = members + usize::from(shape.spare);
        let kind = |i: usize| match i < shape.data || i == members {
            true => MemberKind::Data,
            false => MemberKind::Witness,
        };
        let hosts = (0..total)
            .map(|i| {
                let id = if kind(i) == MemberKind::Witness {
                    "w".to_owned()
                } else if i == members {
                    "spare".to_owned()
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
                        .map(|j| PeerSettings {
                            label: format!("host{j}"),
                            kind: kind(j),
                            paths: usize::from(i < members && j < members),
                            added: false,
                        })
                        .collect(),
                    path_names: vec!["main".to_owned()],
                    timers: timers(100),
                    two_node: shape.two_node,
                    failback: Failback {
                        automatic: shape.failback,
                        allowed: true,
                        delay: Duration::from_secs(1),
                        window: Duration::from_secs(30),
                    },
                    automatic: true,
                    answers_alone: false,
                    probe_vip: true,
                    attendance: shape.attendance,
                    fencing: (shape.fencing && kind(i) == MemberKind::Data).then(|| Fencing {
                        targets: (0..shape.data)
                            .filter(|j| *j != i)
                            .map(|j| NodeId::new(char::from(b'a' + j as u8).to_string()).unwrap())
                            .collect(),
                        limit: Duration::from_secs(20),
                        required: true,
                        head_start: Duration::from_secs(3),
                    }),
                    speaks: NEWEST,
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
                    following: None,
                    promised: Epoch::ZERO,
                    records: Vec::new(),
                    reported: BTreeMap::new(),
                    clock_ppm: 0,
                    disk_free_at: Time::ZERO,
                    log_hangs: false,
                    disk_stalled: false,
                    held_writes: Vec::new(),
                    dies_after: None,
                    log_full: false,
                    release_hangs: false,
                    transitions: Vec::new(),
                    notes: Vec::new(),
                    answers: BTreeMap::new(),
                    exited: false,
                    no_interface: false,
                    prepares: Some((Duration::ZERO, Readiness::Ready)),
                    retires: Some(Duration::ZERO),
                    fences: Some((Duration::from_secs(1), true)),
                    fences_another: false,
                    deeds: Vec::new(),
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
            weather: Weather {
                seed: 0x2545_f491_4f6c_dd1d,
                lost: 0,
                doubled: 0,
                delay: MS / 5,
                jitter: Duration::ZERO,
                disk_jitter: Duration::ZERO,
            },
            stream_delay: Duration::ZERO,
            held_back: None,
            sent_on: None,
            told: BTreeMap::new(),
            written: 0,
            price_accepted: shape.data == 2 && !shape.witness,
            called_off: Vec::new(),
            switched_off: Vec::new(),
            reigns: BTreeMap::new(),
        }
    }

    pub(super) fn started(shape: Shape) -> Cluster {
        let mut cluster = Cluster::new(shape);
        let named = |host: &Host| host.settings.peers.iter().any(|peer| peer.paths > 0);
        for i in 0..cluster.hosts.len() {
            if named(&cluster.hosts[i]) {
                cluster.boot(i);
            }
        }
        cluster.run(1500 * MS);
        assert_eq!(cluster.primary(), Some(0), "a bootstraps: {:#?}", cluster.story());
        assert_eq!(cluster.in_sync(0), (0..cluster.data()).collect::<Vec<_>>(), "{:#?}", cluster.story());
        cluster
    }

    fn data(&self) -> usize {
        let of =
            |host: &&Host| host.settings.kind == MemberKind::Data && host.settings.me.id.as_str() != "spare";
        self.hosts.iter().filter(of).count()
    }

    /// The configuration of host `i` names `others`, and is read again if it runs.
    pub(super) fn configure(&mut self, i: usize, others: &[usize]) {
        for j in (0..self.hosts.len()).filter(|j| *j != i) {
            let peer = &mut self.hosts[i].settings.peers[Self::slot(i, j)];
            let paths = usize::from(others.contains(&j));
            peer.added |= paths > peer.paths;
            peer.paths = paths;
        }
        let peers = self.hosts[i].settings.peers.clone();
        if self.hosts[i].node.is_some() {
            self.feed(i, Event::PeersConfigured(peers));
        }
    }

    /// Who votes, as it stands on the disk of host `i`.
    pub(super) fn voters(&self, i: usize) -> Option<Vec<&str>> {
        let voters = self.hosts[i].disk.record.as_ref()?.voters.as_ref()?;
        Some(voters.iter().map(NodeId::as_str).collect())
    }

    pub(super) fn boot(&mut self, i: usize) {
        self.serial += 1;
        let boot = self.serial;
        let host = &mut self.hosts[i];
        assert!(host.node.is_none());
        host.boot = boot;
        host.exited = false;
        host.settings.boot = BootNonce(0xb007_0000 + boot);
        host.dies_after = None;
        // What a configuration names at the start is as good as what it always named; here those whom it does not
        // name have their places too.
        for peer in &mut host.settings.peers {
            peer.added = peer.paths == 0;
        }
        host.promised = Epoch::ZERO;
        host.log = Self::position(&host.records);
        let now = Self::clock(self.now, host.clock_ppm);
        host.node = Some(Node::new(host.settings.clone(), host.disk.clone(), host.log, now));
    }

    fn position(records: &[Record]) -> LogPosition {
        let end = Lsn(records.len() as u64 * RECORD_BYTES);
        LogPosition { end, durable: end, last_epoch: records.last().map_or(Epoch::ZERO, |record| record.0) }
    }

    /// What a clock that is off by `ppm` shows at `now`.
    fn clock(now: Time, ppm: i64) -> Time {
        let off = i128::from(now.0) * i128::from(ppm) / 1_000_000;
        Time((i128::from(now.0) + off).max(0) as u64)
    }

    /// When such a clock shows `at`, rounded up.
    fn when(at: Time, ppm: i64) -> Time {
        if at == Time::NEVER {
            return at;
        }
        let mut when = Time((i128::from(at.0) * 1_000_000 / i128::from(1_000_000 + ppm)) as u64);
        while Self::clock(when, ppm) < at {
            when.0 += 1;
        }
        when
    }

    /// The host's disk is lost with all that was on it; it comes back as another one.
    pub(super) fn wipe(&mut self, i: usize) {
        self.power_off(i);
        self.serial += 1;
        let host = &mut self.hosts[i];
        host.disk = HardState::default();
        host.records.clear();
        host.settings.me.incarnation = Incarnation(1000 + self.serial);
    }

    /// A client writes to host `i`, if that one answers.
    pub(super) fn write(&mut self, i: usize) -> bool {
        if !self.serves(i) || self.hosts[i].leading.is_none() {
            return false;
        }
        self.written += 1;
        let written = self.written;
        let host = &mut self.hosts[i];
        let epoch = host.leading.as_ref().expect("looked at above").epoch;
        host.records.push((epoch, written));
        self.log_grew(i);
        self.replicate();
        true
    }

    fn log_grew(&mut self, i: usize) {
        self.hosts[i].log = Self::position(&self.hosts[i].records);
        let LogPosition { end, durable, last_epoch } = self.hosts[i].log;
        self.event(i, MS / 2, Event::LogAdvanced { end, durable, last_epoch });
    }

    /// The machine loses power: everything volatile is gone, the gate with it.
    pub(super) fn power_off(&mut self, i: usize) {
        self.kill(i);
        self.hosts[i].gate_until = Time::ZERO;
        self.hosts[i].vip = false;
    }

    /// The process dies; the kernel keeps the address until the gate shuts.
    pub(super) fn kill(&mut self, i: usize) {
        // Of the writes that were under way the first few happened.
        let boot = self.hosts[i].boot;
        let under_way: Vec<_> =
            self.disk_writes.range((i, boot, 0)..(i, boot + 1, 0)).map(|(key, _)| *key).collect();
        let happened = self.weather.draw(under_way.len() as u64 + 1) as usize;
        for (n, key) in under_way.into_iter().enumerate() {
            let state = self.disk_writes.remove(&key).expect("listed above");
            if n < happened && self.weather.disk_jitter > Duration::ZERO {
                self.hosts[i].disk = state;
            }
        }
        let host = &mut self.hosts[i];
        host.disk_free_at = Time::ZERO;
        host.disk_stalled = false;
        host.held_writes.clear();
        host.dies_after = None;
        host.reported.clear();
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
            let bytes = self.keys.seal(&Message::Notice(notice.clone()), NEWEST);
            self.post(MS / 5, Arrival::Packet { to: j, from: i, path: 0, bytes });
        }
    }

    /// The disk of the state file takes no writes any more, or takes them again.
    pub(super) fn stall_disk(&mut self, i: usize, stalled: bool) {
        self.hosts[i].disk_stalled = stalled;
        let boot = self.hosts[i].boot;
        for token in std::mem::take(&mut self.hosts[i].held_writes) {
            self.post(self.disk_delay, Arrival::Event { to: i, boot, event: Event::Persisted { token } });
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
        let now = Self::clock(self.now, self.hosts[i].clock_ppm);
        let Some(node) = &mut self.hosts[i].node else { return };
        node.handle(now, event, &mut out);
        for effect in out {
            if let Some(left) = &mut self.hosts[i].dies_after {
                if *left == 0 {
                    self.kill(i);
                    break;
                }
                *left -= 1;
            }
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
        self.hosts[i].deeds.extend(match &effect {
            Effect::Prepare { .. } => Some(Deed::Prepares),
            Effect::Fence { .. } => Some(Deed::Fences),
            Effect::CallOffFence { .. } => Some(Deed::CallsOffFence),
            Effect::ProbeVip { .. } => Some(Deed::Probes),
            Effect::ClaimVip { .. } => Some(Deed::Claims),
            Effect::Serve { .. } => Some(Deed::Serves),
            Effect::Retire { planned, .. } => Some(Deed::Retires { planned: *planned }),
            Effect::StopServing { .. } => Some(Deed::StopsServing),
            Effect::EndLease => Some(Deed::ShutsGate),
            Effect::ReleaseVip => Some(Deed::Releases),
            _ => None,
        });
        match effect {
            Effect::Send { peer, path, version, heartbeat } => {
                let to = Self::host_of(i, peer);
                let held_back = self.held_back.is_some_and(|held_back| held_back(i, to, &heartbeat));
                let bytes = self.keys.seal(&Message::Heartbeat(heartbeat), version);
                if self.record_packets {
                    self.packets.push((i, to, bytes.clone()));
                }
                if let Some((_, _, seemingly)) = self.sent_on.filter(|(from, at, _)| (*from, *at) == (i, to))
                {
                    let bytes = bytes.clone();
                    self.post(2 * MS, Arrival::Packet { to, from: seemingly, path, bytes });
                }
                let copies = match self.weather.draw(1000) {
                    n if n < self.weather.lost => 0,
                    n if n < self.weather.lost + self.weather.doubled => 2,
                    _ => 1,
                };
                for _ in 0..copies {
                    let after = self.weather.delay + {
                        let jitter = self.weather.jitter;
                        self.weather.up_to(jitter)
                    };
                    if !self.cut.contains(&(i, to)) && !held_back {
                        let bytes = bytes.clone();
                        self.post(after, Arrival::Packet { to, from: i, path, bytes });
                    }
                }
            }
            Effect::Persist { token, state } => {
                // A write that is under way when the host dies has happened or not; here it has not.
                let boot = self.hosts[i].boot;
                let jitter = self.weather.disk_jitter;
                let done =
                    self.hosts[i].disk_free_at.max(self.now) + self.disk_delay + self.weather.up_to(jitter);
                self.hosts[i].disk_free_at = if jitter.is_zero() { Time::ZERO } else { done };
                let delay = done.since(self.now);
                match self.hosts[i].disk_stalled {
                    true => self.hosts[i].held_writes.push(token),
                    false => {
                        self.post(delay, Arrival::Event { to: i, boot, event: Event::Persisted { token } })
                    }
                }
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
                self.event(i, window, Event::ProbeFinished { round, conflict, asked: true });
            }
            Effect::ClaimVip { .. } if self.hosts[i].no_interface => {}
            Effect::ClaimVip { epoch } => {
                self.hosts[i].vip = true;
                self.event(i, MS, Event::VipClaimed { epoch });
            }
            Effect::ReleaseVip if self.hosts[i].release_hangs => {}
            Effect::ReleaseVip => {
                self.hosts[i].vip = false;
                self.event(i, MS, Event::VipReleased);
            }
            Effect::Lead { epoch, members } => self.lead(i, epoch, members),
            Effect::Follow { epoch, leader, .. } => {
                let host = &mut self.hosts[i];
                if epoch < host.promised {
                    return;
                }
                host.promised = epoch;
                host.leading = None;
                host.following = Some((epoch, leader));
                self.replicate();
            }
            Effect::StandDown { .. } => {
                self.hosts[i].leading = None;
                self.hosts[i].following = None;
                self.replicate();
            }
            Effect::Promise { epoch } => {
                let host = &mut self.hosts[i];
                host.promised = host.promised.max(epoch);
                if host.leading.as_ref().is_some_and(|leading| leading.epoch < epoch) {
                    host.leading = None;
                }
                if host.following.as_ref().is_some_and(|(followed, _)| *followed < epoch) {
                    host.following = None;
                }
            }
            Effect::WaitFor { epoch, version, members } => {
                if let Some(leading) = &mut self.hosts[i].leading
                    && leading.epoch == epoch
                {
                    leading.waited = members;
                    leading.reaching = Some((version, leading.committed.max(leading.start)));
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
            Effect::Fence { round, member } => {
                let Some((after, works)) = self.hosts[i].fences else { return };
                let boot = self.hosts[i].boot;
                self.post(after, Arrival::SwitchedOff { by: i, boot, round, target: member, works });
            }
            Effect::CallOffFence { round } => self.called_off.push((i, self.hosts[i].boot, round)),
            Effect::Prepare { epoch, round } => {
                if let Some((after, outcome)) = self.hosts[i].prepares.clone() {
                    self.event(i, after, Event::Prepared { epoch, round, outcome });
                }
            }
            Effect::Retire { round, .. } => {
                if let Some(after) = self.hosts[i].retires {
                    self.event(i, after, Event::Retired { round });
                }
            }
        }
    }

    /// The log of host `i` begins a reign.
    fn lead(&mut self, i: usize, epoch: Epoch, members: Vec<Member>) {
        let host = &mut self.hosts[i];
        host.following = None;
        host.leading = None;
        if host.log_full {
            return self.event(i, MS, Event::LogFailed { full: true, error: "no space left".into() });
        }
        if epoch < host.promised || epoch <= host.log.last_epoch {
            return;
        }
        host.promised = epoch;
        // Rule R2: whatever a client was told is stored is here, at its place.
        let missing: Vec<_> = self
            .told
            .iter()
            .filter(|(at, record)| host.records.get(**at) != Some(record))
            .map(|(at, _)| *at)
            .collect();
        if self.price_accepted {
            self.told.retain(|at, _| !missing.contains(at));
        } else if !missing.is_empty() {
            panic!(
                "R2: host {i} leads epoch {epoch} without records {missing:?} at {:?}: {:#?}",
                self.now,
                self.story()
            );
        }
        let host = &mut self.hosts[i];
        host.records.push((epoch, 0));
        let start = host.records.len();
        host.leading = Some(Leading {
            epoch,
            waited: members,
            held: BTreeMap::new(),
            start,
            committed: 0,
            started: false,
            reaching: None,
            answered: start,
        });
        host.reported.clear();
        self.log_grew(i);
        self.replicate();
    }

    /// Streams go up and down, records go out, what is committed is answered.
    fn replicate(&mut self) {
        for leader in 0..self.hosts.len() {
            if self.hosts[leader].paused || self.hosts[leader].node.is_none() {
                self.streams.retain(|(from, _), _| *from != leader);
                continue;
            }
            for f in (0..self.hosts.len()).filter(|f| *f != leader) {
                self.stream(leader, f);
            }
            self.commit(leader);
        }
    }

    fn stream(&mut self, leader: usize, f: usize) {
        let me = self.hosts[leader].settings.me.clone();
        let member = self.hosts[f].settings.me.clone();
        let key = (leader, f);
        let cut = [(leader, f), (f, leader)]
            .iter()
            .any(|pair| self.cut.contains(pair) || self.stream_cut.contains(pair));
        let epoch = self.hosts[leader].leading.as_ref().map(|leading| leading.epoch);
        let up = epoch.is_some_and(|epoch| self.hosts[f].following == Some((epoch, me)))
            && self.hosts[f].node.is_some()
            && !self.hosts[f].paused
            && !cut;
        if !up {
            self.streams.remove(&key);
        } else if !self.streams.contains_key(&key) {
            // The follower cuts what differs and goes on from there.
            let mine = &self.hosts[leader].records;
            let theirs = &self.hosts[f].records;
            let common = mine.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            let cut_off = common < theirs.len();
            self.hosts[f].records.truncate(common);
            if cut_off {
                self.log_grew(f);
            }
            self.serial += 1;
            let stream = Stream { conn: self.serial, sent: common, acked: 0, arrived_by: self.now };
            self.streams.insert(key, stream);
            let conn = self.serial;
            self.post(2 * MS, Arrival::Acknowledged { to: leader, from: f, conn, count: common });
        }
        if let Some(stream) = self.streams.get_mut(&key)
            && stream.sent < self.hosts[leader].records.len()
        {
            let records = self.hosts[leader].records[stream.sent..].to_vec();
            let (at, conn) = (stream.sent, stream.conn);
            stream.sent += records.len();
            stream.arrived_by = stream.arrived_by.max(self.now + MS + self.weather.delay + self.stream_delay);
            let after = stream.arrived_by.since(self.now);
            self.post(after, Arrival::Records { to: f, from: leader, conn, at, records });
        }
        let acked = self.streams.get(&key).map(|stream| stream.acked);
        let Some(leading) = &mut self.hosts[leader].leading else { return };
        if let Some(acked) = acked.filter(|acked| *acked > 0) {
            let held = leading.held.entry(member.clone()).or_default();
            *held = (*held).max(acked);
        }
        let held = leading.held.get(&member).copied().unwrap_or_default();
        let now = (acked.is_some_and(|acked| acked > 0), held);
        let before = self.hosts[leader].reported.get(&member).copied();
        if before != Some(now) && (before.is_some() || now.0) && !self.hosts[leader].log_hangs {
            self.hosts[leader].reported.insert(member.clone(), now);
            let durable = Lsn(held as u64 * RECORD_BYTES);
            self.event(leader, MS / 2, Event::FollowerProgressed { member, streaming: now.0, durable });
        }
    }

    fn commit(&mut self, i: usize) {
        let me = self.hosts[i].settings.me.clone();
        let answers = self.answers_vip(i) && self.hosts[i].serving.is_some();
        let end = self.hosts[i].records.len();
        let Some(leading) = &mut self.hosts[i].leading else { return };
        leading.held.insert(me, end);
        let held = |member: &Member| leading.held.get(member).copied().unwrap_or_default();
        let least = leading.waited.iter().map(held).min().unwrap_or_default();
        let reached =
            leading.reaching.filter(|(_, target)| leading.waited.iter().all(|m| held(m) >= *target));
        if least >= leading.start {
            leading.committed = leading.committed.max(least);
        }
        let epoch = leading.epoch;
        let mut events = Vec::new();
        if !leading.started && leading.committed >= leading.start {
            leading.started = true;
            events.push(Event::EpochStarted { epoch });
        }
        if let Some((version, _)) = reached {
            leading.reaching = None;
            events.push(Event::WaitReached { epoch, version });
        }
        let answered = leading.answered..leading.committed.max(leading.answered);
        leading.answered = answered.end;
        for at in answered.filter(|_| answers) {
            let record = self.hosts[i].records[at];
            self.told.insert(at, record);
            // Whoever leads a later epoch already must have it too.
            for (j, host) in self.hosts.iter().enumerate() {
                let later = host.leading.as_ref().is_some_and(|leading| leading.epoch > epoch);
                assert!(
                    self.price_accepted || !later || host.records.get(at) == Some(&record),
                    "R2: host {i} answers for {record:?} at {at}, host {j} leads a later epoch without it: {:#?}",
                    self.story()
                );
            }
        }
        for event in events {
            self.event(i, MS / 2, event);
        }
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = self.arrivals.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
            let wake = (0..self.hosts.len())
                .filter(|i| !self.hosts[*i].paused)
                .filter_map(|i| {
                    let host = &self.hosts[i];
                    host.node.as_ref().map(|node| (Self::when(node.deadline(), host.clock_ppm), i))
                })
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
                let newest = self.hosts[to].settings.speaks;
                let opened = match self.keys.open_up_to(&bytes, newest) {
                    Err(Dropped::OtherVersion) if newest < NEWEST => return,
                    opened => opened.expect("our own packets are authentic"),
                };
                match opened {
                    Message::Heartbeat(heartbeat) => self.deliver(to, from, path, heartbeat),
                    Message::Notice(notice) => self.feed(to, Event::NoticeReceived(notice)),
                    other => panic!("no core sends {other:?}"),
                }
            }
            Arrival::Records { to, from, conn, at, records } => {
                let host = &mut self.hosts[to];
                if host.node.is_none()
                    || host.paused
                    || self.streams.get(&(from, to)).is_none_or(|s| s.conn != conn)
                {
                    return;
                }
                assert_eq!(host.records.len(), at, "a stream has no holes");
                host.records.extend(records);
                let count = host.records.len();
                self.log_grew(to);
                let jitter = self.weather.disk_jitter / 4;
                let after = MS + self.weather.up_to(jitter);
                self.post(after, Arrival::Acknowledged { to: from, from: to, conn, count });
            }
            Arrival::Acknowledged { to, from, conn, count } => {
                if self.hosts[to].node.is_none() || self.hosts[to].paused {
                    self.streams.remove(&(to, from));
                } else if let Some(stream) = self.streams.get_mut(&(to, from)).filter(|s| s.conn == conn) {
                    stream.acked = stream.acked.max(count);
                }
            }
            Arrival::SwitchedOff { by, boot, round, target, works } => {
                if self.called_off.contains(&(by, boot, round)) || self.hosts[by].boot != boot {
                    return;
                }
                let off = self.hosts.iter().position(|host| host.settings.me.id == target).unwrap();
                if works && !self.hosts[by].fences_another {
                    self.switched_off.push(off);
                    self.power_off(off);
                }
                let detail = if works { "the device says off" } else { "the device does not answer" };
                let event = Event::FenceFinished { round, confirmed: works, detail: detail.to_owned() };
                self.event(by, MS, event);
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
        self.hosts[i].vip && Self::clock(self.now, self.hosts[i].clock_ppm) < self.hosts[i].gate_until
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
            pair || self.price_accepted || answering.len() <= 1,
            "two hosts answer on the address: {answering:?} at {:?}: {:#?}",
            self.now,
            self.story()
        );
        for host in &self.hosts {
            if let Some(node) = &host.node {
                let me = &host.settings.me;
                let epoch = node.reigning_epoch();
                if epoch > Epoch::ZERO {
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
