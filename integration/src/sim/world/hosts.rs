//! What happens to machines and processes: start, kill, power, freeze, and what a disk can suffer.

use std::sync::Arc;

use holdfast_agent::node::event::{Command, Event, FailedCheck};
use holdfast_agent::node::settings::Settings;
use holdfast_agent::node::{LogPosition, Node};
use holdfast_agent::runtime::assemble;
use holdfast_agent::runtime::lease::Lease;
use holdfast_config::Config;
use holdfast_heartbeat::packet::{NEWEST, OLDEST};
use holdfast_heartbeat::{
    BootNonce, Epoch, Incarnation, Member, MemberKind, Message, NodeId, Notice, planted,
};
use holdfast_replication::LogError;
use holdfast_replication::log::OpenOptions;
use holdfast_replication::replica::{Replica, ReplicaOptions};
use holdfast_replication::segment::{SEGMENT_HEADER_LEN, base_of};
use holdfast_store::index::Index;
use holdfast_store::machine::Machine;

use super::clock::Clock;
use super::happening::{Happening, Part};
use super::kernel::Kernel;
use super::life::{AddressThread, Connector, Life, LogThread, Service, StateWriter};
use super::network::{MS, S, US};
use super::{Future, Ns, Seen, World, keyring};
use crate::sim::chance::Chance;

/// The identity of every simulated log: an agent draws one at random.
const LOG_ID: u64 = 0x5eed;

/// A stalled disk is good again after several writes in time: as in `runtime::disk`.
const JUDGED_GOOD: Ns = 3 * S;

/// What the core is told of checks that count this much together.
fn judged(penalty: u32) -> Event {
    let failed = (penalty > 0)
        .then(|| FailedCheck { name: format!("counts-{penalty}"), detail: "exit status: 1".into() });
    Event::ChecksJudged { penalty, failed: failed.into_iter().collect() }
}

/// How an agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// SIGKILL of the agent alone: its supervisor clears up and tells the others.
    Agent,
    /// SIGKILL of everything, or a crash of the supervisor: the kernel alone is left.
    Everything,
    /// The power goes.
    Power,
}

impl World {
    /// Starts the agent of a host, as `runtime::start` does.
    pub fn start(&mut self, h: usize) {
        assert!(self.hosts[h].up && self.hosts[h].life.is_none(), "one agent at a time, on a running host");
        self.hosts[h].wanted = true;
        self.life_serial += 1;
        let number = self.life_serial;
        let mut member = self.identity(h);
        // Whatever an earlier life left of the address is taken off before anything else is done.
        self.sweep_address(h);
        let log = match self.hosts[h].kind {
            MemberKind::Witness => None,
            MemberKind::Data => match self.open_log(h, &mut member) {
                Some(log) => Some(log),
                None => return self.start_later(h, 5 * S),
            },
        };
        let boot = BootNonce(0xb007_0000_0000 + number);
        let now = self.clock(h);
        let host = &mut self.hosts[h];
        host.lives += 1;
        let lease = Lease::new(host.kernel.gate.clone());
        lease.open_ports_for_standby();
        let derived = self.shape.derived(h, &host.config);
        host.derived = derived.clone();
        host.kernel.gate.set_excess(derived.gate_extra);
        if host.lives > 1 {
            // The older release was replaced while the agent was down.
            host.speaks = NEWEST;
        }
        let settings = assemble::settings(&host.config, member.clone(), boot, &derived);
        let settings = Settings { speaks: host.speaks, ..settings };
        let position = log.as_ref().map_or_else(LogPosition::default, |log| LogPosition {
            end: log.engine.log().end(),
            durable: log.engine.log().durable(),
            last_epoch: log.engine.log().last_epoch(),
        });
        let node = Node::new(settings, host.hard.clone(), position, now);
        host.life = Some(Life {
            number,
            boot,
            ordered: [0; Part::COUNT],
            member,
            started: now,
            node,
            inbox: Default::default(),
            core_called: false,
            tick_at: u64::MAX,
            effects: Vec::new(),
            lease,
            state: StateWriter::default(),
            log,
            addresses: AddressThread::default(),
            service: Service::default(),
            space: Default::default(),
            attendants: Default::default(),
            fence_called_off: 0,
            connector: Connector::default(),
        });
        host.stalled = Default::default();
        host.frozen = false;
        host.deferred.clear();
        self.tell_story(h, format!("the agent starts, life {number}"));
        self.see(Seen::Born { host: h });
        let good = !self.hosts[h].link_down;
        if self.hosts[h].kind == MemberKind::Data {
            self.tell_core(h, Event::LinksJudged { good, detail: "eth1 has no carrier".into() });
        }
        if let Some(detail) = self.hosts[h].disk_bad.clone() {
            self.tell_core(h, Event::DiskJudged { good: false, detail });
        }
        let penalty = self.hosts[h].penalty();
        if penalty > 0 {
            // Until it is told, a new life counts as healthy.
            self.hosts[h].penalties.extend([(self.now, 0), (self.now, penalty)]);
            self.tell_core(h, judged(penalty));
        }
        self.tell_core(h, Event::Ticked);
        if self.hosts[h].kind == MemberKind::Data {
            self.schedule(h, 10 * US, Part::Log, Happening::LogTurn);
            self.look_for_garbage(h);
            self.ask_how_far(h);
        }
    }

    /// As `runtime::identity` decides it: only where both places agree is this the member that it was.
    fn identity(&mut self, h: usize) -> Member {
        let drawn = Incarnation(self.dice.roll() | 1);
        let host = &mut self.hosts[h];
        let data = host.kind == MemberKind::Data;
        let incarnation = match (host.state_incarnation, host.log_incarnation) {
            (Some(found), _) if !data || planted::is("emptied-log-keeps-its-name") => found,
            (Some(found), Some(beside)) if found == beside => found,
            _ => drawn,
        };
        host.state_incarnation = Some(incarnation);
        host.log_incarnation = data.then_some(incarnation);
        Member { id: NodeId::new(host.name.clone()).expect("a simulated name is valid"), incarnation }
    }

    /// Opens log and index, as `runtime::open_data` does. `None`: not now.
    fn open_log(&mut self, h: usize, member: &mut Member) -> Option<LogThread> {
        let renewed = Incarnation(self.dice.roll() | 1);
        let wall_ms = self.hosts[h].clock.wall_ms(self.now);
        let host = &mut self.hosts[h];
        let options = |cut_damage| ReplicaOptions {
            log: OpenOptions {
                segment_size: self.shape.segment_size,
                cut_damage,
                verify_all: false,
                wall_ms,
            },
            new_log_id: LOG_ID,
            ..ReplicaOptions::default()
        };
        let index = host.index.take().unwrap_or_else(Index::in_memory);
        let machine = |index: &Index| Machine::new(index.clone()).expect("an index in memory opens");
        let opened = match Replica::open(host.disk.clone(), member.clone(), machine(&index), options(false)) {
            Err(LogError::Damaged { lsn, detail }) => {
                let renewed =
                    if planted::is("damaged-log-keeps-its-name") { member.incarnation } else { renewed };
                member.incarnation = renewed;
                host.state_incarnation = Some(renewed);
                host.log_incarnation = Some(renewed);
                self.story.tell(
                    self.now,
                    h,
                    format!("the log is damaged at LSN {lsn} ({detail}); starting as a new member"),
                );
                Replica::open(host.disk.clone(), member.clone(), machine(&index), options(true))
            }
            other => other,
        };
        match opened {
            Ok((engine, _)) => {
                let reader = Arc::new(engine.reader());
                Some(LogThread {
                    engine,
                    index,
                    reader,
                    inbox: Default::default(),
                    called: true,
                    syncing: false,
                    conns: Default::default(),
                    said: None,
                    full: false,
                })
            }
            Err(error) => {
                host.index = Some(index);
                host.disk = host.disk.kill();
                self.story.tell(self.now, h, format!("the agent cannot start: {error}"));
                None
            }
        }
    }

    fn start_later(&mut self, h: usize, after: Ns) {
        let life = self.hosts[h].lives;
        self.future.push(self.now + after, Future::Start { host: h, life });
    }

    /// The agent ends at this moment, whatever it was doing.
    pub fn kill(&mut self, h: usize, death: Death) {
        let half = self.dice.one_in(2);
        let crash_seed = self.dice.roll();
        let host = &mut self.hosts[h];
        host.dies_after = None;
        if let Some(life) = host.life.take() {
            // A write of the state file that was under way happened, or did not.
            if let Some(state) = life.state.writing
                && half
            {
                host.hard = state;
            }
            if let Some(log) = life.log {
                host.index = Some(log.index);
            }
            host.frozen = false;
            host.deferred.clear();
            host.stalled = Default::default();
            let (number, boot, member, node) = (life.number, life.boot, life.member, life.node);
            self.story.tell(self.now, h, format!("the agent dies ({death:?})"));
            self.close_all(h, number, death == Death::Power);
            if death == Death::Agent {
                let notice = Box::new(Notice { member, boot, epoch: node.reigning_epoch() });
                let after = self.dice.between(300 * US, 5 * MS);
                self.future.push(self.now + after, Future::Bury { host: h, notice });
            }
        }
        let host = &mut self.hosts[h];
        if death == Death::Power {
            host.up = false;
            host.disk = host.disk.crash(crash_seed);
            host.index = host.index_on_disk.take().and_then(|index| index.fork());
        } else {
            host.disk = host.disk.kill();
        }
        self.see(Seen::Dead { host: h });
    }

    /// The death that was planned for the next step comes.
    pub(super) fn die_now(&mut self, h: usize) {
        let death = *self.dice.pick(&[Death::Agent, Death::Everything, Death::Power]);
        self.kill(h, death);
        let after = self.dice.between(100 * MS, 5 * S);
        self.power_on_later(h, after);
    }

    /// The supervisor clears the address and tells everybody.
    pub(super) fn bury(&mut self, h: usize, notice: &Notice) {
        if !self.hosts[h].up {
            return;
        }
        if !planted::is("notice-before-sweep") {
            self.sweep_address(h);
        }
        let bytes: std::rc::Rc<[u8]> =
            self.hosts[h].keys.seal(&Message::Notice(notice.clone()), OLDEST).into();
        if self.recording > 0 && self.notices.len() < super::RECORDED {
            self.notices.push((h, bytes.clone()));
        }
        for to in (0..self.hosts.len()).filter(|to| *to != h) {
            for path in 0..self.shape.paths {
                self.send_packet(h, to, path, bytes.clone());
            }
        }
    }

    /// Switches a host on, or starts its agent, after a while.
    pub fn power_on_later(&mut self, h: usize, after: Ns) {
        if !self.hosts[h].up {
            self.power_on(h);
        }
        self.hosts[h].wanted = true;
        self.start_later(h, after);
    }

    /// Switches a host on; its agent is not started yet.
    pub fn power_on(&mut self, h: usize) {
        let (now, gate) = (self.now, self.shape.gates[h]);
        let host = &mut self.hosts[h];
        let ppm = host.clock.ppm();
        host.clock = Clock::new(now, ppm);
        host.kernel = Kernel::new(gate);
        host.up = true;
    }

    /// The process ended by itself, in good order.
    pub(super) fn exit(&mut self, h: usize) {
        let Some(life) = self.hosts[h].life.take() else { return };
        self.tell_story(h, "the agent ends in good order".into());
        if let Some(state) = life.state.writing {
            self.hosts[h].hard = state;
        }
        self.close_all(h, life.number, false);
        self.sweep_address(h);
        let host = &mut self.hosts[h];
        host.index = life.log.map(|log| log.index);
        host.disk = host.disk.kill();
        host.wanted = false;
        host.deferred.clear();
        self.see(Seen::Dead { host: h });
    }

    /// Stops the agent where it is (SIGSTOP), or the whole machine (suspend): the clock goes on.
    pub fn freeze(&mut self, h: usize) {
        if self.hosts[h].life.is_some() {
            self.hosts[h].frozen = true;
            self.tell_story(h, "the agent is stopped".into());
        }
    }

    /// Lets it go on: each of its threads at its own moment.
    pub fn thaw(&mut self, h: usize) {
        if !std::mem::take(&mut self.hosts[h].frozen) {
            return;
        }
        self.tell_story(h, "the agent goes on".into());
        for part in 0..Part::COUNT {
            let span = self.dice.up_to(2 * MS);
            self.hold(h, part, span);
        }
        let Some(life) = self.hosts[h].life.as_ref().map(|life| life.number) else { return };
        for (part, what) in std::mem::take(&mut self.hosts[h].deferred) {
            self.future.push(self.now, Future::Part { host: h, life, part, what });
        }
    }

    /// One thread of an agent gets no processor time for a while.
    pub fn stall(&mut self, h: usize, part: Part, span: Ns) {
        self.hold(h, part as usize, span);
    }

    fn hold(&mut self, h: usize, part: usize, span: Ns) {
        let until = &mut self.hosts[h].stalled[part];
        // What waits already stays in its order: it waits no longer than it was told.
        if *until <= self.now {
            *until = self.now + span;
        }
    }

    /// Gives an operator's command.
    pub fn command(&mut self, h: usize, id: u64, command: Command) {
        if self.hosts[h].acts() {
            self.tell_story(h, format!("an operator orders {command:?}"));
            self.tell_core(h, Event::CommandGiven { id, command });
        }
    }

    /// Asks the agent to end in good order.
    pub fn terminate(&mut self, h: usize) {
        if self.hosts[h].life.is_some() {
            self.tell_story(h, "the agent is asked to end".into());
            self.tell_core(h, Event::TerminationRequested);
        }
    }

    /// The carrier of the service interface goes or comes back.
    pub fn set_link(&mut self, h: usize, down: bool) {
        if self.hosts[h].link_down == down {
            return;
        }
        self.hosts[h].link_down = down;
        self.tell_story(h, format!("the service link goes {}", if down { "down" } else { "up" }));
        if self.hosts[h].kind == MemberKind::Data {
            let detail = "eth1 has no carrier".to_owned();
            self.tell_core(h, Event::LinksJudged { good: !down, detail });
        }
    }

    /// The checks of a host are judged: what the failed ones count together.
    pub fn set_penalty(&mut self, h: usize, penalty: u32) {
        if self.hosts[h].penalty() == penalty {
            return;
        }
        self.hosts[h].penalties.push((self.now, penalty));
        self.tell_story(h, format!("its checks count {penalty}"));
        self.tell_core(h, judged(penalty));
    }

    /// The disks of a host take no write for `span`; who looks at it says so after `bound`, and that they are good
    /// again a while after the end.
    pub fn stall_disk(&mut self, h: usize, span: Ns, bound: Ns) {
        self.hosts[h].stall += 1;
        let stall = self.hosts[h].stall;
        self.hosts[h].disk_stalled_until = self.now + span;
        self.tell_story(h, format!("its disks stall for {} ms", span / MS));
        if span > bound {
            self.future.push(self.now + bound, Future::Judge { host: h, stall, good: false });
            self.future.push(self.now + span + JUDGED_GOOD, Future::Judge { host: h, stall, good: true });
        } else {
            self.judge_disk(h, true);
        }
    }

    /// The disk of a host is judged.
    pub fn judge_disk(&mut self, h: usize, good: bool) {
        if good == self.hosts[h].disk_bad.is_none() {
            return;
        }
        let detail = "the simulated disk is stalled".to_owned();
        self.hosts[h].disk_bad = (!good).then(|| detail.clone());
        self.tell_core(h, Event::DiskJudged { good, detail });
    }

    /// Writes another configuration; the next start of the agent reads it.
    pub fn configure(&mut self, h: usize, config: Config) {
        self.hosts[h].keys = Arc::new(keyring(&config));
        self.hosts[h].config = Arc::new(config);
    }

    /// The disks of a host are lost with all that was on them: votes, log, or both.
    pub fn lose_disks(&mut self, h: usize, votes: bool, log: bool) {
        assert!(self.hosts[h].life.is_none(), "a disk is changed while nobody uses it");
        self.disks_lost = true;
        let host = &mut self.hosts[h];
        if votes {
            let lost = std::mem::take(&mut host.hard).record;
            if lost.as_ref().map(|record| record.rank())
                > host.lost_record.as_ref().map(|record| record.rank())
            {
                host.lost_record = lost;
            }
            host.state_incarnation = None;
        }
        if log {
            host.disk = holdfast_replication::testing::MemDisk::new();
            host.log_incarnation = None;
            host.index = None;
            host.index_on_disk = None;
        }
        self.tell_story(h, format!("disks are lost (votes: {votes}, log: {log})"));
    }

    /// Limits a host's disk to what is on it and `room` bytes more.
    pub fn limit_disk(&mut self, h: usize, room: u64) {
        self.hosts[h].disk_harmed = true;
        let capacity = self.hosts[h].disk.used() + room;
        self.capacity[h] = Some(capacity);
        self.hosts[h].disk.set_capacity(Some(capacity));
        self.tell_story(h, format!("{room} bytes are left on the disk"));
        self.look_at_space(h);
    }

    /// The disk has room again, and no fault that would come.
    pub fn mend_disk(&mut self, h: usize) {
        let disk = &self.hosts[h].disk;
        disk.set_capacity(None);
        disk.fail_syncs(0);
        disk.fail_reads(0);
        disk.misdirect_reads(0);
        self.capacity[h] = None;
        self.look_at_space(h);
    }

    /// A bit of a log's file turns over on the disk, somewhere where the disk proves that it once was durable: no
    /// disk tells a bad byte of the last batch before a power cut from one that was never written
    /// (`replication/src/log/recovery.rs`).
    pub fn rot(&mut self, h: usize) {
        let files = self.hosts[h].disk.files();
        let mark = files.get("durable").filter(|mark| mark.len() == 40 && self.hosts[h].life.is_none());
        let mark = mark.map_or(0, |mark| u64::from_le_bytes(mark[16..24].try_into().expect("eight bytes")));
        let last = files.keys().filter_map(|name| base_of(name)).max().unwrap_or_default();
        let sound = |(name, bytes): (&String, &Vec<u8>)| {
            let base = base_of(name)?;
            let len = bytes.len() as u64;
            let upto =
                if base < last { len } else { len.min(SEGMENT_HEADER_LEN + mark.saturating_sub(base.0)) };
            (upto > SEGMENT_HEADER_LEN).then(|| (name.clone(), upto))
        };
        let logs: Vec<_> = files.iter().filter_map(sound).collect();
        if logs.is_empty() {
            return;
        }
        let (name, upto) = self.dice.pick(&logs);
        let bit = self.dice.below(upto * 8);
        self.hosts[h].disk_harmed = true;
        self.hosts[h].disk.flip_bit(name, bit);
        self.tell_story(h, format!("bit {bit} of {name} turns over"));
    }

    /// Whether the log of a host is out of service until its agent is started anew.
    pub fn log_failed(&self, h: usize) -> bool {
        let log = self.hosts[h].life.as_ref().and_then(|life| life.log.as_ref());
        log.is_some_and(|log| log.engine.failure().is_some())
    }

    /// A person, or systemd, starts the agent if it does not run, and anew if its log has failed.
    pub fn revive(&mut self, h: usize) {
        if self.hosts[h].frozen {
            return;
        }
        if self.log_failed(h) {
            self.kill(h, Death::Agent);
        }
        if self.hosts[h].life.is_none() {
            self.power_on_later(h, 10 * MS);
        }
    }

    /// Changes what a running agent reads without a restart: which keys it accepts.
    pub fn configure_now(&mut self, h: usize, config: Config) {
        self.configure(h, config);
    }

    /// The epoch in which this host's node reigns; zero if it does not.
    pub fn reign(&self, h: usize) -> Epoch {
        self.hosts[h].life.as_ref().map_or(Epoch::ZERO, |life| life.node.reigning_epoch())
    }
}
