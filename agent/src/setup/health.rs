//! Waiting until the new cluster serves, as its first member sees it.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::say;
use crate::cli::client::{Client, shaped};
use crate::cli::{UNHEALTHY, paint::Paint, status_view};
use crate::runtime::status::Status;

/// How long a new cluster may take: hosts that start at once are through in seconds, slow ones in tens of them.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks the agent of this host until all is well, or for two minutes; says what it waits for, and what it found.
///
/// # Errors
/// Nobody answers at all.
pub(super) fn wait() -> Result<ExitCode> {
    let client = Client::of_this_host();
    let end = Instant::now() + LIMIT;
    let mut said = String::new();
    loop {
        let status = client.get("/api/ha/status").and_then(shaped::<Status>);
        let over = Instant::now() > end;
        match status {
            Ok(status) if status.healthy || over => {
                say("");
                say(status_view::render(&status, Paint::for_stdout()).trim_end());
                let healthy = status.healthy;
                return Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(UNHEALTHY) });
            }
            Ok(status) => {
                let waits = status.waiting_for.or_else(|| status.warnings.into_iter().next());
                let waits = waits.unwrap_or_else(|| "the members find each other".to_owned());
                if waits != said {
                    say(&format!("Waiting: {waits}"));
                    said = waits;
                }
            }
            Err(error) if over => return Err(error),
            // It is about to begin.
            Err(_) => {}
        }
        thread::sleep(PAUSE);
    }
}
