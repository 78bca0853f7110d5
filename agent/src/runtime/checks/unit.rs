//! A systemd unit is active, by the exit status of `systemctl is-active` (systemctl(1): 0 where it is).
//!
//! A question once a second does not need a D-Bus library with its forty crates in the agent: the program
//! belongs to the systemd that it asks, and hangs, if it does, in a process that is killed at the limit.

use super::exec::Exec;

pub(super) fn is_active(check: &str, unit: &str) -> Exec {
    let argv = ["systemctl", "is-active", "--", unit];
    Exec::new(check, argv.map(str::to_owned).to_vec())
}
