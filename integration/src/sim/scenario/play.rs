//! Runs a scenario: one step after the other, in the simulated world.
//!
//! Between two steps no time passes. Within a step the world is looked at each millisecond.

use holdfast_heartbeat::{MemberKind, Role};

use super::script::Script;
use super::watch::{self, Line, Load, Objects, READ_KEY};
use super::words::{Condition, Expected, Step, Way};
use crate::sim::checkers::{clients, r9_same_bytes, whole};
use crate::sim::s3::blob::Blob;
use crate::sim::s3::call::{Call, Code, Condition as If};
use crate::sim::s3::history::{Heard, OpId};
use crate::sim::world::attendants::Conduct;
use crate::sim::world::network::{MS, S, US};
use crate::sim::world::{Ns, World, secret};

/// The seed of every scenario: the node's own chance and nothing else depends on it.
const SEED: u64 = 1;
/// How often the world is looked at.
const LOOK: Ns = MS;
/// The longest wait for something to come about.
const WITHIN: Ns = 120 * S;
/// A client that keeps trying gives up after this long.
const CLIENT_TRIES: Ns = 30 * S;
/// A client waits this long for an answer.
const PATIENCE: Ns = S;
/// And this long before the next try.
const AGAIN: Ns = 20 * MS;
/// What is under way when the last step is over comes to its end.
const QUIET: Ns = 2 * S;
/// So many packets are looked at before one is kept by somebody who means harm.
const KEPT_ONE_IN: u64 = 4;

/// What came of it.
pub struct Played {
    /// The lines of each step that was taken.
    pub lines: Vec<Vec<String>>,
    /// What went wrong.
    pub failure: Option<String>,
    /// How long the world lived.
    pub simulated: Ns,
    /// Stands for everything that happened.
    pub digest: u64,
}

/// Runs a scenario to its end, or to the first step that does not come about.
pub fn play(script: &Script) -> Played {
    let mut play = Play::new(script);
    let mut lines = Vec::new();
    let mut failure = play.set_up(script.started).err();
    for step in &script.steps {
        if failure.is_some() {
            break;
        }
        let done = play.take(&step.step);
        lines.push(play.said());
        failure = done.err().map(|what| format!("line {}, {:?}: {what}", step.number, step.text));
    }
    if failure.is_none() {
        failure = play.judge().err();
    }
    if let Some(what) = &mut failure {
        let names: Vec<String> = play.world.hosts.iter().map(|host| host.name.clone()).collect();
        *what = format!("{what}\n{}", play.world.story.timeline(&names));
    }
    lines.resize(script.steps.len(), Vec::new());
    Played { lines, failure, simulated: play.world.now, digest: play.world.story.digest() }
}

struct Play {
    world: World,
    load: Load,
    client: usize,
    objects: Objects,
    commands: u64,
    /// The last thing that was done to the cluster; times are counted from it.
    since: Ns,
    told: u64,
    said: Vec<Line>,
    /// A host whose disk was made to lie.
    damaged: Option<usize>,
    accepted: bool,
}

impl Play {
    fn new(script: &Script) -> Play {
        let mut world = World::new(script.shape.clone(), SEED);
        // Everything takes equally long each time, so that a time changes only with the protocol.
        world.network.jitter = 0;
        world.wake_delay = 0;
        world.service_delay = 0;
        world.netlink_delay = 0;
        for host in &mut world.hosts {
            (host.sync_delay, host.sync_jitter) = (500 * US, 0);
        }
        let client = world.add_led_client();
        let load = Load::new(&mut world);
        Play {
            world,
            load,
            client,
            objects: Objects::default(),
            commands: 0,
            since: 0,
            told: 0,
            said: Vec::new(),
            damaged: None,
            accepted: false,
        }
    }

    fn set_up(&mut self, started: bool) -> Result<(), String> {
        if started {
            for h in 0..self.world.hosts.len() {
                self.world.power_on_later(h, 0);
            }
            self.wait_until(&Condition::Whole)?;
            self.wait_until(&Condition::Primary(0))?;
            self.make_bucket()?;
            self.pass(S)?;
            self.said.clear();
            self.since = self.world.now;
        }
        Ok(())
    }

    /// The lines since the last step, with their times.
    fn said(&mut self) -> Vec<String> {
        let mut said = std::mem::take(&mut self.said);
        said.sort_by_key(|(at, _, _)| *at);
        let time = |at: Ns| format!("+{} ms", at.saturating_sub(self.since) / MS);
        said.iter().map(|(at, who, what)| format!("{:>9}  {who}  {what}", time(*at))).collect()
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Wait(span) => self.pass(*span),
            Step::WaitUntil(condition) => self.wait_until(condition),
            Step::Unchanged(span) => self.unchanged(*span),
            Step::Show => self.show(),
            Step::Write { name, expected } => self.write(name, *expected),
            Step::Read { name, host, expected } => self.read(name, *host, *expected),
            Step::Load(true) => {
                self.make_bucket()?;
                self.load.begin(self.world.now);
                Ok(())
            }
            Step::Load(false) => {
                self.load.end(self.world.now, &mut self.said);
                Ok(())
            }
            _ => {
                self.since = self.world.now;
                self.act(step)?;
                self.look()
            }
        }
    }

    /// What is done to the cluster at this moment.
    fn act(&mut self, step: &Step) -> Result<(), String> {
        let world = &mut self.world;
        let n = world.hosts.len();
        match step {
            Step::PowerOff(h) => {
                world.kill(*h, crate::sim::world::hosts::Death::Power);
                world.hosts[*h].wanted = false;
            }
            Step::Kill(h, death) => {
                if world.hosts[*h].life.is_none() {
                    return Err("its agent does not run".into());
                }
                world.kill(*h, *death);
                world.hosts[*h].wanted = false;
            }
            Step::Start(h) => {
                if world.hosts[*h].life.is_some() {
                    return Err("its agent runs already".into());
                }
                world.power_on_later(*h, 0);
            }
            Step::Stop(h) => world.terminate(*h),
            Step::Freeze(h) => world.freeze(*h),
            Step::Thaw(h) => world.thaw(*h),
            Step::Cut(way) => set_cut(world, *way, true),
            Step::Mend(way) => set_cut(world, *way, false),
            Step::MendAll => {
                let (jitter, stream_delay) = (world.network.jitter, world.network.stream_delay);
                world.network.heal();
                (world.network.jitter, world.network.stream_delay) = (jitter, stream_delay);
            }
            Step::Isolate { host, clients_too } => {
                for other in (0..n).filter(|other| other != host) {
                    set_cut(world, Way { from: *host, to: other, both: true, path: None }, true);
                }
                world.network.service_cut[*host] = *clients_too;
            }
            Step::Rejoin(host) => {
                for other in (0..n).filter(|other| other != host) {
                    set_cut(world, Way { from: *host, to: other, both: true, path: None }, false);
                }
                world.network.service_cut[*host] = false;
            }
            Step::Link { host, down } => world.set_link(*host, *down),
            Step::Order { host, command } => return self.order(*host, command.clone()),
            Step::FillDisk(h) => world.limit_disk(*h, 0),
            Step::FreeDisk(h) => world.mend_disk(*h),
            Step::FailSync(h) => {
                world.hosts[*h].disk_harmed = true;
                world.hosts[*h].disk.fail_syncs(1);
            }
            Step::Penalty { host, penalty } => world.set_penalty(*host, *penalty),
            Step::StallDisk { host, span } => world.stall_disk(*host, *span, 5 * S),
            Step::StateDisk { host, fails } => world.hosts[*host].state_disk_fails = *fails,
            Step::PreHooks { host, veto } => {
                world.hosts[*host].conduct = if *veto { Conduct::Vetoes } else { Conduct::Good };
            }
            Step::Devices { host, devices } => world.hosts[*host].devices = *devices,
            Step::Rot(h) => {
                self.damaged = Some(*h);
                world.rot(*h);
            }
            Step::LoseDisks(h) => {
                if world.hosts[*h].life.is_some() {
                    return Err("its agent runs; it is stopped or killed first".into());
                }
                world.lose_disks(*h, true, world.hosts[*h].kind == MemberKind::Data);
            }
            Step::Keys { host, signing, accepted } => {
                let secrets: Vec<String> = std::iter::once(*signing).chain(*accepted).map(secret).collect();
                let config = world.shape.config(*host, &secrets);
                world.configure_now(*host, config);
            }
            Step::ClockRate { host, ppm } => {
                let now = world.now;
                world.hosts[*host].clock.set_rate(now, *ppm);
            }
            Step::WallClock { host, by_ms } => world.hosts[*host].clock.jump_wall(*by_ms),
            Step::Record => world.recording = KEPT_ONE_IN,
            Step::Replay(count) => (0..*count).for_each(|_| world.attack()),
            Step::AcceptLoss => {
                self.accepted = true;
                world.price_accepted = true;
            }
            _ => unreachable!("a step that takes time"),
        }
        Ok(())
    }

    fn order(&mut self, h: usize, command: holdfast_agent::node::event::Command) -> Result<(), String> {
        use holdfast_agent::node::event::Command as C;
        let at_unix_ms = self.world.hosts[h].clock.wall_ms(self.world.now);
        let command = match command {
            C::Pause { .. } => C::Pause { at_unix_ms },
            C::Resume { .. } => C::Resume { at_unix_ms },
            C::Promote { accept_data_loss: true } => {
                self.accepted = true;
                self.world.price_accepted = true;
                command
            }
            other => other,
        };
        if !self.world.hosts[h].acts() {
            return Err("its agent does not run, and takes no orders".into());
        }
        self.commands += 1;
        self.world.command(h, self.commands, command);
        Ok(())
    }

    /// Lets time pass.
    fn pass(&mut self, span: Ns) -> Result<(), String> {
        let until = self.world.now + span;
        while self.world.now < until {
            self.moment(until)?;
        }
        Ok(())
    }

    /// The world goes on for a moment, but not beyond `until`.
    fn moment(&mut self, until: Ns) -> Result<(), String> {
        self.load.turn(&mut self.world, &mut self.said);
        let next = (self.world.now + LOOK).min(until);
        self.world.run_until(next);
        self.look()
    }

    fn look(&mut self) -> Result<(), String> {
        watch::told_since(&self.world, &mut self.told, &mut self.said)?;
        match self.world.checkers.as_ref().and_then(|checkers| checkers.violation()) {
            Some(violation) => Err(format!("{} is broken: {}", violation.rule, violation.what)),
            None => Ok(()),
        }
    }

    fn wait_until(&mut self, condition: &Condition) -> Result<(), String> {
        let until = self.world.now + WITHIN;
        while !self.holds(condition) {
            if self.world.now >= until {
                return Err(format!("it does not come about within {} s", WITHIN / S));
            }
            self.moment(until)?;
        }
        Ok(())
    }

    fn holds(&self, condition: &Condition) -> bool {
        let world = &self.world;
        match condition {
            Condition::Primary(h) => {
                self.role(*h) == Some(Role::Primary) && world.hosts[*h].answers_on_address(world.now)
            }
            Condition::Standby(h) => self.role(*h) == Some(Role::Standby),
            Condition::Down(h) => world.hosts[*h].life.is_none(),
            Condition::InSync(members) => whole::primary(world).is_some_and(|primary| {
                let mut wanted: Vec<&str> = members.iter().map(|h| world.hosts[*h].name.as_str()).collect();
                wanted.sort_unstable();
                self.in_sync(primary).split(' ').eq(wanted)
            }),
            Condition::Whole => whole::primary(world).is_some_and(|primary| {
                let life = world.hosts[primary].life.as_ref().expect("a primary lives");
                let record = life.node.view(world.clock(primary)).record;
                record.is_some_and(|record| {
                    let data = world.hosts.iter().filter(|host| host.kind == MemberKind::Data);
                    data.into_iter()
                        .all(|host| host.life.as_ref().is_some_and(|l| record.contains(&l.member)))
                })
            }),
        }
    }

    fn role(&self, h: usize) -> Option<Role> {
        Some(self.world.hosts[h].life.as_ref()?.node.view(self.world.clock(h)).role)
    }

    /// The in-sync set as this member knows it.
    fn in_sync(&self, h: usize) -> String {
        let life = self.world.hosts[h].life.as_ref().expect("looked at before");
        let record = life.node.view(self.world.clock(h)).record;
        let mut names: Vec<String> =
            record.iter().flat_map(|record| &record.members).map(|member| member.id.to_string()).collect();
        names.sort();
        names.join(" ")
    }

    fn known(&self, h: usize) -> String {
        match self.in_sync(h) {
            names if names.is_empty() => "no in-sync set".to_owned(),
            names => format!("the in-sync set {names}"),
        }
    }

    fn unchanged(&mut self, span: Ns) -> Result<(), String> {
        let state = |play: &Play| -> Vec<_> {
            let views = play.world.hosts.iter().enumerate();
            views
                .map(|(h, host)| {
                    let view = host.life.as_ref().map(|life| life.node.view(play.world.clock(h)));
                    view.map(|view| (view.role, view.epoch))
                })
                .collect()
        };
        let before = state(self);
        let until = self.world.now + span;
        while self.world.now < until {
            self.moment(until)?;
            let differ = |(was, is): (&Option<_>, &Option<_>)| was.is_some() && is.is_some() && was != is;
            if before.iter().zip(&state(self)).any(differ) {
                return Err(format!("a role or an epoch changes: {:?} becomes {:?}", before, state(self)));
            }
        }
        Ok(())
    }

    fn show(&mut self) -> Result<(), String> {
        let now = self.world.now;
        self.load.report_open(now, &mut self.said);
        for (h, host) in self.world.hosts.iter().enumerate() {
            let what = match &host.life {
                None if host.up => "its agent does not run".to_owned(),
                None => "is off".to_owned(),
                Some(_) if host.frozen => "is frozen".to_owned(),
                Some(life) if host.kind == MemberKind::Witness => {
                    let view = life.node.view(self.world.clock(h));
                    format!("witness, epoch {}, knows {}", view.epoch, self.known(h))
                }
                Some(life) => {
                    let view = life.node.view(self.world.clock(h));
                    let address = if host.answers_on_address(now) { ", has the address" } else { "" };
                    let waits = view.waiting_for.map_or_else(String::new, |why| format!("; {why}"));
                    let (role, epoch) = (format!("{:?}", view.role).to_lowercase(), view.epoch);
                    format!("{role}, epoch {epoch}, knows {}{address}{waits}", self.known(h))
                }
            };
            self.said.push((now, host.name.clone(), what));
            let view =
                host.life.as_ref().filter(|_| !host.frozen).map(|life| life.node.view(self.world.clock(h)));
            for warning in view.into_iter().flat_map(|view| view.warnings) {
                self.said.push((now, host.name.clone(), format!("warns: {warning}")));
            }
        }
        Ok(())
    }

    // ---- clients -------------------------------------------------------------------------------------

    /// The bucket, and the object that is read all the time.
    fn make_bucket(&mut self) -> Result<(), String> {
        if self.world.bucket_made {
            return Ok(());
        }
        let done = |heard: &Heard| {
            matches!(heard, Heard::Done | Heard::Stored(_) | Heard::Refused(Code::BucketExists))
        };
        self.insist(&Call::CreateBucket, None, done)?;
        let call =
            Call::Put { key: READ_KEY, blob: Blob::new(u64::from(READ_KEY.0), 8), condition: If::Always };
        self.insist(&call, None, done)?;
        Ok(())
    }

    /// Asks once, and waits for what comes.
    fn ask(&mut self, call: &Call, host: Option<usize>) -> Result<OpId, String> {
        let op = self.world.ask(self.client, call.clone(), host, PATIENCE);
        let until = self.world.now + 2 * PATIENCE;
        while self.world.is_waiting(self.client) {
            self.moment(until)?;
        }
        Ok(op)
    }

    /// Asks until the answer is as wanted; says at the how-manieth try it was.
    fn insist(
        &mut self,
        call: &Call,
        host: Option<usize>,
        wanted: impl Fn(&Heard) -> bool,
    ) -> Result<(OpId, u32), String> {
        let until = self.world.now + CLIENT_TRIES;
        let mut tries = 0;
        loop {
            let op = self.ask(call, host)?;
            tries += 1;
            if wanted(&self.world.history.op(op).heard) {
                return Ok((op, tries));
            }
            if self.world.now > until {
                return Err(format!(
                    "no success within {} s; last: {}",
                    CLIENT_TRIES / S,
                    self.world.history.line(op)
                ));
            }
            self.pass(AGAIN)?;
        }
    }

    fn write(&mut self, name: &str, expected: Expected) -> Result<(), String> {
        self.make_bucket()?;
        let call = self.objects.next_write(name);
        let stored = |heard: &Heard| matches!(heard, Heard::Stored(_));
        self.request("write", name, &call, None, expected, stored)
    }

    fn read(&mut self, name: &str, host: Option<usize>, expected: Expected) -> Result<(), String> {
        let call = Call::Get { key: self.objects.key(name) };
        let got = |heard: &Heard| matches!(heard, Heard::Object { .. } | Heard::Refused(Code::NoSuchKey));
        self.request("read", name, &call, host, expected, got)
    }

    fn request(
        &mut self,
        verb: &str,
        name: &str,
        call: &Call,
        host: Option<usize>,
        expected: Expected,
        success: impl Fn(&Heard) -> bool,
    ) -> Result<(), String> {
        let (op, tries) = match expected {
            Expected::Success => self.insist(call, host, &success)?,
            Expected::Failure => (self.ask(call, host)?, 1),
        };
        let key = call.key().expect("it is about an object");
        let recorded = self.world.history.op(op);
        let words = watch::in_words(recorded, |heard| self.objects.shown(key, heard, &self.world.history));
        let tries = if tries > 1 { format!(", at try {tries}") } else { String::new() };
        let failed = !success(&recorded.heard);
        self.said.push((self.world.now, "client".into(), format!("{verb} {name}: {words}{tries}")));
        match expected {
            Expected::Failure if !failed => Err("it succeeds".into()),
            _ => Ok(()),
        }
    }

    /// Holds what clients were told against what there is.
    fn judge(&mut self) -> Result<(), String> {
        self.load.end(self.world.now, &mut Vec::new());
        self.pass(QUIET)?;
        r9_same_bytes::compare(&self.world, self.damaged).map_err(|what| format!("R9 is broken: {what}"))?;
        if self.accepted {
            self.world.history.forget_before(None);
        }
        if let Some(primary) = whole::primary(&self.world) {
            let life = self.world.hosts[primary].life.as_ref().expect("a primary lives");
            let log = life.log.as_ref().expect("a primary has a log");
            let (index, reader) = (log.index.clone(), log.reader.clone());
            let unreadable = clients::final_reads(&mut self.world.history, &index, &*reader, self.world.now);
            if let Some(key) = unreadable.first().filter(|_| self.damaged != Some(primary)) {
                return Err(format!(
                    "the primary cannot read {key} any more, nor {} others",
                    unreadable.len() - 1
                ));
            }
        }
        let report = clients::check(&self.world.history);
        match (report.violations.first(), report.undecided.first()) {
            (Some(found), _) => Err(format!("{} is broken: {}", found.invariant, found.text)),
            (None, Some(open)) => Err(format!("what clients saw could not be judged: {open}")),
            (None, None) => Ok(()),
        }
    }
}

fn set_cut(world: &mut World, way: Way, cut: bool) {
    world.network.set_cut(way.from, way.to, way.path, cut);
    if way.both {
        world.network.set_cut(way.to, way.from, way.path, cut);
    }
}
