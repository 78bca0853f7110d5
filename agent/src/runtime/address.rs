//! The thread that has the virtual addresses: claims and releases them, announces, probes, and puts
//! back what another program took away.
//!
//! It obeys the core and reports to it. Whether an address may be answered on is not decided here but
//! by the gate; this thread being slow costs time, never safety.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_heartbeat::{Epoch, Time};
use holdfast_vip::announce::{Announcer, announcement_times};
use holdfast_vip::gate::{Ending, Gate};
use holdfast_vip::probe::Prober;
use holdfast_vip::watch::{VipEvent, Watch};
use holdfast_vip::{Addresses, VipSpec, boottime_ns};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::lease::Lease;
use crate::node::event::Event;

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

/// What the status shows of one address.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct VipStatus {
    /// The address with its prefix length.
    pub address: String,
    /// Its interface.
    pub interface: String,
    /// Whether this member has claimed it.
    pub held: bool,
}

/// Whether the addresses are on this host; set by their thread, read by the status.
pub type AddressesHere = Arc<AtomicBool>;

/// Starts the thread; orders go into the returned channel, events come out of `report`.
pub fn spawn(
    specs: Vec<VipSpec>,
    lease: Lease,
    lifetime: Duration,
    here: AddressesHere,
    gate_is_named: bool,
    report: impl Fn(Event) + Clone + Send + 'static,
    note: impl Fn(String) + Clone + Send + 'static,
) -> std::io::Result<UnboundedSender<Order>> {
    let (orders, receiver) = tokio::sync::mpsc::unbounded_channel();
    let (opened, ready) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("addresses".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened.send(Err(error))),
        };
        runtime.block_on(async move {
            match Keeper::open(specs, lease, lifetime, here, gate_is_named).await {
                Ok(keeper) => {
                    let _ = opened.send(Ok(()));
                    keeper.run(receiver, report, note).await;
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
    here: AddressesHere,
    addresses: Addresses,
    announcer: Announcer,
    prober: Arc<Prober>,
    held: Option<Held>,
    gate: GateWatch,
}

struct Held {
    epoch: Epoch,
    claimed: bool,
    /// The last failure that was told.
    trouble: Option<String>,
    since: Instant,
    next_announcement: usize,
    act_at: Instant,
    refresh_at: Instant,
}

impl Keeper {
    async fn open(
        specs: Vec<VipSpec>,
        lease: Lease,
        lifetime: Duration,
        here: AddressesHere,
        gate_is_named: bool,
    ) -> Result<Keeper, holdfast_vip::VipError> {
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
        Ok(Keeper { specs, lease, lifetime, here, addresses, announcer, prober, held: None, gate })
    }

    async fn run(
        mut self,
        mut orders: UnboundedReceiver<Order>,
        report: impl Fn(Event) + Clone + Send + 'static,
        note: impl Fn(String) + Clone + Send + 'static,
    ) {
        let mut watch = Watch::open(self.specs.clone(), &[]).await.inspect_err(|error| {
            tracing::error!(%error, "changes of the addresses cannot be watched; a lost one is put back within half a second only");
        }).ok();
        let mut look_at = Instant::now();
        loop {
            if look_at <= Instant::now() {
                self.gate.look(&report, &note);
                let every = if self.held.is_some() { LOOK_EVERY } else { IDLE_LOOK_EVERY };
                look_at = Instant::now() + every;
            }
            let due = self.held.as_ref().map_or_else(
                || Instant::now() + Duration::from_secs(3600),
                |held| held.act_at.min(held.refresh_at),
            );
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Claim(epoch)) => {
                        let now = Instant::now();
                        look_at = now;
                        self.held = Some(Held { epoch, claimed: false, trouble: None, since: now, next_announcement: 0, act_at: now, refresh_at: now + REFRESH_EVERY });
                        self.act(&report, &note).await;
                    }
                    Some(Order::Release) => {
                        self.held = None;
                        // The gate first (R7). Should it not obey, the address still goes before we say so.
                        if let Err(error) = self.lease.settle(SETTLE_LIMIT).await {
                            tracing::error!(%error, "the kernel gate is not known to be shut; taking the addresses off");
                        }
                        loop {
                            match self.addresses.release().await {
                                Ok(()) => break,
                                Err(error) => {
                                    // The gate is shut already; the address must still go before we say so.
                                    tracing::error!(%error, "a virtual address could not be released; trying again");
                                    tokio::time::sleep(RETRY).await;
                                }
                            }
                        }
                        self.here.store(false, Ordering::Relaxed);
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
                    Ok(VipEvent::AddressLost { spec, at }) if self.held.as_ref().is_some_and(|held| held.claimed) => {
                        self.here.store(false, Ordering::Relaxed);
                        match self.hold(Addresses::claim).await {
                            Ok(true) => {
                                let took_us = boottime_ns().saturating_sub(at) / 1000;
                                let _ = self.announcer.announce(&spec);
                                note(format!("{spec} was taken off by another program; put back after {took_us} us"));
                            }
                            // The lease is over, and with it the right to the address: it expired, or
                            // this process slept. The core's order to release is on its way.
                            Ok(false) => {}
                            Err(error) => tracing::error!(vip = %spec, %error, "a virtual address was taken off and cannot be put back yet"),
                        }
                    }
                    Ok(VipEvent::LinkUp { interface }) => {
                        if let Err(error) = self.gate.repair() {
                            tracing::error!(%error, interface, "the gate could not be put on an interface that came up");
                        }
                        look_at = Instant::now();
                        if let Some(held) = &mut self.held {
                            held.act_at = Instant::now();
                            held.next_announcement = 0;
                            held.since = Instant::now();
                        }
                    }
                    Ok(VipEvent::Overrun) => {
                        if let Some(held) = &mut self.held {
                            held.refresh_at = Instant::now();
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, "the watch over the addresses ended; beginning it anew");
                        tokio::time::sleep(RETRY).await;
                        watch = Watch::open(self.specs.clone(), &[]).await.ok();
                    }
                },
                () = tokio::time::sleep_until(look_at) => {}
                () = tokio::time::sleep_until(due) => self.act(&report, &note).await,
            }
        }
    }

    /// Claims or refreshes, if the lease allows it; says whether it did.
    ///
    /// The lease is looked at before and after: a process that slept in between has put up an address
    /// that it has no right to any more, and takes it off again.
    async fn hold(
        &self,
        how: impl AsyncFn(&Addresses, Duration) -> Result<(), holdfast_vip::VipError>,
    ) -> Result<bool, holdfast_vip::VipError> {
        let epoch = self.held.as_ref().map(|held| held.epoch);
        let entitled = || epoch.is_some() && self.lease.held(now()) == epoch;
        if !entitled() {
            return Ok(false);
        }
        how(&self.addresses, self.lifetime).await?;
        if !entitled() {
            self.addresses.release().await?;
            self.here.store(false, Ordering::Relaxed);
            return Ok(false);
        }
        self.here.store(true, Ordering::Relaxed);
        Ok(true)
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
            held.act_at = now + RETRY;
            held.refresh_at = now + RETRY;
        }
    }

    /// Claims, announces or refreshes, whichever is due.
    async fn act(&mut self, report: &impl Fn(Event), note: &impl Fn(String)) {
        let Some(held) = &mut self.held else { return };
        let now = Instant::now();
        let claiming = !held.claimed;
        if claiming {
            // The interface may have been made anew since the gate was put on it.
            if let Err(error) = self.gate.repair() {
                note(format!(
                    "the kernel gate cannot be put on the interface: {error}; the addresses' lifetime alone ends them"
                ));
            }
            // A shut gate would swallow the announcement.
            if let Err(error) = self.lease.settle(SETTLE_LIMIT).await {
                tracing::warn!(%error, "the kernel gate is not open yet");
            }
            let outcome = self.hold(Addresses::claim).await;
            let Some(held) = &mut self.held else { return };
            match outcome {
                Ok(true) => {
                    held.claimed = true;
                    held.since = Instant::now();
                    held.next_announcement = 0;
                }
                Ok(false) => return self.wait_for_the_core(now),
                Err(error) => {
                    let trouble = error.to_string();
                    if held.trouble.as_ref() != Some(&trouble) {
                        note(format!("the virtual addresses cannot be claimed: {trouble}; trying again"));
                        held.trouble = Some(trouble);
                    }
                    return self.wait_for_the_core(now);
                }
            }
        } else if now >= held.refresh_at {
            held.refresh_at = now + REFRESH_EVERY;
            match self.hold(Addresses::refresh).await {
                Ok(true) => {}
                Ok(false) => return self.wait_for_the_core(now),
                Err(error) => {
                    tracing::warn!(%error, "the lifetime of the virtual addresses could not be extended");
                }
            }
        }
        let Some(held) = &mut self.held else { return };
        let mut due = announcement_times().skip(held.next_announcement);
        let mut next = due.next().expect("announcements have no end");
        let mut announced = false;
        while held.since + next <= Instant::now() {
            announced = true;
            held.next_announcement += 1;
            next = due.next().expect("announcements have no end");
        }
        held.act_at = held.since + next;
        if announced {
            for spec in &self.specs {
                if let Err(error) = self.announcer.announce(spec) {
                    tracing::warn!(vip = %spec, %error, "a virtual address could not be announced");
                }
            }
        }
        // However many announcements were due by now: one is out, and the core waits to hear of it.
        if claiming {
            report(Event::VipClaimed { epoch: held.epoch });
        }
    }
}

/// Looks whether the gate still stands, and puts it back.
struct GateWatch {
    gate: Arc<dyn Gate>,
    named: bool,
    /// How often it was known to have put itself back.
    restored: u64,
    /// Looks in a row that found it gone and could not put it back.
    gone: u32,
    /// What the core was told.
    lost: Option<String>,
}

impl GateWatch {
    fn new(gate: Arc<dyn Gate>, named: bool) -> GateWatch {
        GateWatch { gate, named, restored: 0, gone: 0, lost: None }
    }

    /// Puts the gate on interfaces that were made anew.
    fn repair(&mut self) -> std::io::Result<()> {
        self.restored = self.gate.repair()?.restored;
        Ok(())
    }

    fn look(&mut self, report: &impl Fn(Event), note: &impl Fn(String)) {
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
            Ok(health) if health.ungated().is_empty() => None,
            Ok(health) => {
                let missing = health.ungated().join(", ");
                match self.gate.repair() {
                    Ok(health) if health.ungated().is_empty() => {
                        self.restored = health.restored;
                        note(format!("the kernel gate was missing on {missing}; it was put back"));
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
