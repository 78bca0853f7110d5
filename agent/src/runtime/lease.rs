//! The lease as everybody outside the core reads it: one number, read without a lock.
//!
//! Whoever is about to answer a client asks [`Lease::held`]; the answer is by the clock at that very
//! moment, so a thread that slept through the end of the lease finds it over when it wakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_heartbeat::{Epoch, Time, planted};
use holdfast_vip::gate::{Gate, OPEN};

/// The lease of this member, shared between the core, which moves it, and the service.
#[derive(Clone)]
pub struct Lease {
    until: Arc<AtomicU64>,
    epoch: Arc<AtomicU64>,
    /// The service answers as a standby: its port is not bound to the lease.
    standby: Arc<AtomicBool>,
    gate: Arc<dyn Gate>,
}

impl Lease {
    /// A lease that is not held. Shuts the addresses; the service ports are open, since a standby
    /// answers there only to send clients on.
    pub fn new(gate: Arc<dyn Gate>) -> Lease {
        let lease = Lease { until: Arc::default(), epoch: Arc::default(), standby: Arc::default(), gate };
        lease.end();
        lease
    }

    /// Moves the deadline, here and in the kernel.
    pub fn extend(&self, epoch: Epoch, until: Time) {
        self.epoch.store(epoch.0, Ordering::Release);
        self.until.store(until.0, Ordering::Release);
        if !self.standby.load(Ordering::Acquire) {
            self.tell("the ports' deadline", self.gate.allow_ports_until(until.0));
        }
        let deadline = if planted::is("gate-without-deadline") { OPEN } else { until.0 };
        self.tell("the addresses' deadline", self.gate.allow_address_until(deadline));
    }

    /// Ends it at once. The order matters: after the first line nothing begins to answer, after the
    /// second nothing that was already answered can leave by the address.
    pub fn end(&self) {
        self.until.store(0, Ordering::Release);
        if !planted::is("gate-not-shut") {
            self.tell("closing", self.gate.close());
        }
    }

    /// The service begins to answer as primary: its port is bound to the lease from now on.
    pub fn bind_ports(&self) {
        self.standby.store(false, Ordering::Release);
        self.tell("the ports' deadline", self.gate.allow_ports_until(self.until.load(Ordering::Acquire)));
    }

    /// The service has closed every connection that it had as primary: its port may answer again.
    pub fn open_ports_for_standby(&self) {
        self.standby.store(true, Ordering::Release);
        self.tell("the ports' deadline", self.gate.allow_ports_until(OPEN));
    }

    /// Waits until the kernel holds what was said last. Not for the core's thread.
    ///
    /// # Errors
    /// It does not within `limit`, and why.
    pub async fn settle(&self, limit: Duration) -> std::io::Result<()> {
        let gate = self.gate.clone();
        match tokio::task::spawn_blocking(move || gate.settle(limit)).await {
            Ok(outcome) => outcome,
            Err(ending) => Err(std::io::Error::other(ending)),
        }
    }

    /// The epoch for which this member may answer at `now`, if it may.
    pub fn held(&self, now: Time) -> Option<Epoch> {
        (now.0 < self.until.load(Ordering::Acquire)).then(|| Epoch(self.epoch.load(Ordering::Acquire)))
    }

    /// The gate behind it.
    pub fn gate(&self) -> &Arc<dyn Gate> {
        &self.gate
    }

    fn tell(&self, what: &str, result: std::io::Result<()>) {
        if let Err(error) = result {
            // The kernel keeps the earlier deadline, which ends the lease sooner: safe, but not silent.
            tracing::error!(%error, gate = self.gate.name(), "the kernel gate refused {what}");
        }
    }
}
