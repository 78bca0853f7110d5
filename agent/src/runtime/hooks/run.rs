//! The agent's side of one hook: starts its keeper, hears how it ended, keeps the end of what it said.
//!
//! Decides nothing about roles. Invariant: [`run`] ends within the limit and what killing takes
//! ([`BEYOND_LIMIT`]), whoever keeps the hook's output open.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::keeper::{Ended, KILL_FOR, TERM_GRACE};
use crate::runtime::programs::Tail;

/// How much of a hook's output is kept: its end, which says how it went.
pub const OUTPUT_BYTES: usize = 4096;

/// What a keeper's own start and end may take on a busy host.
const SLACK: Duration = Duration::from_millis(500);

/// What a run may take beyond its limit.
pub const BEYOND_LIMIT: Duration = TERM_GRACE.saturating_add(KILL_FOR).saturating_add(SLACK);

/// How long output is waited for when the hook has ended: what it said is in the pipe already, and a daemon
/// that it left behind may keep the pipe open for ever.
const LAST_OUTPUT: Duration = Duration::from_millis(50);

/// Longest line with which a keeper says how its hook ended.
const MAX_VERDICT_BYTES: u64 = 64 * 1024;

/// What became of a hook.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub took: Duration,
    /// The end of what it said, [`OUTPUT_BYTES`] at most; what is no UTF-8 is replaced.
    pub output: String,
}

/// Runs `command` with exactly `environment`, killed after `limit`, or as soon as `called_off` becomes true.
/// `program` is the holdfast binary, for the keeper.
pub async fn run(
    program: &Path,
    command: &[String],
    environment: &[(&'static str, String)],
    limit: Duration,
    called_off: watch::Receiver<bool>,
) -> Ran {
    run_with_input(program, command, environment, &[], limit, called_off).await
}

/// Likewise, and tells the program `input` on its stdin.
pub async fn run_with_input(
    program: &Path,
    command: &[String],
    environment: &[(&'static str, String)],
    input: &[u8],
    limit: Duration,
    mut called_off: watch::Receiver<bool>,
) -> Ran {
    let begin = Instant::now();
    let not_started = |error: std::io::Error| Ran {
        ended: Ended::NotStarted(error.to_string()),
        took: begin.elapsed(),
        output: String::new(),
    };
    let mut arguments: Vec<OsString> =
        ["hook-keeper", "--limit-ms", &limit.as_millis().to_string()].map(OsString::from).into();
    if !input.is_empty() {
        arguments.extend(["--input-bytes", &input.len().to_string()].map(OsString::from));
    }
    arguments.push("--".into());
    arguments.extend(command.iter().map(OsString::from));
    let keeper = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut keeper = match keeper {
        Ok(keeper) => keeper,
        Err(error) => return not_started(error),
    };
    let mut control = keeper.stdin.take();
    if let Some(stdin) = control.as_mut().filter(|_| !input.is_empty()) {
        // A keeper that does not take it in says so by its end.
        let _ = timeout(limit, stdin.write_all(input)).await;
    }
    let (Some(mut output), Some(verdict)) = (keeper.stdout.take(), keeper.stderr.take()) else {
        return not_started(std::io::Error::other("its pipes are missing"));
    };
    let mut said = Tail::new(OUTPUT_BYTES);
    let mut spoken = Vec::new();
    let mut verdict = verdict.take(MAX_VERDICT_BYTES);
    let overdue = sleep_until((begin + limit + BEYOND_LIMIT).into());
    tokio::pin!(overdue);
    let mut open = true;
    let mut buffer = [0; OUTPUT_BYTES];
    {
        let hears = verdict.read_to_end(&mut spoken);
        tokio::pin!(hears);
        loop {
            tokio::select! {
                _ = &mut hears => break,
                read = output.read(&mut buffer), if open => match read {
                    Ok(count) if count > 0 => said.add(&buffer[..count]),
                    _ => open = false,
                },
                _ = called_off.wait_for(|off| *off), if control.is_some() => control = None,
                () = &mut overdue => break,
            }
        }
    }
    if open {
        read_what_is_there(&mut output, &mut said).await;
    }
    let ended = serde_json::from_slice(&spoken).unwrap_or_else(|_| {
        Ended::NotStarted(
            "the process that watched over it was killed; what it had started may still run".into(),
        )
    });
    let _ = keeper.start_kill();
    let _ = keeper.wait().await;
    Ran { ended, took: begin.elapsed(), output: said.text() }
}

async fn read_what_is_there(output: &mut (impl AsyncRead + Unpin), said: &mut Tail) {
    let mut buffer = [0; OUTPUT_BYTES];
    let until = Instant::now() + LAST_OUTPUT * 4;
    while Instant::now() < until {
        match timeout(LAST_OUTPUT, output.read(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => said.add(&buffer[..count]),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_output_the_end_is_kept() {
        let mut tail = Tail::new(OUTPUT_BYTES);
        for n in 0..10_000 {
            tail.add(format!("{n}\n").as_bytes());
        }
        let text = tail.text();
        assert!(text.len() <= OUTPUT_BYTES + "… ".len());
        assert!(text.starts_with("… ") && text.ends_with("9998\n9999"), "{text}");
    }
}
