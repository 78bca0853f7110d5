//! One device: switches a member off by its agent, asks whether it is, and tries again.
//!
//! Invariant: what goes to an agent goes to its stdin and nowhere else, and what it says is shown without any value
//! that it was told.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_config::FenceDevice;
use holdfast_config::fence::{FENCE_RETRY_PAUSE, FENCE_RUN_ALLOWANCE};
use tokio::sync::watch;

use super::board::FenceBoard;
use super::told;
use crate::runtime::hooks::BEYOND_LIMIT;
use crate::runtime::hooks::keeper::Ended;
use crate::runtime::hooks::run::run_with_input;
use crate::runtime::programs::PATH;

/// The limit that the core is told counts with what killing a run may take.
const _: () = assert!(BEYOND_LIMIT.as_millis() <= FENCE_RUN_ALLOWANCE.as_millis());

/// `status` of an agent: the plug is on.
const ON: i32 = 0;
/// `status` of an agent: the plug is off.
const OFF: i32 = 2;

/// How long between two questions whether it is off: power supplies take a moment.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Shortest time that a last question is worth asking for.
const LEAST_LEFT: Duration = Duration::from_millis(100);

/// Longest part of what an agent said that stands in a message.
const SAID_BYTES: usize = 400;

/// Why a member is not off.
#[derive(Debug)]
pub(super) enum Failure {
    /// The order was called off before anything was done by this device.
    CalledOff,
    /// In words, with the device's name.
    Failed(String),
}

/// A device and what is needed to use it.
pub(super) struct Device<'a> {
    pub program: &'a Path,
    pub device: &'a FenceDevice,
    pub board: &'a FenceBoard,
}

impl Device<'_> {
    /// Switches `member` off, and has the device say so where it is asked.
    pub(super) async fn switch_off(&self, member: &str, wanted: &AtomicBool) -> Result<(), Failure> {
        self.board.begin(&self.device.name, member);
        let outcome = self.try_to_switch_off(member, wanted).await;
        let said = match &outcome {
            Ok(()) => format!("{member} is off"),
            Err(Failure::CalledOff) => format!("switching {member} off was called off"),
            Err(Failure::Failed(why)) => why.clone(),
        };
        self.board.end(&self.device.name, outcome.is_ok(), said);
        outcome
    }

    async fn try_to_switch_off(&self, member: &str, wanted: &AtomicBool) -> Result<(), Failure> {
        let mut why = String::new();
        for attempt in 0..=self.device.retries {
            if attempt > 0 {
                tokio::time::sleep(FENCE_RETRY_PAUSE).await;
                if !wanted.load(Ordering::Relaxed) {
                    return Err(Failure::CalledOff);
                }
            }
            // Off, and said to be off: a device may do it and be too slow to say so.
            let switched = self.run("off", member, self.device.timeout).await.and_then(exited_well);
            match (switched, self.device.verify) {
                (Ok(()), false) => return Ok(()),
                (switched, true) => match self.wait_until_off(member).await {
                    Ok(()) => return Ok(()),
                    Err(status) => {
                        why = switched.err().map_or(status.clone(), |error| format!("{error}; {status}"));
                    }
                },
                (Err(error), false) => why = error,
            }
        }
        let tries = self.device.retries + 1;
        Err(Failure::Failed(format!("fence device {} ({tries} tries): {why}", self.device.name)))
    }

    async fn wait_until_off(&self, member: &str) -> Result<(), String> {
        let until = Instant::now() + self.device.timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(LEAST_LEFT);
            let status = self.run("status", member, left).await;
            let why = match status {
                Ok((Ended::Exited(OFF), _)) => return Ok(()),
                Ok((Ended::Exited(ON), _)) => format!("it says that {member} is on"),
                Ok((ended, said)) => in_words("status", &ended, &said),
                Err(error) => error,
            };
            if Instant::now() + ASK_EVERY + LEAST_LEFT >= until {
                return Err(why);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Switches `member` on.
    pub(super) async fn switch_on(&self, member: &str) -> Result<(), String> {
        let ran = self.run("on", member, self.device.timeout).await.and_then(exited_well);
        ran.map_err(|error| format!("fence device {}: {error}", self.device.name))
    }

    /// Looks whether the device answers.
    pub(super) async fn look(&self) -> Result<(), String> {
        let ran = self.run_for("monitor", None, self.device.timeout).await.and_then(exited_well);
        let outcome =
            ran.map_err(|error| format!("fence device {} does not answer: {error}", self.device.name));
        self.board.looked(&self.device.name, outcome.as_ref().err().cloned());
        outcome
    }

    async fn run(&self, action: &str, member: &str, limit: Duration) -> Result<(Ended, String), String> {
        let plug = self.device.target(member).and_then(|target| target.plug.as_deref());
        self.run_for(action, plug, limit).await
    }

    async fn run_for(
        &self,
        action: &str,
        plug: Option<&str>,
        limit: Duration,
    ) -> Result<(Ended, String), String> {
        let command = [self.device.agent.to_string_lossy().into_owned()];
        let environment =
            [("PATH", PATH.to_owned()), ("LANG", "C.UTF-8".to_owned()), ("HOME", "/".to_owned())];
        let (_on, never_off) = watch::channel(false);
        let input = told(self.device, action, plug);
        let ran = run_with_input(self.program, &command, &environment, &input, limit, never_off).await;
        let said = without_secrets(self.device, &ran.output);
        match ran.ended {
            Ended::NotStarted(why) => Err(format!("{} could not be run: {why}", self.device.agent.display())),
            ended @ (Ended::LimitReached { .. } | Ended::CalledOff { .. } | Ended::Signalled(_)) => {
                Err(in_words(action, &ended, &said))
            }
            ended => Ok((ended, said)),
        }
    }
}

fn exited_well((ended, said): (Ended, String)) -> Result<(), String> {
    if ended == Ended::Exited(0) { Ok(()) } else { Err(in_words("the agent", &ended, &said)) }
}

fn in_words(what: &str, ended: &Ended, said: &str) -> String {
    let how = match ended {
        Ended::Exited(status) => format!("{what} ended with exit status {status}"),
        Ended::Signalled(signal) => format!("{what} was ended by {signal}"),
        Ended::LimitReached { .. } => format!("{what} took longer than its limit and was killed"),
        Ended::CalledOff { .. } => format!("{what} was killed"),
        Ended::NotStarted(why) => format!("{what} could not be run: {why}"),
    };
    if said.is_empty() { how } else { format!("{how} ({said})") }
}

/// The end of what an agent said, in one line. Whatever it was told of a secret is starred: what it was told was its
/// whole input, and agents repeat that when they are told to be verbose, or are not pleased.
fn without_secrets(device: &FenceDevice, output: &str) -> String {
    // The first line may begin in the middle of a value.
    let output =
        output.strip_prefix("… ").map_or(output, |cut| cut.split_once('\n').map_or("", |(_, rest)| rest));
    let mut text = output.to_owned();
    let mut values: Vec<&str> = device.params.iter().map(|(_, value)| value.expose()).collect();
    // The longest first: one may be a part of another.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    for value in values.into_iter().filter(|value| value.len() > 1) {
        text = text.replace(value, "***");
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let from = line.floor_char_boundary(line.len().saturating_sub(SAID_BYTES));
    line[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_config::{FenceTarget, Secret};

    fn device() -> FenceDevice {
        FenceDevice {
            name: "x".into(),
            agent: "/bin/true".into(),
            targets: vec![FenceTarget { member: "b".into(), plug: Some("3".into()) }],
            level: 1,
            delay: Duration::ZERO,
            timeout: Duration::from_secs(1),
            retries: 0,
            verify: true,
            reboot: false,
            monitor_interval: Duration::from_secs(60),
            params: vec![
                ("username".into(), Secret::new("hunter")),
                ("password".into(), Secret::new("hunter2")),
            ],
        }
    }

    #[test]
    fn an_agent_is_told_the_action_the_plug_and_the_parameters() {
        let text = String::from_utf8(told(&device(), "off", Some("3"))).unwrap();
        assert_eq!(text, "action=off\nplug=3\nusername=hunter\npassword=hunter2\n");
    }

    #[test]
    fn what_an_agent_was_told_is_not_shown_when_it_repeats_it() {
        let said = without_secrets(&device(), "login hunter with hunter2 failed\nTraceback\n");
        assert_eq!(said, "login *** with *** failed Traceback");
        assert_eq!(without_secrets(&device(), "… ter2 is cut\nthe rest"), "the rest");
    }
}
