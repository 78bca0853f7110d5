//! What goes wrong: one kind after another, each with its own end.

use holdfast_agent::node::event::Command;
use holdfast_heartbeat::{Epoch, MemberKind, NodeId};

use super::chance::Chance;
use super::plan::RATE_BOUND_PPM;
use super::world::attendants::Conduct;
use super::world::fencing::Devices;
use super::world::happening::Part;
use super::world::hosts::Death;
use super::world::network::{MS, S};
use super::world::shape::Shape;
use super::world::{Ns, World, secret};

/// A kind of fault, or of order, that a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it, and `World::suffer` does it")]
pub enum Kind {
    CutOneWay,
    CutBothWays,
    CutPath,
    Isolate,
    Partition,
    CutService,
    CutStream,
    SlowLink,
    Loss,
    Attack,
    KillAgent,
    KillEverything,
    PowerOff,
    PowerOffAll,
    DieAtEffect,
    DieInDisk,
    Freeze,
    StallPart,
    HangRequests,
    StallDisk,
    SlowDisk,
    FullDisk,
    FailSync,
    FailRead,
    MisdirectRead,
    RotBit,
    LoseDisk,
    StateDiskFails,
    DriftClock,
    RateOutside,
    JumpWall,
    LinkDown,
    StealAddress,
    ForeignAddress,
    NetlinkTrouble,
    Terminate,
    Failover,
    Failback,
    Promote,
    ForcePromote,
    Pause,
    Drain,
    RotateKeys,
    ChangeTimers,
    DieAfterAnswer,
    StallCutOff,
    ReplayNotice,
    ChangeVoters,
}

impl Kind {
    /// Every kind, and how often it comes when it is on.
    pub const ALL: [(Kind, usize); 44] = [
        (Kind::CutOneWay, 3),
        (Kind::CutBothWays, 3),
        (Kind::CutPath, 2),
        (Kind::Isolate, 4),
        (Kind::Partition, 2),
        (Kind::CutService, 2),
        (Kind::CutStream, 2),
        (Kind::SlowLink, 2),
        (Kind::Loss, 2),
        (Kind::Attack, 6),
        (Kind::KillAgent, 3),
        (Kind::KillEverything, 3),
        (Kind::PowerOff, 4),
        (Kind::PowerOffAll, 1),
        (Kind::DieAtEffect, 3),
        (Kind::DieInDisk, 3),
        (Kind::Freeze, 4),
        (Kind::StallPart, 4),
        (Kind::HangRequests, 3),
        (Kind::StallDisk, 2),
        (Kind::SlowDisk, 1),
        (Kind::FullDisk, 1),
        (Kind::FailSync, 1),
        (Kind::FailRead, 1),
        (Kind::MisdirectRead, 1),
        (Kind::RotBit, 1),
        (Kind::LoseDisk, 1),
        (Kind::StateDiskFails, 1),
        (Kind::DriftClock, 2),
        (Kind::RateOutside, 1),
        (Kind::JumpWall, 2),
        (Kind::LinkDown, 2),
        (Kind::StealAddress, 2),
        (Kind::ForeignAddress, 1),
        (Kind::NetlinkTrouble, 1),
        (Kind::Terminate, 3),
        (Kind::Failover, 4),
        (Kind::Failback, 1),
        (Kind::Promote, 2),
        (Kind::ForcePromote, 1),
        (Kind::Pause, 1),
        (Kind::Drain, 1),
        (Kind::RotateKeys, 1),
        (Kind::ChangeTimers, 2),
    ];

    /// The kinds that came later, which are drawn with chance of their own: the seeds of before draw what they drew.
    pub const ADDED: [(Kind, usize); 3] =
        [(Kind::DieAfterAnswer, 4), (Kind::StallCutOff, 4), (Kind::ReplayNotice, 4)];

    /// What costs data or safety by the rules themselves, and so hides other things when it is on.
    pub fn is_drastic(self) -> bool {
        matches!(
            self,
            Kind::ForcePromote | Kind::LoseDisk | Kind::RotBit | Kind::RateOutside | Kind::MisdirectRead
        )
    }

    /// A pair without witness that is cut in two may split: documented, and of no use for finding
    /// anything else. What is on in a pair leaves at least one way between the two.
    pub fn fits_a_pair(self) -> bool {
        !matches!(
            self,
            Kind::CutOneWay
                | Kind::CutBothWays
                | Kind::Isolate
                | Kind::Partition
                | Kind::Loss
                | Kind::CutService
                | Kind::LinkDown
                | Kind::SlowLink
                | Kind::StallPart
                | Kind::StallCutOff
                | Kind::ReplayNotice
                | Kind::HangRequests
                | Kind::RateOutside
                | Kind::ForcePromote
                | Kind::LoseDisk
        )
    }
}

/// What is to end, and when.
#[derive(Clone, Debug)]
struct Ending {
    at: Ns,
    what: Relief,
}

#[derive(Clone, Debug)]
enum Relief {
    Mend { from: usize, to: usize, path: Option<usize> },
    MendService(usize),
    MendStream(usize, usize),
    Hasten { from: usize, to: usize },
    Calm(u64),
    Thaw(usize),
    Disk(usize),
    StateDisk(usize),
    Link(usize),
    Netlink,
    Foreign,
    Start(usize),
    Resume(usize),
    Rate(usize),
}

/// The faults of a run and how far they have come.
pub struct Faults {
    kinds: Vec<Kind>,
    endings: Vec<Ending>,
    commands: u64,
    generation: u32,
    interval: Ns,
    lost_before: u64,
    /// A pair that nothing may split: it keeps one path.
    stays_whole: bool,
    /// Hosts whose disk may hold less than it acknowledged: at most one, so that others hold the rest.
    pub damaged: Option<usize>,
    /// Since when the loss of acknowledged data is accepted, or a clock runs outside of the bound.
    pub price_accepted: bool,
    /// A clock ran at a rate outside of the bound.
    pub rate_outside: bool,
    /// Somebody paused the cluster or drained a member.
    pub suspended: bool,
}

impl Faults {
    /// Nothing has happened yet.
    pub fn new(kinds: Vec<Kind>, shape: &Shape, lost_before: u64) -> Faults {
        let stays_whole = shape.is_pair() && !kinds.contains(&Kind::Isolate);
        Faults {
            kinds,
            endings: Vec::new(),
            commands: 0,
            generation: 1,
            interval: shape.interval_ms * MS,
            lost_before,
            stays_whole,
            damaged: None,
            price_accepted: false,
            rate_outside: false,
            suspended: false,
        }
    }

    /// When the next fault ends by itself.
    pub fn next_ending(&self) -> Ns {
        self.endings.iter().map(|ending| ending.at).min().unwrap_or(Ns::MAX)
    }

    /// Ends what has lasted long enough.
    pub fn relieve(&mut self, world: &mut World) {
        let now = world.now;
        let (due, later) = std::mem::take(&mut self.endings).into_iter().partition(|ending| ending.at <= now);
        self.endings = later;
        let due: Vec<Ending> = due;
        for ending in due {
            self.end(world, &ending.what);
        }
    }

    fn end(&mut self, world: &mut World, what: &Relief) {
        match *what {
            Relief::Mend { from, to, path } => world.network.set_cut(from, to, path, false),
            Relief::MendService(h) => world.network.service_cut[h] = false,
            Relief::MendStream(a, b) => world.network.stream_cut[a][b] = false,
            Relief::Hasten { from, to } => world.network.set_slow(from, to, 0),
            Relief::Calm(lost) => world.network.lost = lost,
            Relief::Thaw(h) => world.thaw(h),
            Relief::Disk(h) => world.mend_disk(h),
            Relief::StateDisk(h) => world.hosts[h].state_disk_fails = false,
            Relief::Link(h) => world.set_link(h, false),
            Relief::Netlink => world.netlink_fails = 0,
            Relief::Foreign => world.foreign_address = false,
            Relief::Start(h) => world.revive(h),
            Relief::Resume(h) => self.resume(world, h),
            Relief::Rate(h) => {
                let now = world.now;
                world.hosts[h].clock.set_rate(now, 0);
            }
        }
    }

    fn resume(&mut self, world: &mut World, h: usize) {
        self.commands += 1;
        let at_unix_ms = world.hosts[h].clock.wall_ms(world.now);
        world.command(h, self.commands, Command::Resume { at_unix_ms });
    }

    fn later(&mut self, world: &mut World, least: u64, most: u64, what: Relief) {
        let span = self.interval * world.dice.between(least, most);
        self.endings.push(Ending { at: world.now + span, what });
    }

    /// Lets something go wrong that this run has.
    pub fn strike(&mut self, world: &mut World) {
        let kind = *world.dice.pick(&self.kinds);
        let n = world.hosts.len() as u64;
        let h = world.dice.below(n) as usize;
        let other = ((h as u64 + 1 + world.dice.below(n - 1)) % n) as usize;
        self.suffer(world, kind, h, other);
    }

    fn suffer(&mut self, world: &mut World, kind: Kind, h: usize, other: usize) {
        let n = world.hosts.len();
        let data = world.shape.data;
        let d = h % data;
        match kind {
            Kind::CutOneWay => self.cut(world, h, other, None),
            Kind::CutBothWays => {
                self.cut(world, h, other, None);
                self.cut(world, other, h, None);
            }
            Kind::CutPath => {
                let path = world.dice.below(2) as usize;
                let last =
                    world.network.is_cut(h, other, 1 - path) || world.network.is_cut(other, h, 1 - path);
                if world.shape.paths > 1 && !(last && self.stays_whole) {
                    self.cut(world, h, other, Some(path));
                    self.cut(world, other, h, Some(path));
                }
            }
            Kind::Isolate => {
                for to in (0..n).filter(|to| *to != h) {
                    self.cut(world, h, to, None);
                    self.cut(world, to, h, None);
                }
                if world.dice.one_in(2) {
                    self.cut_service(world, h);
                }
            }
            Kind::Partition => {
                let side: Vec<bool> = (0..n).map(|_| world.dice.one_in(2)).collect();
                for from in 0..n {
                    for to in (0..n).filter(|to| side[*to] != side[from]) {
                        self.cut(world, from, to, None);
                    }
                }
            }
            Kind::CutService => self.cut_service(world, d),
            Kind::CutStream => {
                world.network.stream_cut[h][other] = true;
                self.later(world, 2, 60, Relief::MendStream(h, other));
            }
            Kind::SlowLink => {
                let by = self.interval * world.dice.between(1, 30) / 10;
                world.network.set_slow(h, other, by);
                self.later(world, 2, 60, Relief::Hasten { from: h, to: other });
            }
            Kind::Loss => {
                world.network.lost = *world.dice.pick(&[50_000, 250_000, 500_000]);
                let before = self.lost_before;
                self.later(world, 5, 60, Relief::Calm(before));
            }
            Kind::Attack => {
                world.recording = 8;
                for _ in 0..world.dice.between(1, 20) {
                    world.attack();
                }
            }
            Kind::KillAgent => self.kill(world, h, Death::Agent),
            Kind::KillEverything => self.kill(world, h, Death::Everything),
            Kind::PowerOff => self.kill(world, h, Death::Power),
            Kind::PowerOffAll => {
                for host in 0..n {
                    self.kill(world, host, Death::Power);
                }
            }
            Kind::DieAtEffect => world.hosts[h].dies_after = Some(world.dice.up_to(60)),
            Kind::DieAfterAnswer => world.dies_after_answer = true,
            Kind::DieInDisk => {
                if world.hosts[d].life.is_some() {
                    let steps = world.dice.up_to(60);
                    world.hosts[d].disk_harmed = true;
                    world.hosts[d].disk.stop_after(Some(steps + 1));
                }
            }
            Kind::Freeze => {
                world.freeze(h);
                self.later(world, 1, 40, Relief::Thaw(h));
            }
            Kind::StallPart => {
                let part = *world.dice.pick(&[
                    Part::Sockets,
                    Part::Core,
                    Part::State,
                    Part::Log,
                    Part::Addresses,
                    Part::Service,
                    Part::Control,
                    Part::Stream,
                ]);
                let span = self.interval * world.dice.between(1, 60) / 10;
                world.stall(h, part, span);
            }
            Kind::StallCutOff => {
                // The others take over and acknowledge, while the former primary does not notice that its reign is
                // over, and somebody follows it still.
                let Some(primary) = reigning(world) else { return };
                let follower = (primary + 1 + world.dice.below(data as u64 - 1) as usize) % data;
                let span = self.interval * world.dice.between(10, 60)
                    + world.dice.up_to(2) * world.shape.standby_timeout_ms * MS;
                world.stall(primary, Part::Core, span);
                let is_one = |h: usize| h == primary || h == follower;
                self.cut_between(world, span, |from, to| is_one(from) != is_one(to));
            }
            Kind::ReplayNotice => {
                // Whoever means harm cuts off the primary, and tells the others of an earlier death of it.
                let Some(primary) = reigning(world) else { return };
                world.recording = 8;
                if !world.replay_notice_of(primary) {
                    return self.kill(world, primary, Death::Agent);
                }
                let span = self.interval * world.dice.between(1, 10);
                self.cut_between(world, span, |from, to| (from == primary) != (to == primary));
            }
            Kind::HangRequests => {
                // What was asked in one reign goes on in the next one of the same member: the client is slow, nobody
                // ends the request, and nobody else can be primary meanwhile.
                let hangs = reigning(world).unwrap_or(d);
                let span = self.interval * world.dice.between(100, 600) / 10;
                world.stall(hangs, Part::Control, span);
                world.slow_bodies_until = world.now + span;
                world.slow_body = span;
                let alone = self.interval * world.dice.between(20, 100) / 10;
                self.cut_between(world, alone, |_, _| true);
            }
            Kind::StallDisk => {
                world.hosts[h].disk_stalled_until = world.now + self.interval * world.dice.between(1, 60);
            }
            Kind::SlowDisk => {
                world.hosts[h].sync_jitter = *world.dice.pick(&[MS, 50 * MS, 400 * MS]);
            }
            Kind::FullDisk => {
                if world.hosts[d].life.is_some() {
                    let room = world.dice.up_to(64 << 10);
                    world.limit_disk(d, room);
                    self.later(world, 10, 100, Relief::Disk(d));
                }
            }
            Kind::FailSync => {
                if world.hosts[d].life.is_some() && self.may_damage(world, d) {
                    world.hosts[d].disk_harmed = true;
                    world.hosts[d].disk.fail_syncs(1);
                    self.restart_later(world, d);
                }
            }
            Kind::FailRead => {
                if world.hosts[d].life.is_some() {
                    world.hosts[d].disk_harmed = true;
                    world.hosts[d].disk.fail_reads(world.dice.between(1, 3));
                    self.restart_later(world, d);
                }
            }
            Kind::MisdirectRead => {
                if world.hosts[d].life.is_some() {
                    world.hosts[d].disk_harmed = true;
                    world.hosts[d].disk.misdirect_reads(world.dice.between(1, 3));
                    self.restart_later(world, d);
                }
            }
            Kind::RotBit => {
                if self.may_damage(world, d) {
                    world.rot(d);
                }
            }
            Kind::LoseDisk => {
                let votes = world.dice.below(3) > 0;
                let log = h < data && (!votes || world.dice.one_in(3));
                if self.may_damage(world, h) {
                    self.kill(world, h, Death::Power);
                    world.lose_disks(h, votes || !log, log);
                }
            }
            Kind::StateDiskFails => {
                world.hosts[h].state_disk_fails = true;
                self.later(world, 2, 40, Relief::StateDisk(h));
            }
            Kind::DriftClock => {
                let ppm = world.dice.between(0, 2 * RATE_BOUND_PPM as u64) as i64 - RATE_BOUND_PPM;
                let now = world.now;
                world.hosts[h].clock.set_rate(now, ppm);
            }
            Kind::RateOutside => {
                self.rate_outside = true;
                let ppm = *world.dice.pick(&[-300_000, -50_000, 50_000, 300_000]);
                let now = world.now;
                world.hosts[h].clock.set_rate(now, ppm);
                self.later(world, 10, 100, Relief::Rate(h));
            }
            Kind::JumpWall => {
                let by = world.dice.between(0, 200_000_000_000) as i64 - 100_000_000_000;
                world.hosts[h].clock.jump_wall(by);
            }
            Kind::LinkDown => {
                world.set_link(d, true);
                self.later(world, 2, 40, Relief::Link(d));
            }
            Kind::StealAddress => world.steal_address(d),
            Kind::ForeignAddress => {
                world.foreign_address = true;
                self.later(world, 5, 60, Relief::Foreign);
            }
            Kind::NetlinkTrouble => {
                world.netlink_fails = 300_000;
                self.later(world, 5, 40, Relief::Netlink);
            }
            Kind::Terminate => {
                world.terminate(h);
                self.later(world, 10, 80, Relief::Start(h));
            }
            Kind::Failover => {
                let to = world.dice.one_in(2).then(|| world.hosts[other % data].name.clone());
                let to = to.and_then(|name| holdfast_heartbeat::NodeId::new(name).ok());
                self.order(world, d, Command::Failover { to });
            }
            Kind::Failback => self.order(world, d, Command::Failback),
            Kind::Promote => self.order(world, d, Command::Promote { accept_data_loss: false }),
            Kind::ForcePromote => {
                self.price_accepted = true;
                self.order(world, d, Command::Promote { accept_data_loss: true });
            }
            Kind::ChangeVoters => self.change_voters(world),
            Kind::Pause => {
                self.suspended = true;
                let at_unix_ms = world.hosts[h].clock.wall_ms(world.now);
                self.order(world, h, Command::Pause { at_unix_ms });
                self.later(world, 5, 60, Relief::Resume(other));
            }
            Kind::Drain => {
                self.suspended = true;
                self.order(world, d, Command::Drain);
                self.later(world, 5, 100, Relief::Resume(d));
            }
            Kind::RotateKeys => self.rotate_keys(world),
            Kind::ChangeTimers => {
                // One member after the other comes back with longer, or shorter, timers.
                let factor = *world.dice.pick(&[1, 2, 4]);
                let mut shape = world.shape.clone();
                shape.interval_ms *= factor;
                shape.standby_timeout_ms *= factor;
                let secrets = [secret(self.generation)];
                let secrets = if self.generation == 1 { secrets.to_vec() } else { self.accepted() };
                world.configure(h, shape.config(h, &secrets));
                world.terminate(h);
                self.later(world, 1, 40, Relief::Start(h));
            }
        }
    }

    fn accepted(&self) -> Vec<String> {
        vec![secret(self.generation), secret(self.generation - 1)]
    }

    fn rotate_keys(&mut self, world: &mut World) {
        // Every member learns to accept the new key before any signs with it: as the manual says.
        self.generation += 1;
        let n = world.hosts.len();
        for h in 0..n {
            let both = vec![secret(self.generation - 1), secret(self.generation)];
            let config = world.shape.config(h, &both);
            world.configure_now(h, config);
        }
        for h in 0..n {
            let config = world.shape.config(h, &self.accepted());
            world.configure(h, config);
            world.terminate(h);
            self.later(world, 10 + 20 * h as u64, 20 + 20 * h as u64, Relief::Start(h));
        }
    }

    /// An operator takes a vote away, or gives one, or both; and while that is decided the network may break between
    /// those whom it concerns and the others.
    fn change_voters(&mut self, world: &mut World) {
        let n = world.hosts.len();
        let Some(primary) = reigning(world) else { return };
        let record = world.hosts[primary].hard.record.clone();
        let (out, within): (Vec<usize>, Vec<usize>) = (0..n).filter(|h| *h != primary).partition(|h| {
            let named = |voter: &NodeId| voter.as_str() == world.hosts[*h].name;
            let voters = record.as_ref().and_then(|record| record.voters.as_ref());
            voters.is_some_and(|voters| !voters.iter().any(named))
        });
        let id = |h: usize| NodeId::new(&*world.hosts[h].name).ok();
        // Two at least stay, beside the primary: fewer are lost for good with any of them.
        let may_go = within.len() > 2 || !out.is_empty() && !within.is_empty();
        let gone = may_go.then(|| *world.dice.pick(&within));
        let come = (!out.is_empty()).then(|| *world.dice.pick(&out));
        let both = world.dice.below(3);
        let (remove, add) = match (gone, come) {
            (Some(gone), Some(come)) if both > 0 => (id(gone), id(come)),
            (_, Some(come)) => (None, id(come)),
            (gone, None) => (gone.and_then(id), None),
        };
        self.order(world, primary, Command::ChangeVoters { remove, add });
        if world.dice.one_in(2) {
            let others: Vec<bool> = (0..n).map(|_| world.dice.one_in(3)).collect();
            let with_primary = |h: usize| h == primary || come == Some(h) || others[h];
            let span = self.interval * world.dice.between(5, 60);
            self.cut_between(world, span, |from, to| with_primary(from) != with_primary(to));
        }
    }

    fn order(&mut self, world: &mut World, h: usize, command: Command) {
        self.commands += 1;
        world.command(h, self.commands, command);
    }

    fn cut(&mut self, world: &mut World, from: usize, to: usize, path: Option<usize>) {
        world.network.set_cut(from, to, path, true);
        self.later(world, 1, 60, Relief::Mend { from, to, path });
    }

    /// Cuts every direction between two hosts that `apart` names, by all paths, for as long as `span`.
    fn cut_between(&mut self, world: &mut World, span: Ns, apart: impl Fn(usize, usize) -> bool) {
        let n = world.hosts.len();
        let ways = (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
        for (from, to) in ways.filter(|(from, to)| from != to && apart(*from, *to)) {
            world.network.set_cut(from, to, None, true);
            self.endings.push(Ending { at: world.now + span, what: Relief::Mend { from, to, path: None } });
        }
    }

    fn cut_service(&mut self, world: &mut World, h: usize) {
        world.network.service_cut[h] = true;
        self.later(world, 2, 60, Relief::MendService(h));
    }

    fn kill(&mut self, world: &mut World, h: usize, death: Death) {
        if world.hosts[h].life.is_some() {
            world.kill(h, death);
            // Now and then it is back before anybody has missed it.
            let most = if world.dice.one_in(4) { 3 } else { 60 };
            self.later(world, 1, most, Relief::Start(h));
        }
    }

    fn restart_later(&mut self, world: &mut World, h: usize) {
        self.later(world, 20, 60, Relief::Start(h));
    }

    /// Whether this host may lose what it acknowledged: somebody else in the recorded set must hold it.
    fn may_damage(&mut self, world: &World, h: usize) -> bool {
        if self.damaged.is_some_and(|damaged| damaged != h) {
            return false;
        }
        if world.hosts[h].kind == MemberKind::Data {
            let Some(record) = super::checkers::facts::newest_record(world) else { return false };
            let held_elsewhere = record.members.iter().any(|member| {
                world.hosts.iter().enumerate().any(|(other, host)| {
                    other != h
                        && host.name == member.id.as_str()
                        && host.log_incarnation == Some(member.incarnation)
                })
            });
            if !held_elsewhere {
                return false;
            }
        }
        self.damaged = Some(h);
        true
    }

    /// Ends everything that is wrong.
    pub fn lift(&mut self, world: &mut World) {
        let weather = (world.network.delay, world.network.stream_delay);
        self.endings.clear();
        world.network.heal();
        (world.network.delay, world.network.stream_delay) = weather;
        world.recording = 0;
        world.dies_after_answer = false;
        world.netlink_fails = 0;
        world.foreign_address = false;
        world.wake_delay = world.wake_delay.min(MS);
        let now = world.now;
        for h in 0..world.hosts.len() {
            let host = &mut world.hosts[h];
            host.dies_after = None;
            host.disk.stop_after(None);
            host.state_disk_fails = false;
            host.conduct = Conduct::Good;
            host.devices = Devices::Work;
            host.disk_stalled_until = 0;
            host.sync_jitter = host.sync_jitter.min(2 * MS);
            if host.clock.ppm().abs() > RATE_BOUND_PPM {
                host.clock.set_rate(now, 0);
            }
            world.mend_disk(h);
            world.thaw(h);
            world.set_link(h, false);
            // What broke a disk is repaired, and its agent started anew, by a person: the log says so.
            if world.log_failed(h) {
                world.kill(h, Death::Agent);
            }
            if world.hosts[h].life.is_none() {
                world.power_on_later(h, 10 * MS);
            }
        }
    }

    /// Whoever suspended something ends that.
    pub fn resume_all(&mut self, world: &mut World) {
        if self.suspended {
            for h in 0..world.hosts.len() {
                self.resume(world, h);
            }
        }
    }

    /// Whether what is left cannot heal by itself by the rules: a disk lost what it held, and the others
    /// may not be enough; or an operator's two accepted losses contradict each other.
    pub fn excuses(&self, _world: &World) -> bool {
        self.damaged.is_some() || self.price_accepted
    }

    /// How long the cluster may take to be whole again after everything was lifted.
    pub fn patience(&self, shape: &Shape) -> Ns {
        // The longest damping of a member that left often, the wait of a retransmission that began during
        // the longest cut, and some elections.
        let cut = self.interval * 120;
        // The longest retreat of a member whose hooks failed, and the wait for hooks that are never heard of.
        let hooks = if shape.hooks { 70 * S } else { 0 };
        // The longest retreat after devices that failed, the patience after a start, and the limit of an order.
        let fence = if shape.fence { 110 * S } else { 0 };
        hooks + fence + 35 * S + cut + self.interval * u64::from(shape.threshold) * 20
    }
}

/// Who reigns, or thinks so; the first of several.
fn reigning(world: &World) -> Option<usize> {
    (0..world.shape.data).find(|d| world.reign(*d) > Epoch::ZERO)
}
