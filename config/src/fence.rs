//! Fence devices: what can switch another member off, in types that cannot say anything else.
//!
//! Nothing here runs or reads anything. Invariant: an agent is an absolute path, a device is for at least one
//! member, and what goes to an agent beside the action is kept as a secret, whatever it is.

use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

/// How long one run of an agent may take where the file says nothing: a management controller that is asked over
/// the network answers within some seconds, and an agent in Python takes one to begin.
pub const DEFAULT_FENCE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the standby of a pair waits before it shoots where the file says nothing: longer than a device takes to
/// cut the power, so that of two who shoot the primary is the first.
pub const DEFAULT_FENCE_DELAY: Duration = Duration::from_secs(5);

/// Time between two looks at a device where the file says nothing.
pub const DEFAULT_MONITOR_INTERVAL: Duration = Duration::from_secs(60);

/// What one run may take beyond its limit, to be killed with all that it has started.
pub const FENCE_RUN_ALLOWANCE: Duration = Duration::from_secs(2);

/// Pause between two tries of one device.
pub const FENCE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A device, or an agent that stands for one.
#[derive(Clone, Debug)]
pub struct FenceDevice {
    /// The block's label.
    pub name: String,
    /// The agent: a program that speaks the interface of `fence-agents`.
    pub agent: PathBuf,
    /// Whom it can switch off; at least one.
    pub targets: Vec<FenceTarget>,
    /// From 1 to 9: tried in this order. All devices of one level have to succeed.
    pub level: u8,
    /// How long the standby of a pair without a witness waits before it uses it.
    pub delay: Duration,
    /// How long one run of the agent may take.
    pub timeout: Duration,
    /// Tries after the first one.
    pub retries: u32,
    /// Whether the device is asked afterwards, and has to say that the member is off.
    pub verify: bool,
    /// Whether the member is switched on again when it is confirmed to be off.
    pub reboot: bool,
    /// Time between two looks whether the device answers.
    pub monitor_interval: Duration,
    /// What the agent is told on its stdin beside the action: key and value.
    pub params: Vec<(String, Secret)>,
}

/// A member that a device can switch off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceTarget {
    /// Its `node_id`.
    pub member: String,
    /// What the device calls it: an outlet, a virtual machine. `None` where the device has one only.
    pub plug: Option<String>,
}

impl FenceDevice {
    /// The longest that it may take to switch one member off: every try, and every look whether it worked.
    pub fn longest(&self) -> Duration {
        let runs = if self.verify { 2 } else { 1 };
        let tries = self.retries + 1;
        (self.timeout + FENCE_RUN_ALLOWANCE) * runs * tries + FENCE_RETRY_PAUSE * self.retries
    }

    /// How it calls `member`, if it can switch it off.
    pub fn target(&self, member: &str) -> Option<&FenceTarget> {
        self.targets.iter().find(|target| target.member == member)
    }
}
