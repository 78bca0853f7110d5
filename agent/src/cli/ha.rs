//! `holdfast ha`: each command is one request, and a view of the answer.

use std::process::ExitCode;

use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};

use super::args::{HaArgs, HaCommand, MembersCommand};
use super::client::{Client, shaped};
use super::paint::Paint;
use super::store::escaped;
use super::{
    UNHEALTHY, audit_view, check_view, cluster_view, history_view, may_restart, replay, reset, say, say_json,
    status_view,
};
use crate::api::{Cluster, ClusterMember};
use crate::runtime::audit::Shown;
use crate::runtime::history::Entry;
use crate::runtime::inquiry::CheckReport;
use crate::runtime::recorder::Written;
use crate::runtime::status::Status;

pub(super) fn run(args: HaArgs) -> Result<ExitCode> {
    let as_json = args.api.json;
    if let HaCommand::Replay { file, verbose } = &args.command {
        return replay::run(file, *verbose, as_json);
    }
    if let HaCommand::Reset { config, yes, accept_data_loss } = &args.command {
        let consent = reset::Consent { yes: *yes, accept_data_loss: *accept_data_loss };
        return reset::run(config, &consent, as_json);
    }
    if let HaCommand::Audit { verify: true, dir: Some(dir), .. } = &args.command {
        let verified = crate::runtime::audit::file::verify(dir)?;
        match as_json {
            true => say_json(&serde_json::to_value(&verified)?)?,
            false => say(&audit_view::verdict(&verified, Paint::for_stdout()))?,
        }
        return Ok(audit_view::status(&verified));
    }
    if let HaCommand::MayRestart { config } = &args.command {
        return may_restart::run(args.api, config.as_deref());
    }
    let client = Client::new(&args.api)?;
    match args.command {
        HaCommand::Status => return status(client.get("/api/ha/status")?, as_json),
        HaCommand::Cluster => {
            let answer = client.get("/api/ha/cluster")?;
            match as_json {
                true => say_json(&answer)?,
                false => say(&cluster_view::render(&shaped::<Cluster>(answer)?, Paint::for_stdout()))?,
            }
        }
        HaCommand::Check => return check(client.order("/api/ha/check", json!({}))?, as_json),
        HaCommand::Audit { limit, verify, .. } => {
            let answer = client.get(&format!("/api/ha/audit?limit={limit}&verify={verify}"))?;
            if as_json {
                say_json(&answer)?;
            }
            let shown: Shown = shaped(answer)?;
            if !as_json {
                say(&audit_view::render(&shown, Paint::for_stdout()))?;
            }
            return Ok(shown.verified.as_ref().map_or(ExitCode::SUCCESS, audit_view::status));
        }
        HaCommand::History { limit } => {
            let answer = client.get(&format!("/api/ha/history?limit={limit}"))?;
            match as_json {
                true => say_json(&answer)?,
                false => say(&history_view::render(&shaped::<Vec<Entry>>(answer)?, Paint::for_stdout()))?,
            }
        }
        HaCommand::Record => {
            let answer = client.order("/api/ha/recording", json!({}))?;
            match as_json {
                true => say_json(&answer)?,
                false => say(&format!("{}\n", shaped::<Written>(answer)?.path.display()))?,
            }
        }
        HaCommand::Replay { .. } | HaCommand::Reset { .. } | HaCommand::MayRestart { .. } => {
            unreachable!("done above")
        }
        HaCommand::Failover { to } => {
            let body = to.map_or_else(|| json!({}), |to| json!({"to": to}));
            done(client.order("/api/ha/failover", body)?, as_json)?;
        }
        HaCommand::Promote { accept_data_loss } => {
            let body = json!({"accept_data_loss": accept_data_loss});
            done(client.order("/api/ha/promote", body)?, as_json)?;
        }
        HaCommand::Failback { enable, disable } => {
            let body = if enable || disable { json!({"enabled": enable}) } else { json!({}) };
            done(client.order("/api/ha/failback", body)?, as_json)?;
        }
        HaCommand::Pause => done(client.order("/api/ha/pause", json!({}))?, as_json)?,
        HaCommand::Resume => done(client.order("/api/ha/resume", json!({}))?, as_json)?,
        HaCommand::FenceConfirmed { member } => {
            done(client.order("/api/ha/fence-confirmed", json!({"member": member}))?, as_json)?;
        }
        HaCommand::Members { change: None } => {
            let answer = client.get("/api/cluster/nodes")?;
            match as_json {
                true => say_json(&answer)?,
                false => say(&cluster_view::members(&shaped::<Cluster>(answer)?, Paint::for_stdout()))?,
            }
        }
        HaCommand::Members { change: Some(change) } => members(&client, change, as_json)?,
        HaCommand::Drain => done(client.order("/api/ha/drain", json!({}))?, as_json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn members(client: &Client, command: MembersCommand, as_json: bool) -> Result<()> {
    let at = |name: &str| format!("/api/cluster/nodes/{}", escaped(name));
    let voters = |body| client.order("/api/cluster/nodes", body);
    let answer = match command {
        MembersCommand::Show { name } => {
            let answer = client.get(&at(&name))?;
            return match as_json {
                true => say_json(&answer),
                false => say(&cluster_view::member(&shaped::<ClusterMember>(answer)?, Paint::for_stdout())),
            };
        }
        MembersCommand::Edit { name, priority } => {
            client.change(Method::PATCH, &at(&name), json!({"priority": priority}))?
        }
        MembersCommand::Add { name } => voters(json!({"add": name}))?,
        MembersCommand::Remove { name } => voters(json!({"remove": name}))?,
        MembersCommand::Replace { old, new } => voters(json!({"remove": old, "add": new}))?,
    };
    done(answer, as_json)
}

fn status(answer: Value, as_json: bool) -> Result<ExitCode> {
    let status: Status = if as_json {
        say_json(&answer)?;
        shaped(answer)?
    } else {
        let status = shaped(answer)?;
        say(&status_view::render(&status, Paint::for_stdout()))?;
        status
    };
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::from(UNHEALTHY) })
}

fn check(answer: Value, as_json: bool) -> Result<ExitCode> {
    let report: CheckReport = if as_json {
        say_json(&answer)?;
        shaped(answer)?
    } else {
        let report = shaped(answer)?;
        say(&check_view::render(&report, Paint::for_stdout()))?;
        report
    };
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::from(UNHEALTHY) })
}

fn done(answer: Value, as_json: bool) -> Result<()> {
    match answer["message"].as_str().filter(|_| !as_json) {
        Some(message) => say(&format!("{message}\n")),
        None => say_json(&answer),
    }
}
