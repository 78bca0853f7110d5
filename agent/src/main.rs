//! The `holdfast` binary: sets up the log output and hands over to the command line.

use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Without locks between threads, which are of different urgencies. `runtime::supervisor` has it take no memory ahead.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged where `HOLDFAST_LOG` does not say. The S3 libraries would log every answer that is an
/// error to a client, such as a missing key, as an error of ours.
const DEFAULT_FILTER: &str = "info,s3s=off,object_store=off";

fn main() -> ExitCode {
    log_to_stderr();
    holdfast_agent::cli::run()
}

/// `HOLDFAST_LOG` filters (`info`, `holdfast_agent=debug`, ...); `HOLDFAST_LOG_FORMAT=json` is for machines.
fn log_to_stderr() {
    let filter = std::env::var("HOLDFAST_LOG").ok().filter(|filter| !filter.is_empty());
    let (filter, complaint) = match EnvFilter::try_new(filter.as_deref().unwrap_or(DEFAULT_FILTER)) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
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
