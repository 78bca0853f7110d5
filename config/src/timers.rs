//! Derives every timer of a member from its `ha` block, and adds up the outage that they allow.
//!
//! Pure arithmetic. Never decides what to do when a timer fires. Invariant: a voter waits longer for a
//! lease to lapse than its holder may use it, by the drift margin, on clocks whose rates differ by up
//! to one percent (rule R4).

use std::time::Duration;

use crate::model::{GateChoice, Ha};
use crate::quantity::show;

/// Shortest window in which a conflict probe can be answered on a busy local network.
pub const PROBE_WINDOW_MIN: Duration = Duration::from_millis(15);

/// Longest window: three probes 50 ms apart are as good as any greater number.
pub const PROBE_WINDOW_MAX: Duration = Duration::from_millis(150);

/// The vote, its durable record, and the epoch-start record, on an ordinary disk.
const PROMOTE_TYPICAL: Duration = Duration::from_millis(15);

/// The same on a disk that is busy with something else. A stalled one takes longer, and is not covered.
const PROMOTE_WORST: Duration = Duration::from_millis(250);

/// An address set and announced once.
const ANNOUNCE_TYPICAL: Duration = Duration::from_millis(2);

/// The first announcement lost, and the second heard.
const ANNOUNCE_WORST: Duration = Duration::from_millis(100);

/// Which gate stands in the kernel at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateInUse {
    /// An absolute deadline: nothing is added to the lease.
    Ebpf,
    /// A relative timeout: renewed late, it can last one lease more.
    Nftables,
    /// Only the lifetime of the address, in whole seconds.
    None,
}

/// The timers of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    /// Time between two heartbeats.
    pub interval: Duration,
    /// Heartbeats missed in a row.
    pub threshold: u32,
    /// Silence after which a member is held to be gone: `interval * threshold`, or `failure_timeout`.
    pub detect: Duration,
    /// How long a primary may serve after the sending of the last heartbeat that a majority answered.
    pub lease: Duration,
    /// What a voter adds for clocks that run at different rates: `lease / 100 + 1 ms`.
    pub drift_margin: Duration,
    /// How long a voter refuses other candidates after it renewed a lease: `lease + drift_margin`.
    pub voter_wait: Duration,
    /// How long a voter refuses every candidate after a restart: the same.
    pub restart_wait: Duration,
    /// How long a conflict probe waits for an answer; it runs beside the promotion.
    pub probe_window: Duration,
    /// What the gate in use cannot promise: time for which a dead agent's address may outlast its lease.
    /// A member that takes the address over waits this long on top of `voter_wait`.
    pub gate_extra: Duration,
    /// The parts of an unplanned outage, in the order in which they pass.
    pub outage: Vec<OutagePart>,
}

/// One part of an unplanned outage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutagePart {
    /// Short name: `detect`, `remaining lease`, `margin`, `gate`, `promote`, `announce`.
    pub name: &'static str,
    /// What is to be expected.
    pub typical: Duration,
    /// What the timers allow.
    pub worst: Duration,
    /// One line of explanation.
    pub why: String,
}

impl Derived {
    /// The timers under the gate that is in use.
    pub fn new(ha: &Ha, gate: GateInUse) -> Derived {
        let interval = ha.heartbeat_interval;
        let detect = ha.detect();
        let lease = ha.lease();
        let drift_margin = lease / 100 + Duration::from_millis(1);
        let voter_wait = lease + drift_margin;
        let mut derived = Derived {
            interval,
            threshold: ha.failure_threshold,
            detect,
            lease,
            drift_margin,
            voter_wait,
            restart_wait: voter_wait,
            probe_window: interval.clamp(PROBE_WINDOW_MIN, PROBE_WINDOW_MAX),
            gate_extra: gate_extra(lease, gate),
            outage: Vec::new(),
        };
        derived.outage = derived.outage_parts(gate);
        derived
    }

    /// The timers where nothing is known yet about the kernel: `auto` counts as eBPF.
    pub fn expected(ha: &Ha) -> Derived {
        Derived::new(ha, GateInUse::expected(ha.gate))
    }

    /// The sum of what is to be expected.
    pub fn typical_outage(&self) -> Duration {
        self.outage.iter().map(|part| part.typical).sum()
    }

    /// The sum of what the timers allow.
    pub fn worst_outage(&self) -> Duration {
        self.outage.iter().map(|part| part.worst).sum()
    }

    fn outage_parts(&self, gate: GateInUse) -> Vec<OutagePart> {
        let half = self.interval / 2;
        let remaining = self.lease.saturating_sub(self.detect);
        let remaining_why = if remaining.is_zero() {
            "the lease runs out while the failure is being noticed".to_owned()
        } else {
            format!("the lease ({}) outlasts the detection", show(self.lease))
        };
        // Where the lease is the shorter one, its margin passes during the detection as well.
        let margin = self.voter_wait.saturating_sub(self.detect.max(self.lease));
        let part = |name, typical, worst, why| OutagePart { name, typical, worst, why };
        vec![
            part(
                "detect",
                self.detect.saturating_sub(half),
                self.detect,
                format!(
                    "silence of {}; the failure falls half an interval into it on average",
                    show(self.detect)
                ),
            ),
            part("remaining lease", remaining, remaining, remaining_why),
            part("margin", margin, margin, "clocks may run at different rates: lease / 100 + 1ms".to_owned()),
            part("gate", self.gate_extra, self.gate_extra, gate_why(self.lease, gate)),
            part(
                "promote",
                PROMOTE_TYPICAL.max(self.probe_window),
                PROMOTE_WORST.max(self.probe_window),
                format!(
                    "vote and epoch durable on disk (estimate), a conflict probe of {} beside it",
                    show(self.probe_window)
                ),
            ),
            part(
                "announce",
                ANNOUNCE_TYPICAL,
                ANNOUNCE_WORST,
                "address set and announced (estimate); the worst loses the first announcement".to_owned(),
            ),
        ]
    }
}

impl GateInUse {
    /// The gate to count with before the kernel was asked.
    pub fn expected(choice: GateChoice) -> GateInUse {
        match choice {
            GateChoice::Auto | GateChoice::Ebpf => GateInUse::Ebpf,
            GateChoice::Nftables => GateInUse::Nftables,
            GateChoice::None => GateInUse::None,
        }
    }
}

/// Shortest lifetime of an address, in seconds. One of a single second could end between two refreshes.
const SHORTEST_LIFETIME_SECONDS: u64 = 2;

/// The kernel looks for addresses whose lifetime is over when it suits it, this much later at most: a
/// quarter of a second (`ADDRCONF_TIMER_FUZZ`), for IPv4 and IPv6 alike.
const LIFETIME_LATE: Duration = Duration::from_millis(250);

/// The lifetime that an address carries behind the gate, in whole seconds: the kernel knows no others.
pub fn valid_lft_seconds(lease: Duration) -> u64 {
    let whole = lease.as_secs() + u64::from(lease.subsec_nanos() > 0);
    whole.max(SHORTEST_LIFETIME_SECONDS)
}

fn gate_extra(lease: Duration, gate: GateInUse) -> Duration {
    match gate {
        GateInUse::Ebpf => Duration::ZERO,
        GateInUse::Nftables => lease,
        GateInUse::None => Duration::from_secs(valid_lft_seconds(lease)) + LIFETIME_LATE,
    }
}

fn gate_why(lease: Duration, gate: GateInUse) -> String {
    match gate {
        GateInUse::Ebpf => "eBPF ends the lease at an absolute moment and adds nothing".to_owned(),
        GateInUse::Nftables => "a relative timeout that is renewed late lasts one lease more".to_owned(),
        GateInUse::None => format!(
            "no gate: a dead agent's address lives on for its lifetime, whole seconds only ({}s) and {} of rounding",
            valid_lft_seconds(lease),
            show(LIFETIME_LATE)
        ),
    }
}
