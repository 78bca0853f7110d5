//! From nothing to a cluster: `holdfast init` on the first host, `holdfast join` on the others.
//!
//! | file | decides |
//! |---|---|
//! | `discover` | nothing: looks what a host has |
//! | `questions` | what is still missing, and what to suggest |
//! | `plan` | each member's configuration; pure |
//! | `token`, `tokens` | what a join line says; which ones are good |
//! | `session`, `messages` | how host one and the others speak, and what they say |
//! | `host` | who has which place, when all are there, and who lacks its files |
//! | `visit` | whether a connection is that of a host with a good token |
//! | `join` | whether this host takes what it gets |
//! | `pending` | what is decided and not yet everywhere, on disk |
//! | `place` | nothing: writes a member's files, all or none |
//! | `unit` | how the agent is started on this host |
//! | `health` | when the new cluster is well |
//! | `stage` | what an interruption means now |
//!
//! Nothing is written before every host is there and every configuration passed its check; no file that is there is ever
//! replaced. From the decision on, what is left to do is on the disk of host one, so that an interruption at any moment
//! is completed by running the command again. The cluster's secrets travel only within a session whose keys nobody has
//! afterwards, and stand in no message for people.

mod discover;
mod health;
mod host;
mod join;
mod messages;
mod output;
mod pending;
mod place;
mod plan;
mod questions;
mod session;
mod stage;
mod token;
mod tokens;
mod unit;
mod visit;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::TcpListener;

use crate::cli::args::{DirArgs, InitArgs, JoinArgs};
use host::{Done, Host, Site};
use pending::Pending;
pub use plan::Policy;
use questions::Asked;
use stage::Stage;
use token::Role;

/// Arguments that do not say what is needed; ends with status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(String);

impl Usage {
    fn new(message: impl Into<String>) -> Usage {
        Usage(message.into())
    }
}

/// Runs `holdfast init`.
///
/// # Errors
/// [`Usage`], or why there is no new cluster, or how to go on with the one that is decided.
pub fn init(mut args: Box<InitArgs>) -> Result<ExitCode> {
    absolute(&mut args.dirs)?;
    if let Some(dir) = &args.output {
        return output::run(&args, dir);
    }
    as_root("holdfast init")?;
    let config_dir = args.dirs.config_dir.clone();
    let stage = Stage::default();
    stage.now("Nothing was written.");
    // It hears of interruptions until the end.
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        stage.watch()?;
        let pending = Pending::find(&config_dir)?;
        let mut site = site(&args, pending.as_ref())?;
        let (host, at) = match pending {
            Some(pending) => {
                say(&format!(
                    "An earlier `holdfast init` was interrupted; going on from {0}. What it decided is not asked again. (To begin anew instead: interrupt this, remove {0}, and on every member that has them already the files that it was given.)",
                    Pending::path(&config_dir).display()
                ));
                let at = SocketAddr::new(pending.plan.members[0].address, args.port);
                (Host::delivering(site, stage.clone(), at, pending)?, at)
            }
            None => {
                let (answers, at) = begin(&args, &mut site).await?;
                (Host::gathering(site, stage.clone(), at, answers), at)
            }
        };
        let listener = listen(at).await?;
        host.run(listener).await
    })?;
    stage.now(format!(
        "Every member has its files. To start this one: {}",
        unit::how_to_start(&config_dir, Role::Data)
    ));
    finish(&args, &done)
}

/// Runs `holdfast join`.
///
/// # Errors
/// [`Usage`], or why this host is no member.
pub fn join(args: JoinArgs) -> Result<ExitCode> {
    join::run(args)
}

/// What the flags say of this run, once it is certain that this host can begin or go on.
fn site(args: &InitArgs, pending: Option<&Pending>) -> Result<Site> {
    let dirs = &args.dirs;
    let state = dirs.state_dir.clone().unwrap_or_else(|| state_dir(Role::Data));
    let data = dirs.data_dir.clone().unwrap_or_else(|| state.join("store"));
    if pending.is_none() {
        if let Some(path) = place::configured(&dirs.config_dir, Role::Data) {
            bail!(
                "{} is there: this host is a member already, and was left as it is. See `holdfast config check {0}` and `holdfast ha status`",
                path.display()
            );
        }
        for name in place::file_names(Role::Data) {
            let path = dirs.config_dir.join(name);
            if path.try_exists().with_context(|| format!("look for {}", path.display()))? {
                bail!(
                    "{0} is there already, and no file is ever replaced. If no member of a cluster on this host uses it: rm {0}",
                    path.display()
                );
            }
        }
        discover::no_member_in(&state, Some(&data))?;
    }
    Ok(Site {
        config_dir: dirs.config_dir.clone(),
        state_dir: state,
        data_dir: data,
        tokens_file: args.tokens_file.clone(),
        valid_for: args.valid,
        two_node: args.two_node,
        hostname: None,
    })
}

/// Finds out and asks what is needed, and says what it came to.
async fn begin(args: &InitArgs, site: &mut Site) -> Result<(questions::Answers, SocketAddr)> {
    let found = discover::look()?;
    site.hostname.clone_from(&found.name);
    let mut answers = questions::answers(args, &found, Asked::of(args.yes)).await?;
    let is_pair = answers.data_members == 2 && !answers.witness;
    if args.gateway.is_none()
        && let Some(gateway) = answers.gateway.filter(|_| is_pair)
        && !questions::answers_echo(gateway).await
    {
        say(&format!(
            "The gateway {gateway} answers no echo, so its silence would mean nothing: it is not watched."
        ));
        answers.gateway = None;
    }
    let what = match (answers.data_members, answers.witness) {
        (2, true) => "a pair and a witness",
        (2, false) => "a pair without a witness",
        _ => "three members with the data",
    };
    say(&format!(
        "Setting up {what}. This host: {} ({}). Clients will use {} on {}.",
        answers.own,
        answers.chosen.as_ref().or(found.name.as_ref()).map_or("to be named", String::as_str),
        answers.vip,
        answers.interface
    ));
    let at = SocketAddr::new(answers.own, args.port);
    Ok((answers, at))
}

async fn listen(at: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(at).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "{at} is in use: an agent or another `holdfast init` runs on this host. See `ss -ltnp`, or take another port that the others reach: --port PORT. Nothing was changed"
        ),
        io::ErrorKind::AddrNotAvailable => anyhow!(
            "{} is no address of this host (any more); see `ip address`. Nothing was changed",
            at.ip()
        ),
        _ => anyhow!("the others cannot be waited for at {at}: {error}. Nothing was changed"),
    })
}

/// Every member has its files: installs and starts what is this host's, and says how it is.
fn finish(args: &InitArgs, done: &Done) -> Result<ExitCode> {
    let (plan, dir) = (&done.plan, &args.dirs.config_dir);
    let own = &plan.members[0];
    let mut dirs = vec![own.state_dir.clone()];
    dirs.extend(own.data_dir.clone());
    unit::install_unit(dir, Role::Data, &dirs)?;
    say("\nEvery member has its configuration and secrets.");
    let starts = !args.no_start && unit::can_start(dir);
    let mut status = Ok(ExitCode::SUCCESS);
    if starts {
        unit::start(Role::Data)?;
        if done.not_started.is_empty() {
            status = health::wait();
        }
    } else {
        say(&format!(
            "Nothing was started here. To start {}: {}",
            own.name,
            unit::how_to_start(dir, Role::Data)
        ));
    }
    if !done.not_started.is_empty() {
        say(&format!(
            "To be started by hand, as `holdfast join` said there: {}. The cluster serves once both data members run.",
            done.not_started.join(", ")
        ));
    }
    say(&format!(
        "\nClients:      {} (S3, path style)\nS3 root user: {}, its key is in {}\nNext:         holdfast ha check",
        plan.endpoint(),
        plan::ROOT_ACCESS_KEY,
        dir.join(place::ROOT_SECRET).display()
    ));
    status
}

/// Where a member of that role keeps its votes unless somebody says otherwise: what its unit may write.
fn state_dir(role: Role) -> PathBuf {
    match role {
        Role::Data => holdfast_config::DEFAULT_STATE_DIR.into(),
        Role::Witness => "/var/lib/holdfast-witness".into(),
    }
}

/// Makes the directories absolute, and refuses those that no configuration can name.
fn absolute(dirs: &mut DirArgs) -> Result<()> {
    let mend = |dir: &mut PathBuf| -> Result<()> {
        *dir = std::path::absolute(&*dir).with_context(|| format!("make {} absolute", dir.display()))?;
        let plain = dir.to_str().is_some_and(|text| !text.chars().any(char::is_control));
        if !plain {
            return Err(Usage::new(format!(
                "{} cannot be written in a configuration; choose another directory",
                dir.display()
            ))
            .into());
        }
        Ok(())
    };
    mend(&mut dirs.config_dir)?;
    dirs.state_dir.as_mut().map_or(Ok(()), mend)?;
    dirs.data_dir.as_mut().map_or(Ok(()), mend)
}

fn as_root(command: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "only root can write the configuration, ask the network for addresses and start units: sudo {command}. Nothing was changed"
        );
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    // Two, so that an interruption is heard while the other one waits for a person.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("start the runtime")
}

/// Tells a person, on standard output. Whoever went away (`| head`) misses it.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}

/// Reads a time as `--valid` has it: a number with `s`, `m` or `h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    /// A token is for the same hour, or day; not for keeping.
    const MOST: u64 = 24 * 3600;
    let wrong =
        || format!("{text:?} is no time between 1s and 24h; write a number with s, m or h, such as 30m");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let scale = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let seconds =
        number.checked_mul(scale).filter(|seconds| (1..=MOST).contains(seconds)).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_a_bound() {
        let seconds = |text| duration(text).map(|time| time.as_secs()).ok();
        assert_eq!(
            [seconds("90s"), seconds("30m"), seconds("2h"), seconds("24h")],
            [Some(90), Some(1800), Some(7200), Some(86_400)]
        );
        for wrong in ["", "s", "0s", "25h", "30", "-1m", "1d", "99999999999999999999h", "ä"] {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }
}
