//! One run: a calm start, trouble, its end, and the judgement.
//!
//! ```text
//!   start --> calm --> trouble: faults come and go --> lifted --> whole again --> judged
//!             |        safety is watched at every step  |          within a bound   |
//!             +-----------------------------------------+                           what clients saw,
//!                                                                                   and the same bytes
//! ```

use holdfast_heartbeat::packet::OLDEST;
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;

use super::ailments::Ailments;
use super::chance::Chance;
use super::checkers::{Violation, clients, r9_same_bytes, whole};
use super::faults::Faults;
use super::plan::Plan;
use super::world::attendants::Conduct;
use super::world::fencing::Devices;
use super::world::network::{MS, S};
use super::world::{Ns, World};

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// Stands for everything that happened, in its order.
    pub digest: u64,
    /// How long the world lived.
    pub simulated: Ns,
    /// Things that happened in it.
    pub happened: u64,
    /// Requests that were answered with success.
    pub answered: u64,
    /// Members that became primary.
    pub reigns: u64,
    /// Times that space was won back.
    pub reclaims: u64,
    /// Questions about what clients saw that were left open for want of time.
    pub undecided: usize,
    /// The last lines of every host.
    pub timeline: String,
    /// The plan in words.
    pub plan: String,
}

thread_local! {
    /// What the last panic of this thread said, and where.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic is one more way to break a rule: it is reported with the run, and not on the screen.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| LAST_PANIC.set(info.to_string())));
}

/// Where the event log of a run goes, if anywhere.
pub type EventLog = Option<Box<dyn std::io::Write>>;

/// Runs a seed, and takes a panic for a broken rule.
pub fn run_seed(seed: u64, log: EventLog) -> Verdict {
    run_plan(&Plan::draw(seed), log)
}

/// Runs a plan.
pub fn run_plan(plan: &Plan, log: EventLog) -> Verdict {
    let mut world = World::new(plan.shape.clone(), plan.seed);
    if let Some(log) = log {
        world.story.write_to(log);
    }
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| live(&mut world, plan)));
    let (violation, undecided) = match outcome {
        Ok(ended) => ended,
        Err(panic) => {
            drop(panic);
            let words = LAST_PANIC.take();
            (Some(Violation { rule: "panic", at: world.now, what: words }), 0)
        }
    };
    let names: Vec<String> = world.hosts.iter().map(|host| host.name.clone()).collect();
    Verdict {
        seed: plan.seed,
        digest: world.story.digest(),
        simulated: world.now,
        happened: world.counts.happened,
        answered: world.counts.answered,
        reigns: world.counts.reigns,
        reclaims: world.counts.reclaims,
        undecided,
        timeline: world.story.timeline(&names),
        plan: format!("{:?}; faults {:?}; {:?}", plan.shape, plan.kinds(), plan.weather),
        violation,
    }
}

fn live(world: &mut World, plan: &Plan) -> (Option<Violation>, usize) {
    let mut faults = Faults::new(plan.faults.clone(), &plan.shape, plan.weather.lost);
    faults.price_accepted = plan.split;
    world.price_accepted = plan.split;
    begin(world, plan);
    let interval = plan.shape.interval_ms * MS;
    world.run_until(interval * 30 + plan.staggered * 2 + S);

    let mut ailments = Ailments::new(plan.seed, plan.shape.interval_ms, world.now);
    let trouble_ends = world.now + plan.trouble;
    while world.now < trouble_ends && !world.violated() {
        faults.strike(world);
        world.price_accepted = faults.price_accepted;
        world.rate_outside = faults.rate_outside;
        let quick = world.dice.one_in(4);
        let pause = if quick { world.dice.up_to(5 * MS) } else { world.dice.up_to(2 * plan.pause) };
        let next = world.now + pause;
        while faults.next_ending().min(ailments.next()) <= next && !world.violated() {
            world.run_until(faults.next_ending().min(ailments.next()));
            faults.relieve(world);
            ailments.act(world);
        }
        world.run_until(next);
    }
    faults.lift(world);
    ailments.lift(world);
    let deadline = world.now + faults.patience(&plan.shape);
    let mut whole = Err("not looked at yet".to_owned());
    while world.now < deadline && !world.violated() {
        world.run_until(world.now + interval * 10);
        faults.resume_all(world);
        restart_the_ended(world);
        whole = whole::look(world);
        if whole.is_ok() {
            break;
        }
    }
    if let Some(violation) = world.checkers.as_ref().and_then(|checkers| checkers.violation().cloned()) {
        return (Some(violation), 0);
    }
    if let Err(what) = whole {
        if faults.excuses(world) {
            return (None, 0);
        }
        let patience = faults.patience(&plan.shape) / S;
        let what = format!("{patience} s after everything was lifted: {what}");
        return (Some(Violation { rule: "liveness", at: world.now, what }), 0);
    }
    judge(world, &faults)
}

/// Switches everything on.
fn begin(world: &mut World, plan: &Plan) {
    let weather = &plan.weather;
    world.network.lost = weather.lost;
    world.network.doubled = weather.doubled;
    world.network.altered = weather.altered;
    world.network.delay = weather.delay;
    world.network.jitter = weather.jitter;
    world.wake_delay = weather.wake_delay;
    for h in 0..world.hosts.len() {
        world.hosts[h].clock.set_rate(0, plan.ppm[h]);
        world.hosts[h].sync_delay = weather.sync_delay;
        world.hosts[h].sync_jitter = weather.sync_jitter;
        if plan.older == Some(h) {
            world.hosts[h].speaks = OLDEST;
        }
        if plan.shape.hooks {
            world.hosts[h].conduct = Conduct::Troubled;
        }
        if plan.shape.fence {
            world.hosts[h].devices = Devices::Troubled;
            world.back_after_fence = 20 * S;
        }
        let after = world.dice.up_to(plan.staggered);
        world.power_on_later(h, after);
    }
    world.reclaim_pause = plan.reclaim_pause;
    world.ask_pause = plan.ask_pause;
    world.add_clients(plan.clients, &plan.workload);
}

/// Whoever was asked to end has ended; systemd would have started it anew at the next boot.
fn restart_the_ended(world: &mut World) {
    for h in 0..world.hosts.len() {
        world.revive(h);
    }
}

/// Everything is whole: nobody asks any more, and what was said is held against what is.
fn judge(world: &mut World, faults: &Faults) -> (Option<Violation>, usize) {
    world.clients_work = false;
    let quiet = world.now + 12 * S;
    world.run_until(quiet);
    if let Some(violation) = world.checkers.as_ref().and_then(|checkers| checkers.violation().cloned()) {
        return (Some(violation), 0);
    }
    let at = world.now;
    if let Err(what) = r9_same_bytes::compare(world, faults.damaged) {
        return (Some(Violation { rule: "R9", at, what }), 0);
    }
    let forgiven = faults.price_accepted || faults.rate_outside;
    if let Some(primary) = whole::primary(world) {
        let life = world.hosts[primary].life.as_ref().expect("a primary lives");
        let log = life.log.as_ref().expect("a primary has a log");
        let (index, reader) = (log.index.clone(), log.reader.clone());
        if forgiven {
            world.history.forget_before(None);
        }
        let unreadable = clients::final_reads(&mut world.history, &index, &*reader, at);
        if let Some(key) = unreadable.first().filter(|_| faults.damaged != Some(primary)) {
            let name = &world.hosts[primary].name;
            let what = format!("{name} has {} objects that it cannot read, {key} first", unreadable.len());
            return (Some(Violation { rule: "readable", at, what }), 0);
        }
    }
    let report = clients::check(&world.history);
    let violation = report.violations.first().map(|found| Violation {
        rule: found.invariant,
        at,
        what: found.text.clone(),
    });
    (violation, report.undecided.len())
}
