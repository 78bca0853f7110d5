//! The command line: parses, dispatches, and turns outcomes into an exit status.
//!
//! Each command is a thin caller: `agent` and `lab` hand over to the parts of that name, `config check`
//! to the configuration's own reader, `ha`, `replication` and `store` to a running agent's API. Nothing about
//! the cluster is decided here.
//!
//! Exit status: 0 done, 1 refused or failed, 2 usage, 3 the cluster is not healthy (`ha status`, `ha check`, `ha may-restart`).

mod archives;
mod archives_view;
pub mod args;
mod audit_view;
mod check_view;
pub(crate) mod client;
mod cluster_view;
mod config_check;
mod discreet;
mod ha;
mod history_view;
mod may_restart;
pub(crate) mod paint;
mod replay;
mod replay_view;
mod replication;
mod replication_view;
mod reset;
mod resync;
pub(crate) mod status_view;
mod store;
mod store_view;
#[cfg(test)]
mod tests;
mod words;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use args::{Cli, Command, ConfigCommand};

/// Something failed or was refused.
const FAILED: u8 = 1;
/// The arguments do not say what is needed.
const USAGE: u8 = 2;
/// The cluster is not healthy.
pub(crate) const UNHEALTHY: u8 = 3;

/// Runs the command that the arguments of this process name.
///
/// Must be called while the program has a single thread: the lab and the supervisor start processes in
/// ways that the kernel allows to such a program only.
pub fn run() -> ExitCode {
    // Usage errors end the process here, with status 2.
    match Cli::parse().command {
        Command::Agent(args) => crate::runtime::supervisor::run(&args.config, args.supervised),
        Command::Sweep { config } => told(crate::runtime::sweep::run(&config).and_then(|words| {
            say(&words)?;
            Ok(ExitCode::SUCCESS)
        })),
        Command::Config { command: ConfigCommand::Check { file } } => config_check::check(&file),
        Command::Ha(args) => told(discreetly(|| ha::run(args))),
        Command::Replication(args) => told(discreetly(|| replication::run(args))),
        Command::Store(args) => told(discreetly(|| store::run(args))),
        Command::Init(args) => told(crate::setup::init(args)),
        Command::Join(args) => told(discreet::hide_join_token().and_then(|()| crate::setup::join(args))),
        Command::Lab(args) => told(crate::lab::run(args)),
        Command::HookKeeper(args) => crate::runtime::hooks::keeper::main(&args),
        Command::LabHost(args) => told(crate::lab::host::main(args)),
    }
}

/// Runs a command that may have been given a token, once that does not stand in the arguments.
fn discreetly(command: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    discreet::hide_token()
        .context("the token could not be hidden from other users; use --token-file FILE")?;
    command()
}

/// Says on stderr why a command failed.
fn told(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("holdfast: {error:#}");
        ExitCode::from(if error.is::<crate::setup::Usage>() { USAGE } else { FAILED })
    })
}

/// Writes to stdout. A reader that went away (`| head`) is no failure.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes an answer of the API as it is, indented.
fn say_json(value: &serde_json::Value) -> anyhow::Result<()> {
    say(&format!("{value:#}\n"))
}
