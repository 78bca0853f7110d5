//! What a host's kernel holds of the address, and goes on holding when the agent is dead: the address with
//! its lifetime, and the gate before it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_heartbeat::Time;
use holdfast_vip::gate::{Ending, Gate, GateHealth, OPEN, SHUT};

/// Which gate the hosts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    /// An absolute deadline, as eBPF has it.
    Absolute,
    /// A time that begins anew with each renewal, as nftables has it: it ends late, by one lease at worst. Here it
    /// always does, unless it is shut.
    Relative,
    /// Nothing but the lifetime of the address.
    LifetimeOnly,
}

impl GateKind {
    /// Every kind.
    pub const ALL: [GateKind; 3] = [GateKind::Absolute, GateKind::Relative, GateKind::LifetimeOnly];
}

/// The simulated kernel's gate: the deadlines outlive the process that set them.
#[derive(Debug)]
pub struct SimGate {
    kind: GateKind,
    /// How late it ends, in nanoseconds.
    excess_ns: AtomicU64,
    address_until: AtomicU64,
    ports_until: AtomicU64,
    attached: AtomicBool,
}

impl Gate for SimGate {
    fn name(&self) -> &'static str {
        match self.kind {
            GateKind::Absolute => "simulated, absolute",
            GateKind::Relative => "simulated, relative",
            GateKind::LifetimeOnly => "simulated, lifetime only",
        }
    }

    fn allow_address_until(&self, boottime_ns: u64) -> io::Result<()> {
        self.attached.store(true, Ordering::Relaxed);
        self.address_until.store(boottime_ns, Ordering::Relaxed);
        Ok(())
    }

    fn allow_ports_until(&self, boottime_ns: u64) -> io::Result<()> {
        self.attached.store(true, Ordering::Relaxed);
        self.ports_until.store(boottime_ns, Ordering::Relaxed);
        Ok(())
    }

    fn check(&self) -> io::Result<GateHealth> {
        Ok(GateHealth { attached: vec!["service".into()], ..GateHealth::default() })
    }

    fn repair(&self) -> io::Result<GateHealth> {
        self.check()
    }

    fn detach(&self) -> io::Result<()> {
        self.attached.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn ending(&self) -> Ending {
        match self.kind {
            GateKind::Absolute => Ending::Absolute,
            GateKind::Relative => Ending::Relative,
            GateKind::LifetimeOnly => Ending::Lifetime,
        }
    }
}

impl SimGate {
    /// How late it may end, with the lease of the agent that starts now.
    pub fn set_excess(&self, excess: Duration) {
        self.excess_ns.store(excess.as_nanos() as u64, Ordering::Relaxed);
    }

    fn deadline(&self, until: &AtomicU64) -> Time {
        let until = Time(until.load(Ordering::Relaxed));
        match self.kind {
            _ if !self.attached.load(Ordering::Relaxed) => Time::NEVER,
            GateKind::LifetimeOnly => Time::NEVER,
            GateKind::Relative if until != Time(SHUT) && until != Time(OPEN) => {
                until + Duration::from_nanos(self.excess_ns.load(Ordering::Relaxed))
            }
            GateKind::Absolute | GateKind::Relative => until,
        }
    }
}

/// One host's kernel, from power-on to power-off.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The gate; shared with the agent that moves it.
    pub gate: Arc<SimGate>,
    /// Until when the address stays on the interface, on the host's clock, if it is there.
    pub address_until: Option<Time>,
}

impl Kernel {
    /// A kernel after power-on.
    pub fn new(kind: GateKind) -> Kernel {
        let gate = SimGate {
            kind,
            excess_ns: AtomicU64::new(0),
            address_until: AtomicU64::new(SHUT),
            ports_until: AtomicU64::new(OPEN),
            attached: AtomicBool::new(false),
        };
        Kernel { gate: Arc::new(gate), address_until: None }
    }

    /// Whether the address is on the interface at `now`.
    pub fn has_address(&self, now: Time) -> bool {
        self.address_until.is_some_and(|until| now < until)
    }

    /// Whether a packet to or from the address passes at `now`: it is here, and the gate is open.
    pub fn answers_on_address(&self, now: Time) -> bool {
        self.has_address(now) && now < self.gate_deadline()
    }

    /// Until when the gate lets packets of the address pass.
    pub fn gate_deadline(&self) -> Time {
        self.gate.deadline(&self.gate.address_until)
    }

    /// Whether the service port is open at `now` on the host's own address.
    pub fn port_open(&self, now: Time) -> bool {
        now < self.gate.deadline(&self.gate.ports_until)
    }
}
