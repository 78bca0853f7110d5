//! `holdfast replication`: the log as the agent on this host sees it.

use std::process::ExitCode;

use anyhow::Result;

use super::args::{ReplicationArgs, ReplicationCommand};
use super::client::{Client, shaped};
use super::paint::Paint;
use super::{replication_view, say, say_json};

pub(super) fn run(args: ReplicationArgs) -> Result<ExitCode> {
    let client = Client::new(&args.api)?;
    let path = match args.command {
        ReplicationCommand::Status => "/api/replication/status",
        ReplicationCommand::Stats => "/api/replication/stats",
    };
    let answer = client.get(path)?;
    match args.command {
        _ if args.api.json => say_json(&answer)?,
        ReplicationCommand::Status => say(&replication_view::status(&shaped(answer)?, Paint::for_stdout()))?,
        ReplicationCommand::Stats => say(&replication_view::stats(&shaped(answer)?))?,
    }
    Ok(ExitCode::SUCCESS)
}
