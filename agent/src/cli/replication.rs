//! `holdfast replication`: the log as the agent on this host sees it.

use std::process::ExitCode;

use anyhow::Result;

use super::args::{ReplicationArgs, ReplicationCommand};
use super::client::{Client, shaped};
use super::paint::Paint;
use super::{archives, replication_view, resync, say, say_json};
use crate::runtime::resync::judge::Wishes;

pub(super) fn run(args: ReplicationArgs) -> Result<ExitCode> {
    let client = Client::new(&args.api)?;
    let (path, words): (_, fn(_) -> Result<String>) = match args.command {
        ReplicationCommand::Archives { command } => return archives::run(&client, command, args.api.json),
        ReplicationCommand::Resync { member, yes, keep_old_copy, drop_old_copy_first } => {
            let wishes = Wishes { member, keep_old_copy, drop_old_copy_first };
            return resync::run(&client, wishes, yes, args.api.json);
        }
        ReplicationCommand::Status => ("/api/replication/status", |answer| {
            Ok(replication_view::status(&shaped(answer)?, Paint::for_stdout()))
        }),
        ReplicationCommand::Stats => {
            ("/api/replication/stats", |answer| Ok(replication_view::stats(&shaped(answer)?)))
        }
    };
    let answer = client.get(path)?;
    if args.api.json {
        say_json(&answer)?
    } else {
        say(&words(answer)?)?
    }
    Ok(ExitCode::SUCCESS)
}
