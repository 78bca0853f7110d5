//! The `holdfast` binary: sets up the log output and hands over to the command line.

use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    log_to_stderr();
    holdfast_agent::cli::run()
}

/// `HOLDFAST_LOG` filters (`info`, `holdfast_agent=debug`, ...); `HOLDFAST_LOG_FORMAT=json` is for machines.
fn log_to_stderr() {
    let filter = std::env::var("HOLDFAST_LOG").ok().filter(|filter| !filter.is_empty());
    let (filter, complaint) = match EnvFilter::try_new(filter.as_deref().unwrap_or("info")) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var_os("HOLDFAST_LOG_FORMAT").is_some_and(|format| format == "json") {
        subscriber.json().flatten_event(true).init();
    } else {
        subscriber.with_ansi(std::io::stderr().is_terminal()).init();
    }
    if let Some(error) = complaint {
        tracing::warn!(%error, "HOLDFAST_LOG cannot be understood; logging at info");
    }
}
