//! Programs and units that follow the role of primary, in types that cannot say anything else.
//!
//! Nothing here runs or reads anything. Invariant: a command has at least one word, the first of which is
//! an absolute path; every time limit is at least [`MIN_LIMIT`].

use std::time::Duration;

/// How long a hook may take where the file says nothing: long enough for a routing daemon or a load
/// balancer to be told, short enough that a hook that hangs is an outage of seconds and not of minutes.
pub const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a unit may take to start or to stop where the file says nothing.
pub const DEFAULT_UNIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Shortest limit: starting a program takes some of it.
pub(crate) const MIN_LIMIT: Duration = Duration::from_millis(100);

/// Longest limit: a takeover that waits longer is no takeover.
pub(crate) const MAX_LIMIT: Duration = Duration::from_secs(600);

/// A program that is run at a change of role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The block's label, or the key that it was written with.
    pub name: String,
    /// When it is run; at least one.
    pub on: Vec<HookEvent>,
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// After this time the program and all that it started are killed.
    pub timeout: Duration,
    /// A failure gives the takeover up. Only with [`HookEvent::PrePrimary`].
    pub veto: bool,
}

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookEvent {
    /// Taking over: the log is complete, the address is not here yet.
    PrePrimary,
    /// This member is primary and has the address.
    Primary,
    /// Handing over in a planned switchover: the address is still here.
    PreStandby,
    /// The role and the address are gone.
    Standby,
    /// The role was lost because this host cannot do the work: its disk or its links failed.
    Fault,
    /// The agent ends.
    Stop,
}

impl HookEvent {
    /// Every event, in the order of a reign.
    pub const ALL: [HookEvent; 6] = [
        HookEvent::PrePrimary,
        HookEvent::Primary,
        HookEvent::PreStandby,
        HookEvent::Fault,
        HookEvent::Standby,
        HookEvent::Stop,
    ];

    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            HookEvent::PrePrimary => "pre_primary",
            HookEvent::Primary => "primary",
            HookEvent::PreStandby => "pre_standby",
            HookEvent::Standby => "standby",
            HookEvent::Fault => "fault",
            HookEvent::Stop => "stop",
        }
    }
}

/// A systemd unit that runs where the primary is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The block's label.
    pub name: String,
    /// The unit, with its type: `haproxy.service`.
    pub unit: String,
    /// How long its start may take.
    pub start_timeout: Duration,
    /// How long its stop may take.
    pub stop_timeout: Duration,
    /// What a failed start means for the takeover.
    pub on_failure: OnFailure,
}

/// What a failed start of a unit means for the takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The takeover goes on.
    Ignore,
    /// The role is left to another member, where there is one.
    GiveUp,
}
