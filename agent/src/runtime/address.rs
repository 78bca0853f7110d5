//! The thread that has the virtual addresses: claims and releases them with the routes that belong to them,
//! announces, probes, listens for others who claim them, and puts back what another program took away.
//!
//! It obeys the core and reports to it. Whether an address may be answered on is not decided here but
//! by the gate; this thread being slow costs time, never safety. What it hears on the network is not
//! authenticated: it is announced against and reported, and changes nothing else.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use holdfast_heartbeat::{Epoch, Time};
use holdfast_vip::announce::{Announcer, Schedule};
use holdfast_vip::conflict::Sentinel;
use holdfast_vip::gate::{Ending, Gate};
use holdfast_vip::probe::Prober;
use holdfast_vip::watch::{VipEvent, Watch};
use holdfast_vip::{Addresses, Routes, VipError, VipSpec, boottime_ns, link_up};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use self::board::Subject;
pub use self::board::{Board, VipStatus};
use self::meddling::{Meddling, Mended};
use self::rivals::{Defence, Rivals};
use super::lease::Lease;
use crate::node::event::Event;

mod board;
mod meddling;
mod rivals;

/// How often the lifetime of a held address is extended. The lifetime itself is counted in whole
/// seconds, so a shorter beat would gain nothing.
pub const REFRESH_EVERY: Duration = Duration::from_millis(500);
/// Probes in one window (RFC 5227 section 1.1 sends three).
pub const PROBES: u32 = 3;
/// A claim that failed is tried again after this time, as long as the core wants it.
pub const RETRY: Duration = Duration::from_millis(50);

/// How long the gate may take to be open or shut as the lease says. It takes well under a millisecond.
const SETTLE_LIMIT: Duration = Duration::from_millis(50);

/// How often the gate is looked at while it has something to guard, and while it has nothing.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// See [`LOOK_EVERY`].
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many looks in a row must find the gate gone, and unable to be put back, before it is called lost: a
/// kernel that was out of memory for a moment is no reason to give up a role.
const LOST_AFTER: u32 = 3;

/// After hearing others speak of an address, this long nobody listens: what comes meanwhile is summed up, so
/// that a flood of frames costs a bounded share of this thread.
const LISTEN_EVERY: Duration = Duration::from_millis(20);

/// Most notices of the kernel that are answered together.
const MOST_NOTICES: usize = 4096;

/// An order of the core.
#[derive(Debug)]
pub enum Order {
    /// Claim every address for this reign, announce, and keep them.
    Claim(Epoch),
    /// Release every address.
    Release,
    /// Ask whether anybody answers on them.
    Probe {
        /// Names the probe in the answer.
        round: u64,
        /// How long to listen.
        window: Duration,
    },
    /// Announce the addresses once more, if they are here; answered with the moment, or with nothing.
    Announce(tokio::sync::oneshot::Sender<Option<Time>>),
}

/// Something for the log and the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Worth knowing.
    Note(String),
    /// Somebody should look at it.
    Warning(String),
}

/// What the thread is started with.
pub struct Setup {
    /// The addresses.
    pub specs: Vec<VipSpec>,
    /// The right to have them, and the gate that enforces it.
    pub lease: Lease,
    /// Their lifetime, should nobody extend it.
    pub lifetime: Duration,
    /// What others read of it.
    pub board: Board,
    /// Whether the configuration names the gate, and not only prefers it.
    pub gate_is_named: bool,
}

/// Starts the thread; orders go into the returned channel, events come out of `report`, and what is to be
/// written down out of `say`.
///
/// # Errors
/// No thread, or no netlink socket: the text says what is missing.
pub fn spawn(
    setup: Setup,
    report: impl Fn(Event) + Clone + Send + 'static,
    say: impl Fn(Saying) + Clone + Send + 'static,
) -> std::io::Result<UnboundedSender<Order>> {
    let (orders, receiver) = tokio::sync::mpsc::unbounded_channel();
    let (opened, ready) = super::mailbox::channel();
    std::thread::Builder::new().name("addresses".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened.send(Err(error))),
        };
        runtime.block_on(async move {
            match Keeper::open(setup).await {
                Ok(keeper) => {
                    let _ = opened.send(Ok(()));
                    keeper.run(receiver, report, say).await;
                }
                Err(error) => {
                    let words = format!("the virtual addresses cannot be managed: {error}. The agent needs CAP_NET_ADMIN and CAP_NET_RAW");
                    let _ = opened.send(Err(std::io::Error::other(words)));
                }
            }
        });
    })?;
    ready
        .recv()
        .map_err(|_| std::io::Error::other("the thread of the virtual addresses ended at its start"))??;
    Ok(orders)
}

struct Keeper {
    specs: Vec<VipSpec>,
    lease: Lease,
    lifetime: Duration,
    board: Board,
    addresses: Addresses,
    routes: Routes,
    /// The routes must be looked at: they were never added, or something happened to them.
    routes_open: bool,
    /// The routes that could not be added, as last told.
    missing_routes: Vec<String>,
    announcer: Announcer,
    prober: Arc<Prober>,
    held: Option<Held>,
    gate: GateWatch,
    /// What another program did, and is not mended yet.
    damage: Vec<Damage>,
    meddling: Meddling,
    rivals: Rivals,
}

struct Held {
    epoch: Epoch,
    claimed: bool,
    /// The last failure that was told.
    trouble: Option<String>,
    /// For each address.
    schedules: Vec<Schedule>,
    refresh_at: Instant,
}

impl Held {
    fn new(epoch: Epoch, now: Instant) -> Held {
        Held { epoch, claimed: false, trouble: None, schedules: Vec::new(), refresh_at: now }
    }

    /// Announces the addresses of which `concerned` is true from the first round on.
    fn announce_anew(&mut self, specs: &[VipSpec], concerned: impl Fn(&VipSpec) -> bool) {
        let now = std::time::Instant::now();
        for (schedule, spec) in self.schedules.iter_mut().zip(specs) {
            if concerned(spec) {
                *schedule = Schedule::begin(spec.rounds, now);
            }
        }
    }
}

/// Something of ours that another program took off or changed.
struct Damage {
    /// The address; `None` where it is a route of one.
    spec: Option<VipSpec>,
    interface: String,
    did: String,
    /// When it was noticed, in nanoseconds of CLOCK_BOOTTIME.
    at: u64,
}

/// What a batch of the kernel's notices asks for.
#[derive(Default)]
struct Asked {
    hold: bool,
    refresh: bool,
    repair_gate: Option<String>,
    listen_anew: bool,
    announce_all: bool,
    announce_on: Vec<String>,
}

impl Keeper {
    async fn open(setup: Setup) -> Result<Keeper, VipError> {
        let Setup { specs, lease, lifetime, board, gate_is_named } = setup;
        let routes = Routes::open(specs.clone()).await?;
        match routes.sweep().await {
            Ok(swept) => {
                for route in swept {
                    tracing::warn!(route, "took off a route of a virtual address that an earlier life left");
                }
            }
            Err(error) => tracing::warn!(%error, "could not look for routes that an earlier life left"),
        }
        let addresses = Addresses::open(specs.clone()).await?;
        match addresses.sweep().await {
            Ok(swept) => {
                for spec in swept {
                    tracing::warn!(vip = %spec, "took off a virtual address that an earlier life of this agent had left");
                }
            }
            // An interface that is still to come; the gate is shut in any case.
            Err(error) => {
                tracing::warn!(%error, "could not look for virtual addresses that an earlier life left")
            }
        }
        let announcer = Announcer::open(&specs);
        let probed: Vec<VipSpec> = specs.iter().filter(|spec| spec.arp_ping).cloned().collect();
        let prober = Arc::new(Prober::open(&probed).await);
        let gate = GateWatch::new(lease.gate().clone(), gate_is_named);
        Ok(Keeper {
            specs,
            lease,
            lifetime,
            board,
            addresses,
            routes,
            routes_open: true,
            missing_routes: Vec::new(),
            announcer,
            prober,
            held: None,
            gate,
            damage: Vec::new(),
            meddling: Meddling::default(),
            rivals: Rivals::default(),
        })
    }

    async fn watch(&self) -> Result<Watch, VipError> {
        let mut watch = Watch::open(self.specs.clone(), &[]).await?;
        watch.expect_lifetime(self.lifetime);
        Ok(watch)
    }

    async fn run(
        mut self,
        mut orders: UnboundedReceiver<Order>,
        report: impl Fn(Event) + Clone + Send + 'static,
        say: impl Fn(Saying) + Clone + Send + 'static,
    ) {
        let mut watch = self.watch().await.inspect_err(|error| {
            tracing::error!(%error, "changes of the addresses cannot be watched; a lost one is put back within half a second only");
        }).ok();
        let mut sentinel = Sentinel::open(self.specs.clone());
        let mut listen_at = Instant::now();
        let mut look_at = Instant::now();
        loop {
            if look_at <= Instant::now() {
                self.gate.look(&report, &say);
                let every = if self.held.is_some() { LOOK_EVERY } else { IDLE_LOOK_EVERY };
                look_at = Instant::now() + every;
            }
            let due = self.due();
            let claimed = self.is_claimed();
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Claim(epoch)) => {
                        // What the kernel tells of the release before is no news of this reign, and what
                        // others said of the addresses before they were ours was no contest.
                        self.held = None;
                        let mut asked = Asked::default();
                        for _ in 0..MOST_NOTICES {
                            let Some(Ok(event)) = next_event(&mut watch).now_or_never() else { break };
                            self.take_notice(&mut asked, event);
                        }
                        if asked.listen_anew {
                            sentinel.look_again();
                        }
                        sentinel.drain();
                        look_at = Instant::now();
                        self.damage.clear();
                        self.held = Some(Held::new(epoch, look_at));
                        self.act(&report, &say).await;
                    }
                    Some(Order::Release) => {
                        self.release().await;
                        report(Event::VipReleased);
                    }
                    Some(Order::Announce(reply)) => drop(reply.send(self.announce_once())),
                    Some(Order::Probe { round, window }) => {
                        let (prober, report) = (self.prober.clone(), report.clone());
                        tokio::task::spawn(async move {
                            let result = prober.probe(PROBES, window).await;
                            let conflict = result.conflicts.first().map(|c| format!("{} at {}", c.spec, c.mac));
                            let asked = result.unsent.is_empty();
                            for (spec, error) in result.unsent {
                                tracing::debug!(vip = %spec, %error, "nobody could be asked about the address");
                            }
                            report(Event::ProbeFinished { round, conflict, asked });
                        });
                    }
                },
                event = next_event(&mut watch) => match event {
                    Ok(first) => {
                        let mut asked = Asked::default();
                        self.take_notice(&mut asked, first);
                        let mut failed = None;
                        // What comes together is answered together.
                        for _ in 0..MOST_NOTICES {
                            match next_event(&mut watch).now_or_never() {
                                None => break,
                                Some(Ok(event)) => self.take_notice(&mut asked, event),
                                Some(Err(error)) => {
                                    failed = Some(error);
                                    break;
                                }
                            }
                        }
                        if asked.repair_gate.is_some() {
                            look_at = Instant::now();
                        }
                        if asked.listen_anew {
                            sentinel.look_again();
                        }
                        self.answer(asked, &say).await;
                        if let Some(error) = failed {
                            watch = self.watch_again(&error).await;
                        }
                    }
                    Err(error) => watch = self.watch_again(&error).await,
                },
                contests = sentinel.next(), if claimed && listen_at <= Instant::now() => {
                    listen_at = Instant::now() + LISTEN_EVERY;
                    for contest in contests.iter().filter(|contest| contest.sign == holdfast_vip::Sign::Claims) {
                        self.board.count_contested(&contest.spec, contest.frames);
                    }
                    let defence = self.rivals.heard(std::time::Instant::now(), &contests);
                    self.defend(defence, &say);
                }
                () = tokio::time::sleep_until(look_at) => {}
                () = tokio::time::sleep_until(listen_at), if claimed && listen_at > Instant::now() => {}
                () = tokio::time::sleep_until(due) => self.act(&report, &say).await,
            }
        }
    }

    async fn watch_again(&self, error: &VipError) -> Option<Watch> {
        tracing::error!(%error, "the watch over the addresses ended; beginning it anew");
        tokio::time::sleep(RETRY).await;
        self.watch().await.ok()
    }

    fn is_claimed(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.claimed)
    }

    /// When there is something to do without anybody asking for it.
    fn due(&self) -> Instant {
        let mut due = Instant::now() + Duration::from_secs(3600);
        if let Some(held) = &self.held {
            due = due.min(held.refresh_at);
            let rounds = held.schedules.iter().filter_map(Schedule::next_at).min();
            due = rounds.map_or(due, |at| due.min(Instant::from_std(at)));
        }
        let others = [self.meddling.next_at(), self.rivals.next_at()].into_iter().flatten().min();
        others.map_or(due, |at| due.min(Instant::from_std(at)))
    }

    /// Notes what a notice of the kernel asks for.
    fn take_notice(&mut self, asked: &mut Asked, event: VipEvent) {
        let claimed = self.is_claimed();
        match event {
            VipEvent::AddressLost { spec, at } if claimed => {
                self.board.set_here(false);
                asked.hold = true;
                let did = match link_up(&spec.interface) {
                    true => "was taken off by another program",
                    false => "went away with its interface, which is down or gone",
                };
                let (interface, did) = (spec.interface.clone(), did.to_owned());
                self.damage.push(Damage { spec: Some(spec), interface, did, at });
            }
            VipEvent::AddressAltered { spec, how, at } if claimed => {
                asked.hold = true;
                let did = format!("was altered by another program (it {how})");
                let interface = spec.interface.clone();
                self.damage.push(Damage { spec: Some(spec), interface, did, at });
            }
            VipEvent::RouteLost { spec, at, .. } if claimed => {
                asked.hold = true;
                self.routes_open = true;
                let did = "was removed by another program".to_owned();
                self.damage.push(Damage { spec: None, interface: spec.interface, did, at });
            }
            VipEvent::LinkUp { interface } => {
                asked.repair_gate = Some(interface.clone());
                asked.listen_anew = true;
                asked.hold = true;
                self.routes_open = true;
                asked.announce_on.push(interface);
            }
            VipEvent::AnnounceAgain { interface, reason } => {
                tracing::info!(interface, reason, "announcing the virtual addresses anew");
                asked.listen_anew = true;
                // It may be below an interface of ours: a bond under a bridge, say.
                asked.announce_all = true;
            }
            VipEvent::Overrun => {
                asked.listen_anew = true;
                asked.refresh = true;
                self.routes_open = true;
            }
            _ => {}
        }
    }

    /// Does what the kernel's notices asked for.
    async fn answer(&mut self, asked: Asked, say: &impl Fn(Saying)) {
        if let Some(interface) = asked.repair_gate
            && let Err(error) = self.gate.repair()
        {
            tracing::error!(%error, interface, "the gate could not be put on an interface that came up");
        }
        if let Some(held) = self.held.as_mut().filter(|held| held.claimed) {
            held.announce_anew(&self.specs, |spec| {
                asked.announce_all || asked.announce_on.contains(&spec.interface)
            });
            if asked.refresh {
                held.refresh_at = Instant::now();
            }
            if asked.hold {
                match self.hold(say).await {
                    // Without the lease the right to the address is over: it expired, or this process slept.
                    // The core's order to release is on its way.
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, "a virtual address is not as it should be, and cannot be mended yet");
                    }
                }
            }
        }
    }

    /// Claims or refreshes, if the lease allows it; says whether it did.
    ///
    /// The lease is looked at before and after: a process that slept in between has put up an address
    /// that it has no right to any more, and takes it off again.
    async fn hold(&mut self, say: &impl Fn(Saying)) -> Result<bool, VipError> {
        if !self.entitled() {
            self.damage.clear();
            return Ok(false);
        }
        self.addresses.claim(self.lifetime).await?;
        if !self.entitled() {
            self.damage.clear();
            self.take_off().await?;
            return Ok(false);
        }
        self.board.set_here(true);
        let damaged = std::mem::take(&mut self.damage);
        let lost: Vec<&VipSpec> = damaged.iter().filter_map(|damage| damage.spec.as_ref()).collect();
        for (spec, error) in self.announcer.announce_all(lost) {
            tracing::debug!(vip = %spec, %error, "an address that was put back is not announced yet");
        }
        let mended_at = boottime_ns();
        let took = |at: u64| Duration::from_nanos(mended_at.saturating_sub(at));
        let now = std::time::Instant::now();
        for damage in &damaged {
            let Some(spec) = &damage.spec else { continue };
            self.board.count_restored(spec);
            let mended = Mended {
                what: spec.to_string(),
                did: damage.did.clone(),
                interface: damage.interface.clone(),
                took: took(damage.at),
            };
            self.meddling.mended(now, mended);
        }
        if !self.routes_open {
            return Ok(true);
        }
        let first_time = !self.is_claimed();
        let ensured = self.routes.ensure().await;
        if !self.entitled() {
            self.take_off().await?;
            return Ok(false);
        }
        for what in ensured.added.into_iter().filter(|_| !first_time) {
            let Some(damage) = damaged.first() else { continue };
            let did = damage.did.clone();
            let interface = damage.interface.clone();
            self.meddling.mended(now, Mended { what, did, interface, took: took(damage.at) });
        }
        self.routes_open = !ensured.missing.is_empty();
        let told: Vec<String> = ensured
            .missing
            .iter()
            .map(|trouble| format!("{} is missing: {}", trouble.what, trouble.error))
            .collect();
        if told != self.missing_routes {
            told.iter().for_each(|words| say(Saying::Warning(words.clone())));
            if told.is_empty() {
                say(Saying::Note("all routes and rules of the virtual addresses stand again".to_owned()));
            }
            self.board.warn(Subject::Routes, told.clone());
            self.missing_routes = told;
        }
        // Once claimed, an address is not given up for a route that another program takes away.
        match ensured.missing.into_iter().find(|trouble| trouble.required && first_time) {
            Some(trouble) => {
                self.board.set_here(false);
                Err(trouble.error)
            }
            None => Ok(true),
        }
    }

    fn entitled(&self) -> bool {
        let epoch = self.held.as_ref().map(|held| held.epoch);
        epoch.is_some() && self.lease.held(now()) == epoch
    }

    /// Removes routes, then addresses.
    async fn take_off(&mut self) -> Result<(), VipError> {
        if let Err(error) = self.routes.remove().await {
            tracing::error!(%error, "routes of the virtual addresses could not be removed; the addresses go all the same");
        }
        self.routes_open = true;
        self.addresses.release().await?;
        self.board.set_here(false);
        Ok(())
    }

    async fn release(&mut self) {
        self.held = None;
        self.damage.clear();
        self.rivals.forget();
        self.missing_routes.clear();
        self.board.warn(Subject::Rivals, Vec::new());
        self.board.warn(Subject::Routes, Vec::new());
        // The gate first (R7). Should it not obey, the address still goes before we say so.
        if let Err(error) = self.lease.settle(SETTLE_LIMIT).await {
            tracing::error!(%error, "the kernel gate is not known to be shut; taking the addresses off");
        }
        while let Err(error) = self.take_off().await {
            // The gate is shut already; the address must still go before we say so.
            tracing::error!(%error, "a virtual address could not be released; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One round beside the regular ones, for whoever wants to see it arrive elsewhere; the moment before it.
    fn announce_once(&self) -> Option<Time> {
        let held = self.held.as_ref().filter(|held| held.claimed)?;
        let begun = now();
        if self.lease.held(begun) != Some(held.epoch) {
            return None;
        }
        for spec in &self.specs {
            if let Err(error) = self.announcer.announce(spec) {
                tracing::warn!(vip = %spec, %error, "a virtual address could not be announced");
                return None;
            }
        }
        Some(begun)
    }

    fn wait_for_the_core(&mut self, now: Instant) {
        if let Some(held) = &mut self.held {
            held.refresh_at = now + RETRY;
        }
    }

    /// Claims, announces, refreshes, or says something, whichever is due.
    async fn act(&mut self, report: &impl Fn(Event), say: &impl Fn(Saying)) {
        let now = Instant::now();
        while let Some(saying) = self.meddling.due(now.into_std()) {
            say(saying);
        }
        self.board.warn(Subject::Meddling, self.meddling.warnings());
        let defence = self.rivals.due(now.into_std());
        self.defend(defence, say);

        let Some(held) = &mut self.held else { return };
        let claiming = !held.claimed;
        if claiming && now >= held.refresh_at {
            // The interface may have been made anew since the gate was put on it.
            if let Err(error) = self.gate.repair() {
                say(Saying::Note(format!(
                    "the kernel gate cannot be put on the interface: {error}; the addresses' lifetime alone ends them"
                )));
            }
            // A shut gate would swallow the announcement.
            if let Err(error) = self.lease.settle(SETTLE_LIMIT).await {
                tracing::warn!(%error, "the kernel gate is not open yet");
            }
            let outcome = self.hold(say).await;
            let Some(held) = &mut self.held else { return };
            match outcome {
                Ok(true) => {
                    held.claimed = true;
                    held.refresh_at = now + REFRESH_EVERY;
                    let at = std::time::Instant::now();
                    held.schedules = self.specs.iter().map(|spec| Schedule::begin(spec.rounds, at)).collect();
                }
                Ok(false) => return self.wait_for_the_core(now),
                Err(error) => {
                    let trouble = error.to_string();
                    if held.trouble.as_ref() != Some(&trouble) {
                        say(Saying::Note(format!(
                            "the virtual addresses cannot be claimed: {trouble}; trying again"
                        )));
                        held.trouble = Some(trouble);
                    }
                    return self.wait_for_the_core(now);
                }
            }
        } else if claiming {
            return;
        } else if now >= held.refresh_at {
            held.refresh_at = now + REFRESH_EVERY;
            match self.hold(say).await {
                Ok(true) => {}
                Ok(false) => return self.wait_for_the_core(now),
                Err(error) => {
                    tracing::warn!(%error, "the lifetime of the virtual addresses could not be extended");
                }
            }
        }
        self.announce_due();
        // However many announcements were due by now: one is out, and the core waits to hear of it.
        if claiming && let Some(held) = &self.held {
            report(Event::VipClaimed { epoch: held.epoch });
            // Until the role is lost nothing is asked, and a death is to be over soon.
            self.prober.rest();
        }
    }

    fn announce_due(&mut self) {
        if !self.entitled() {
            return;
        }
        let Some(held) = &mut self.held else { return };
        let now = std::time::Instant::now();
        let mut due = Vec::new();
        for (schedule, spec) in held.schedules.iter_mut().zip(&self.specs) {
            if schedule.take_due(now) {
                due.push(spec);
            }
        }
        for (spec, error) in self.announcer.announce_all(due) {
            tracing::warn!(vip = %spec, %error, "a virtual address could not be announced");
        }
    }

    /// Announces against other stations, and says who they are.
    fn defend(&mut self, defence: Defence, say: &impl Fn(Saying)) {
        if self.is_claimed() && self.entitled() {
            for (spec, error) in self.announcer.announce_all(&defence.announce) {
                tracing::warn!(vip = %spec, %error, "a contested virtual address could not be announced");
            }
        }
        defence.sayings.into_iter().for_each(say);
        self.board.warn(Subject::Rivals, self.rivals.warnings());
    }
}

/// Looks whether the gate still stands, and puts it back.
struct GateWatch {
    gate: Arc<dyn Gate>,
    named: bool,
    /// How often it was known to have put itself back.
    restored: u64,
    /// Where it was known to stand.
    attached: Vec<String>,
    /// Looks in a row that found it gone and could not put it back.
    gone: u32,
    /// What the core was told.
    lost: Option<String>,
}

impl GateWatch {
    fn new(gate: Arc<dyn Gate>, named: bool) -> GateWatch {
        GateWatch { gate, named, restored: 0, attached: Vec::new(), gone: 0, lost: None }
    }

    /// Puts the gate on interfaces that were made anew.
    fn repair(&mut self) -> std::io::Result<()> {
        let health = self.gate.repair()?;
        (self.restored, self.attached) = (health.restored, health.attached);
        Ok(())
    }

    fn look(&mut self, report: &impl Fn(Event), say: &impl Fn(Saying)) {
        let note = |words: String| say(Saying::Note(words));
        if self.gate.ending() == Ending::Lifetime {
            return;
        }
        let found = self.gate.check();
        if let Ok(health) = &found
            && health.restored > self.restored
        {
            self.restored = health.restored;
            note(format!(
                "another program took the kernel gate ({}) away; it was put back at once",
                self.gate.name()
            ));
        }
        let lost = match found {
            Ok(health) if health.ungated().is_empty() => {
                self.attached = health.attached;
                None
            }
            Ok(health) => {
                let missing = health.ungated().join(", ");
                let is_new =
                    !health.ungated().iter().any(|name| self.attached.iter().any(|known| known == name));
                match self.gate.repair() {
                    Ok(health) if health.ungated().is_empty() => {
                        (self.restored, self.attached) = (health.restored, health.attached);
                        match is_new {
                            true => tracing::info!(
                                interface = missing,
                                "the kernel gate was put on an interface that is new"
                            ),
                            false => {
                                note(format!("the kernel gate was missing on {missing}; it was put back"))
                            }
                        }
                        None
                    }
                    Ok(_) => Some(format!("it is not on {missing} and cannot be put back")),
                    Err(error) => Some(format!("it is not on {missing} and cannot be put back: {error}")),
                }
            }
            Err(error) => Some(format!("whether it stands cannot be found out: {error}")),
        };
        let Some(detail) = lost else {
            self.gone = 0;
            if self.lost.take().is_some() {
                note("the kernel gate stands again".to_owned());
                report(Event::GateJudged { lost: None, named: self.named });
            }
            return;
        };
        self.gone = self.gone.saturating_add(1);
        if self.gone >= LOST_AFTER && self.lost.as_ref() != Some(&detail) {
            tracing::error!(
                gate = self.gate.name(),
                "the kernel gate is lost: {detail}. Nothing in the kernel but the addresses' lifetime would end this lease"
            );
            self.lost = Some(detail.clone());
            report(Event::GateJudged { lost: Some(detail), named: self.named });
        }
    }
}

async fn next_event(watch: &mut Option<Watch>) -> Result<VipEvent, holdfast_vip::VipError> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// Now, on the clock that decides.
pub fn now() -> Time {
    Time(boottime_ns())
}
