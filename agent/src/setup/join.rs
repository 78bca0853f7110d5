//! The host that joins: shows its token, waits with the others, checks what it gets, and places it.
//!
//! It sends nothing before it looked whether it could join at all, and changes nothing before the configuration passed
//! the check of this very program.

use std::io::{self, BufRead, IsTerminal, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::discover::{self, no_member_in};
use super::messages::{File, FromHost, FromJoiner, Hello};
use super::place::{self, Outcome};
use super::plan::is_name;
use super::questions::{NAMES, ask};
use super::session::{Broken, Session};
use super::stage::Stage;
use super::token::{Role, Token};
use super::visit::SILENT_FOR;
use super::{Usage, absolute, as_root, runtime, say, state_dir, unit};
use crate::cli::args::JoinArgs;

/// A host that is there takes a connection at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// And proves what it knows in one round trip.
const PROVE_WITHIN: Duration = Duration::from_secs(10);
/// Longest line that is looked at for a token, in bytes.
const MOST_LINE_BYTES: u64 = 4096;

pub(super) fn run(mut args: JoinArgs) -> Result<ExitCode> {
    let token = token(args.token.take())?;
    as_root("holdfast join")?;
    absolute(&mut args.dirs)?;
    if let Some(name) = args.node.as_deref().filter(|name| !is_name(name)) {
        return Err(Usage::new(format!("--node {name:?}: {NAMES}")).into());
    }
    if token.role == Role::Witness && (args.dirs.data_dir.is_some() || args.interface.is_some()) {
        let message = "this token is the witness's, which has neither data nor the virtual address; leave --data-dir and --interface out";
        return Err(Usage::new(message).into());
    }
    let dir = args.dirs.config_dir.clone();
    let configured = place::configured(&dir, token.role);
    if configured.is_none() {
        let state_dir = args.dirs.state_dir.clone().unwrap_or_else(|| state_dir(token.role));
        no_member_in(&state_dir, args.dirs.data_dir.as_deref())?;
    }
    let found = discover::look()?;
    let hello = |address: SocketAddr| Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        chosen: args.node.clone(),
        hostname: found.name.clone(),
        address: address.ip(),
        interface: args.interface.clone(),
        interfaces: found.interfaces.clone(),
        state_dir: args.dirs.state_dir.clone(),
        data_dir: args.dirs.data_dir.clone(),
        configured: configured.clone(),
        starts: !args.no_start && unit::can_start(&dir),
    };
    let stage = Stage::default();
    stage.now(
        "Nothing was changed here, and the line is used up: `holdfast init` prints a new one, if it still runs.",
    );
    let role = token.role;
    // It hears of interruptions until the end.
    let runtime = runtime()?;
    let (outcome, whole) = runtime.block_on(async {
        stage.watch()?;
        converse(&token, &dir, &stage, hello).await
    })?;
    // The conversation is over; what follows is this host's alone.
    drop(token);
    let config = dir.join(place::config_name(role));
    match outcome {
        Outcome::Placed => say(&format!("Wrote {} and its secrets.", config.display())),
        Outcome::WereThere => say(&format!("{} and its secrets were here already.", config.display())),
    }
    let loaded = holdfast_config::Config::load(&config)?.config;
    let mut dirs = vec![loaded.state_dir];
    dirs.extend(loaded.store.map(|store| store.data_dir));
    unit::install_unit(&dir, role, &dirs)?;
    if args.no_start || !unit::can_start(&dir) {
        say(&format!("Nothing was started. To start it: {}", unit::how_to_start(&dir, role)));
    } else {
        unit::start(role)?;
        say("See how it is: holdfast ha status");
    }
    if let Err(why) = whole {
        bail!(
            "host one was lost before it said that all members have their files ({why}). This one has them. Run `holdfast init` on host one again: it goes on where it stopped"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The token, from wherever it was given.
fn token(given: Option<String>) -> Result<Token> {
    let given = given.map(Zeroizing::new);
    let text = match given.as_deref().map(String::as_str) {
        Some("-") => read_line()?,
        Some(text) => Zeroizing::new(text.to_owned()),
        None if io::stdin().is_terminal() => {
            Zeroizing::new(ask("The token that `holdfast init` printed for this host:", None)?)
        }
        None => {
            return Err(Usage::new("there is no token; say `holdfast join TOKEN`, or `holdfast join -` to read it from standard input").into());
        }
    };
    // Whoever copied more than the token copied the line.
    let word = text.split_whitespace().last().unwrap_or_default();
    Ok(Token::parse(word)?)
}

fn read_line() -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    io::stdin()
        .lock()
        .take(MOST_LINE_BYTES)
        .read_line(&mut line)
        .context("read the token from standard input")?;
    Ok(line)
}

/// What came of placing; and whether host one said that all members have their files, or why it did not.
type Conversation = (Outcome, Result<(), Broken>);

async fn converse(
    token: &Token,
    dir: &Path,
    stage: &Stage,
    hello: impl Fn(SocketAddr) -> Hello,
) -> Result<Conversation> {
    let host = token.host;
    say(&format!("Connecting with host one at {host} ..."));
    let stream = connect(host).await?;
    let own = stream.local_addr().context("ask for the own address")?;
    let proved = timeout(PROVE_WITHIN, Session::open(stream, &token.key)).await;
    let mut session = match proved {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => return Err(not_proved(host, &error)),
        Err(_) => bail!(
            "{host} takes the connection and does not answer. Is it `holdfast init` that runs there? Nothing was changed"
        ),
    };
    let lost = |error: Broken| {
        anyhow!(
            "{error}; host one at {host} is gone, or cut off. Nothing was changed here, and the line is used up: if `holdfast init` still runs there, it printed a new one; else run it again"
        )
    };
    session.send(&FromJoiner::Hello(Box::new(hello(own)))).await.map_err(lost)?;
    let mut said = String::new();
    loop {
        match next(&mut session).await.map_err(lost)? {
            FromHost::Awaiting { whom } => {
                session.send(&FromJoiner::Here).await.map_err(lost)?;
                say_awaited(&whom, &mut said);
            }
            FromHost::Files { name, files } => {
                let outcome = match place_files(dir, token.role, &name, &files) {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        let why = format!("{error:#}");
                        // Where that is lost host one says so by itself.
                        let _ = session.send(&FromJoiner::Refused { why }).await;
                        return Err(error);
                    }
                };
                say(&format!("This host's member is called {name}."));
                stage.now("This host has its files. Run the command again, or start the agent, once `holdfast init` on host one is through.");
                return Ok((outcome, wait_for_all(&mut session, &mut said).await));
            }
            FromHost::Refused { why } => bail!("host one refused: {why}"),
            FromHost::Go => bail!("host one said something that does not belong here; nothing was changed"),
        }
    }
}

fn place_files(dir: &Path, role: Role, name: &str, files: &[File]) -> Result<Outcome> {
    let readers = unit::readers(dir, role)?;
    place::place(dir, role, name, files, readers)
}

/// Waits until every member has its files, so that all start together.
async fn wait_for_all(session: &mut Session, said: &mut String) -> Result<(), Broken> {
    session.send(&FromJoiner::Placed).await?;
    loop {
        match next(session).await? {
            FromHost::Go => return Ok(()),
            FromHost::Awaiting { whom } => {
                session.send(&FromJoiner::Here).await?;
                say_awaited(&whom, said);
            }
            // It has what it needs; what else host one says about itself, it shows there.
            FromHost::Refused { .. } | FromHost::Files { .. } => return Err(Broken::Nonsense),
        }
    }
}

async fn next(session: &mut Session) -> Result<FromHost, Broken> {
    match timeout(SILENT_FOR, session.receive()).await {
        Ok(message) => message,
        Err(_) => Err(Broken::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it was not heard for {} s", SILENT_FOR.as_secs()),
        ))),
    }
}

fn say_awaited(whom: &[String], said: &mut String) {
    let words = whom.join(" and ");
    if !words.is_empty() && words != *said {
        say(&format!("Waiting for {words} ..."));
    }
    *said = words;
}

async fn connect(host: SocketAddr) -> Result<TcpStream> {
    let advice = "`holdfast init` listens there until all members have joined; see whether it still runs";
    match timeout(CONNECT_WITHIN, TcpStream::connect(host)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(anyhow!("nobody listens at {host}. {advice}. Nothing was changed"))
        }
        Ok(Err(error)) => Err(anyhow!(
            "{host} cannot be reached: {error}. Has this host an address in a network that reaches it? Nothing was changed"
        )),
        Err(_) => Err(anyhow!(
            "no answer from {host} within {} s. {advice}, and whether a firewall between the two lets TCP port {} through. Nothing was changed",
            CONNECT_WITHIN.as_secs(),
            host.port()
        )),
    }
}

/// Why host one did not take the token.
fn not_proved(host: SocketAddr, error: &Broken) -> anyhow::Error {
    match error {
        Broken::Release => anyhow!(
            "host one runs a release of Holdfast that is too far from this one ({}); install the same version on both. Nothing was changed",
            env!("CARGO_PKG_VERSION")
        ),
        Broken::Stranger => anyhow!(
            "{host} does not know this token: it is of an earlier run of `holdfast init`, or something else listens there. Take the line that it shows now. Nothing was changed"
        ),
        other => anyhow!("the conversation with {host} did not begin: {other}. Nothing was changed"),
    }
}
