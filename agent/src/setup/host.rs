//! Host one: waits for the others, decides when all are there, and gives each its files.
//!
//! ```text
//!   gathering --all are here, the plan is on disk--> delivering --all placed--> done
//!       |                                                |
//!   interrupted: nothing was written              interrupted: goes on from what is on disk
//! ```
//!
//! One task owns all state; each connection has a task of its own that speaks to one host and knows nothing of the
//! others. A token is spent before its bearer hears anything; a place that becomes free again gets a new one. How many
//! connections there are at once, how long each may take to prove what it knows, and how much it may say are bounded.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::discover::interface_towards;
use super::messages::{FromHost, Hello};
use super::pending::{Pending, Secrets};
use super::place::{self, Outcome, Readers};
use super::plan::{Called, Member, Plan, Policy, is_name, names};
use super::questions::{Answers, NAMES};
use super::stage::Stage;
use super::token::Role;
use super::tokens::Tokens;
use super::visit::{Desk, Event, FAREWELL, Visitor, attend};
use super::{say, state_dir};

/// Connections at once: members are few, and who knows no token shall not take their place.
const MOST_CONNECTIONS: usize = 16;
/// How often hosts that wait are told for whom; they answer.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// What the flags say of this run.
pub(super) struct Site {
    /// Where configuration and secrets go.
    pub config_dir: PathBuf,
    /// Where this member keeps its votes.
    pub state_dir: PathBuf,
    /// Where it keeps log and index.
    pub data_dir: PathBuf,
    /// Where the join lines are written besides.
    pub tokens_file: Option<PathBuf>,
    /// How long each of them is good.
    pub valid_for: Duration,
    /// What a pair without a witness does.
    pub two_node: Policy,
    /// This host's name for its member.
    pub hostname: Option<String>,
}

/// How far it has come.
enum Phase {
    Gathering(Answers),
    Delivering(Pending),
}

/// A place in the cluster that another host takes.
struct Place {
    /// As in "On host two:".
    title: String,
    /// As in a file that programs read.
    label: String,
    role: Role,
    /// Which member of the plan it is, once there is one.
    member: Option<String>,
    state: State,
}

enum State {
    Free,
    Taken(Visitor),
    /// It has its files. Whoever said so in this run waits for the word to start.
    Placed(Option<Visitor>),
}

/// What came of it.
pub(super) struct Done {
    /// The cluster.
    pub plan: Plan,
    /// Which members do not start by themselves.
    pub not_started: Vec<String>,
}

/// Host one.
pub(super) struct Host {
    site: Site,
    stage: Stage,
    at: SocketAddr,
    phase: Phase,
    places: Vec<Place>,
    desk: Desk,
    inbox: mpsc::Receiver<Event>,
    visits: JoinSet<()>,
    /// What was refused without a good token.
    strangers: u64,
}

impl Host {
    /// For a new cluster: nothing is decided yet.
    pub(super) fn gathering(site: Site, stage: Stage, at: SocketAddr, answers: Answers) -> Host {
        let others = (2..=answers.data_members).map(|number| Place {
            title: format!("host {}", if number == 2 { "two" } else { "three" }),
            label: format!("host-{number}"),
            role: Role::Data,
            member: None,
            state: State::Free,
        });
        let witness = answers.witness.then(|| Place {
            title: "the witness".to_owned(),
            label: "witness".to_owned(),
            role: Role::Witness,
            member: None,
            state: State::Free,
        });
        let places = others.chain(witness).collect();
        stage.now("Nothing was written.");
        Host::new(site, stage, at, Phase::Gathering(answers), places)
    }

    /// For a cluster that an earlier run decided.
    pub(super) fn delivering(site: Site, stage: Stage, at: SocketAddr, pending: Pending) -> Result<Host> {
        let mut places = Vec::new();
        for member in pending.plan.members.iter().skip(1) {
            let state = match pending.files(member)? {
                Some(_) => State::Free,
                None => State::Placed(None),
            };
            places.push(Place {
                title: title_of(member),
                label: member.name.clone(),
                role: member.role,
                member: Some(member.name.clone()),
                state,
            });
        }
        let host = Host::new(site, stage, at, Phase::Delivering(pending), places);
        host.say_how_to_go_on();
        Ok(host)
    }

    fn new(site: Site, stage: Stage, at: SocketAddr, phase: Phase, places: Vec<Place>) -> Host {
        let tokens = Arc::new(Mutex::new(Tokens::new(at, site.valid_for)));
        let (events, inbox) = mpsc::channel(2 * MOST_CONNECTIONS);
        let desk = Desk { tokens, events };
        Host { site, stage, at, phase, places, desk, inbox, visits: JoinSet::new(), strangers: 0 }
    }

    fn say_how_to_go_on(&self) {
        self.stage.now(format!(
            "What is decided is in {}, with the secrets of the cluster; run `holdfast init` again, and it goes on from there.",
            Pending::path(&self.site.config_dir).display()
        ));
    }

    /// Waits for the others at `listener`, and returns when every member has its files.
    ///
    /// # Errors
    /// Something here cannot be read or written, or the members do not fit together. What is decided stays.
    pub(super) async fn run(mut self, listener: TcpListener) -> Result<Done> {
        let outcome = self.serve(&listener).await;
        if let Err(error) = &outcome {
            let why = format!("`holdfast init` on host one ended: {error:#}");
            for place in &mut self.places {
                if let State::Taken(visitor) | State::Placed(Some(visitor)) = &place.state {
                    let _ = visitor.tell.try_send(FromHost::Refused { why: why.clone() });
                }
            }
        }
        let not_started = self.not_started();
        // Each task ends once it is told nothing more, and has said the last.
        self.places.clear();
        let _ = timeout(FAREWELL, async { while self.visits.join_next().await.is_some() {} }).await;
        if let Some(path) = &self.site.tokens_file {
            place::remove_file(path)?;
        }
        let is_decided = matches!(self.phase, Phase::Delivering(_));
        outcome.map_err(|error| match is_decided {
            true => anyhow!(
                "{error:#}. What is decided is in {}; when that is mended, run `holdfast init` again, and it goes on from there",
                Pending::path(&self.site.config_dir).display()
            ),
            false => error,
        })?;
        match self.phase {
            Phase::Delivering(pending) => {
                let plan = pending.plan.clone();
                pending.finish()?;
                Ok(Done { plan, not_started })
            }
            Phase::Gathering(_) => bail!("the members were never all here"),
        }
    }

    fn not_started(&self) -> Vec<String> {
        let waits = |place: &&Place| match &place.state {
            State::Placed(Some(visitor)) => !visitor.hello.starts,
            _ => false,
        };
        self.places.iter().filter(waits).filter_map(|place| place.member.clone()).collect()
    }

    async fn serve(&mut self, listener: &TcpListener) -> Result<()> {
        if let Phase::Delivering(_) = self.phase {
            self.place_own()?;
        }
        let free: Vec<usize> = self.places_where(|place| matches!(place.state, State::Free));
        self.give_tokens(&free)?;
        if !free.is_empty() {
            say(&format!(
                "\nEach line is good once, for {}, while this command runs; whoever has it can become that member. Waiting at {} ...",
                in_words(self.site.valid_for),
                self.at
            ));
        }
        let seats = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut tell = interval(TOLD_EVERY);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.places.iter().all(|place| matches!(place.state, State::Placed(_))) {
            let end = self.tokens().next_end();
            let end = end.unwrap_or_else(|| Instant::now() + self.site.valid_for);
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => match seats.clone().try_acquire_owned() {
                        Ok(seat) => {
                            let desk = self.desk.clone();
                            self.visits.spawn(async move {
                                attend(stream, from, desk).await;
                                drop(seat);
                            });
                        }
                        Err(_) => self.stranger(from.ip(), "there are too many connections at once"),
                    },
                    // Such as too many open files: the next one may do.
                    Err(error) => self.stranger(self.at.ip(), &format!("a connection was not accepted: {error}")),
                },
                Some(event) = self.inbox.recv() => self.take(event)?,
                _ = tell.tick() => self.tell_all(),
                () = sleep_until(end.into()) => {
                    let ended = self.tokens().expire(Instant::now());
                    if !ended.is_empty() {
                        say(&format!("Nobody came with it for {}: a token expired.", in_words(self.site.valid_for)));
                        self.give_tokens(&ended)?;
                    }
                }
            }
            // Whoever has ended is forgotten.
            while self.visits.try_join_next().is_some() {}
        }
        for place in &self.places {
            if let State::Placed(Some(visitor)) = &place.state {
                let _ = visitor.tell.try_send(FromHost::Go);
            }
        }
        Ok(())
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.desk.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places_where(&self, wanted: impl Fn(&Place) -> bool) -> Vec<usize> {
        (0..self.places.len()).filter(|at| wanted(&self.places[*at])).collect()
    }

    /// Gives out a new token for each of these places, shows them, and writes the file of all that are good.
    fn give_tokens(&mut self, places: &[usize]) -> Result<()> {
        for &at in places {
            let (title, role) = (self.places[at].title.clone(), self.places[at].role);
            let token = self.tokens().give(at, role, Instant::now()).context("make a token")?;
            say(&format!("\nOn {title}, as root:\n\n    holdfast join {}", token.text().as_str()));
        }
        self.write_tokens()
    }

    fn write_tokens(&self) -> Result<()> {
        let Some(path) = &self.site.tokens_file else { return Ok(()) };
        let mut text = zeroize::Zeroizing::new(String::new());
        for (at, token) in self.tokens().good() {
            text.push_str(&format!("{} holdfast join {}\n", self.places[at].label, token.text().as_str()));
        }
        let (dir, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        place::replace(dir, &name.to_string_lossy(), &text)
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Stranger { from, why } => self.stranger(from, &why),
            Event::NoGood { from, why } => {
                say(&format!("{from} was refused: its token is not good. ({why})"));
            }
            Event::Came { place, visitor } => self.came(place, visitor)?,
            Event::Lost { place, visit, why } => self.left(place, visit, &format!("is gone: {why}"))?,
            Event::Refused { place, visit, why } => {
                self.left(place, visit, &format!("placed nothing: {why}"))?;
            }
            Event::Placed { place, visit } => self.placed(place, visit)?,
        }
        Ok(())
    }

    /// Counts a connection without a token, and shows some: each of the first, then ever fewer.
    fn stranger(&mut self, from: IpAddr, why: &str) {
        self.strangers += 1;
        if self.strangers <= 3 || self.strangers.is_power_of_two() {
            say(&format!(
                "A connection from {from} was refused: {why}. ({} so far; an agent that runs already is one of them, too.)",
                self.strangers
            ));
        }
    }

    /// A host with a good token says who it is.
    fn came(&mut self, at: usize, visitor: Visitor) -> Result<()> {
        if let Err(error) = self.fits(at, &visitor.hello) {
            let why = format!("{error:#}");
            let _ = visitor.tell.try_send(FromHost::Refused { why: why.clone() });
            say(&format!("{} from {} was refused: {why}", self.places[at].title, visitor.hello.address));
            return self.give_tokens(&[at]);
        }
        let hello = &visitor.hello;
        let called = hello.chosen.as_ref().or(hello.hostname.as_ref());
        let called = called.map_or_else(String::new, |name| format!("{name}, "));
        self.places[at].state = State::Taken(visitor);
        let address = match &self.places[at].state {
            State::Taken(visitor) => visitor.hello.address,
            _ => unreachable!("it was taken above"),
        };
        let awaited = self.awaited();
        let rest = match awaited.is_empty() {
            true => String::new(),
            false => format!(" Waiting for {}.", awaited.join(" and ")),
        };
        say(&format!("Here is {} ({called}{address}).{rest}", self.places[at].title));
        // The tokens that are good are fewer now.
        self.write_tokens()?;
        match &self.phase {
            Phase::Delivering(_) => self.deliver(at)?,
            Phase::Gathering(_) if awaited.is_empty() => self.decide()?,
            Phase::Gathering(_) => {}
        }
        self.tell_all();
        Ok(())
    }

    /// Whom everybody waits for.
    fn awaited(&self) -> Vec<String> {
        let free = self.places.iter().filter(|place| matches!(place.state, State::Free));
        free.map(|place| place.title.clone()).collect()
    }

    /// Tells those who wait that this host is there, and for whom they wait.
    fn tell_all(&self) {
        for (at, place) in self.places.iter().enumerate() {
            let (State::Taken(visitor) | State::Placed(Some(visitor))) = &place.state else { continue };
            let lacks = |other: &Place| match self.phase {
                Phase::Gathering(_) => matches!(other.state, State::Free),
                Phase::Delivering(_) => !matches!(other.state, State::Placed(_)),
            };
            let others = self.places.iter().enumerate().filter(|(other, _)| *other != at);
            let whom =
                others.filter(|(_, other)| lacks(other)).map(|(_, other)| other.title.clone()).collect();
            // Who takes no word any more is lost, and its task says so.
            let _ = visitor.tell.try_send(FromHost::Awaiting { whom });
        }
    }

    /// Whether that host can take the place.
    fn fits(&self, at: usize, hello: &Hello) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        if hello.version != version {
            bail!(
                "it runs Holdfast {}, and host one {version}; install the same version on all members",
                hello.version
            );
        }
        if hello.address == self.at.ip() {
            bail!("this is host one itself; run the line on another host");
        }
        if hello.chosen.as_deref().is_some_and(|name| !is_name(name)) {
            bail!("{NAMES}");
        }
        match &self.phase {
            Phase::Gathering(answers) => {
                if let Some(path) = &hello.configured {
                    bail!(
                        "{} is there: that host is a member of a cluster already, and was left as it is",
                        path.display()
                    );
                }
                for place in &self.places {
                    if let State::Taken(other) = &place.state {
                        if other.hello.address == hello.address {
                            bail!(
                                "{} is here already as {}; members are on different hosts",
                                hello.address,
                                place.title
                            );
                        }
                        if hello.chosen.is_some() && other.hello.chosen == hello.chosen {
                            bail!("{} is called so already; choose another name with --node", place.title);
                        }
                    }
                }
                if hello.chosen.is_some() && answers.chosen == hello.chosen {
                    bail!("host one is called so already; choose another name with --node");
                }
                if hello.address == answers.vip.addr() {
                    bail!("{} is the virtual address, which no host has for its own", hello.address);
                }
                if self.places[at].role == Role::Data {
                    interface_of(hello, answers)?;
                }
                Ok(())
            }
            Phase::Delivering(pending) => {
                let member = self.places[at].member.as_deref().and_then(|name| pending.plan.member(name));
                let member = member.context("the place is in no plan")?;
                if member.address != hello.address {
                    bail!(
                        "the line is for {}, which is decided to be at {}, and this is {}",
                        member.name,
                        member.address,
                        hello.address
                    );
                }
                Ok(())
            }
        }
    }

    /// Everybody is here: makes the plan, writes it down, and places the own files.
    fn decide(&mut self) -> Result<()> {
        let Phase::Gathering(answers) = &self.phase else { return Ok(()) };
        let visitors: Vec<(Role, &Hello)> = self
            .places
            .iter()
            .filter_map(|place| match &place.state {
                State::Taken(visitor) => Some((place.role, &visitor.hello)),
                _ => None,
            })
            .collect();
        let own =
            Called { chosen: answers.chosen.clone(), hostname: self.site.hostname.clone(), role: Role::Data };
        let others = visitors.iter().map(|(role, hello)| Called {
            chosen: hello.chosen.clone(),
            hostname: hello.hostname.clone(),
            role: *role,
        });
        let names = names(&std::iter::once(own).chain(others).collect::<Vec<_>>());
        let mut members = vec![Member {
            name: names[0].clone(),
            role: Role::Data,
            address: answers.own,
            interface: Some(answers.interface.clone()),
            state_dir: self.site.state_dir.clone(),
            data_dir: Some(self.site.data_dir.clone()),
        }];
        for ((role, hello), name) in visitors.iter().zip(&names[1..]) {
            members.push(self.member(*role, hello, name, answers)?);
        }
        let plan = Plan { vip: answers.vip, two_node: self.site.two_node, gateway: answers.gateway, members };
        let secrets = Secrets::generate().context("make the secrets of the cluster")?;
        let pending = Pending::decide(&self.site.config_dir, plan, &secrets)?;
        for (place, member) in self.places.iter_mut().zip(&pending.plan.members[1..]) {
            place.title = title_of(member);
            place.label.clone_from(&member.name);
            place.member = Some(member.name.clone());
        }
        self.phase = Phase::Delivering(pending);
        self.say_how_to_go_on();
        say(&format!("All are here: {}.", names.join(", ")));
        self.place_own()?;
        for at in 0..self.places.len() {
            self.deliver(at)?;
        }
        Ok(())
    }

    fn member(&self, role: Role, hello: &Hello, name: &str, answers: &Answers) -> Result<Member> {
        let (interface, data_dir, usual) = match role {
            Role::Data => {
                let data = match (&hello.data_dir, &hello.state_dir) {
                    (Some(data_dir), _) => data_dir.clone(),
                    (None, Some(state_dir)) => state_dir.join("store"),
                    (None, None) => self.site.data_dir.clone(),
                };
                (Some(interface_of(hello, answers)?), Some(data), self.site.state_dir.clone())
            }
            Role::Witness => (None, None, state_dir(Role::Witness)),
        };
        Ok(Member {
            name: name.to_owned(),
            role,
            address: hello.address,
            interface,
            state_dir: hello.state_dir.clone().unwrap_or(usual),
            data_dir,
        })
    }

    /// Places the files of this host's member, before any other host gets its own.
    fn place_own(&self) -> Result<()> {
        let Phase::Delivering(pending) = &self.phase else { return Ok(()) };
        let own = &pending.plan.members[0];
        let Some(files) = pending.files(own)? else { return Ok(()) };
        let outcome = place::place(&self.site.config_dir, Role::Data, &own.name, &files, Readers::Owner)?;
        pending.placed(&own.name)?;
        if outcome == Outcome::Placed {
            let path = self.site.config_dir.join(place::config_name(Role::Data));
            say(&format!("Wrote {} and its secrets.", path.display()));
        }
        Ok(())
    }

    /// Sends a host its files.
    fn deliver(&mut self, at: usize) -> Result<()> {
        let Phase::Delivering(pending) = &self.phase else { return Ok(()) };
        let place = &self.places[at];
        let State::Taken(visitor) = &place.state else { return Ok(()) };
        let member = place.member.as_deref().and_then(|name| pending.plan.member(name));
        let member = member.context("the place is in no plan")?;
        let files = pending.files(member)?.ok_or_else(|| anyhow!("the files of {} are gone", member.name))?;
        // Where that fails its task has ended, and says so.
        let _ = visitor.tell.try_send(FromHost::Files { name: member.name.clone(), files });
        Ok(())
    }

    fn placed(&mut self, at: usize, visit: u64) -> Result<()> {
        let Phase::Delivering(pending) = &self.phase else { return Ok(()) };
        let place = &mut self.places[at];
        match std::mem::replace(&mut place.state, State::Free) {
            State::Taken(visitor) if visitor.visit == visit => {
                let name = place.member.clone().unwrap_or_default();
                pending.placed(&name)?;
                place.state = State::Placed(Some(visitor));
                say(&format!("{} has its files.", place.title));
                self.tell_all();
            }
            other => place.state = other,
        }
        Ok(())
    }

    /// A host is gone, or placed nothing: its place is free, if it was the one who had it.
    fn left(&mut self, at: usize, visit: u64, what: &str) -> Result<()> {
        let place = &mut self.places[at];
        match &place.state {
            State::Taken(visitor) if visitor.visit == visit => {}
            // It was lost before it said who it is, and its token with it.
            State::Free => {}
            // It has what it needs, and starts by itself.
            State::Placed(Some(visitor)) if visitor.visit == visit => {
                let starts = visitor.hello.starts;
                say(&format!(
                    "{} {what}. It has its files{}.",
                    place.title,
                    if starts { ", and starts" } else { "" }
                ));
                return Ok(());
            }
            _ => return Ok(()),
        }
        place.state = State::Free;
        say(&format!("{} {what}. The line is used up; here is a new one.", place.title));
        self.give_tokens(&[at])
    }
}

/// What a place is called once it is decided whose it is.
fn title_of(member: &Member) -> String {
    format!("{} ({})", member.name, member.address)
}

/// The interface that carries the virtual address on a host that joins.
fn interface_of(hello: &Hello, answers: &Answers) -> Result<String> {
    let all = super::discover::in_words(&hello.interfaces);
    if let Some(name) = &hello.interface {
        let found = hello.interfaces.iter().find(|interface| interface.name == *name);
        return found.map(|interface| interface.name.clone()).with_context(|| {
            format!("{name} is no Ethernet interface there that is up and has an address; there are: {all}")
        });
    }
    let (interface, own) = interface_towards(&hello.interfaces, answers.vip.addr()).with_context(|| {
        format!(
            "it has no address in {}, the network of the virtual address; its addresses are: {all}. Give it one, or name the interface: holdfast join --interface NAME",
            answers.vip.trunc()
        )
    })?;
    if own.prefix_len() != answers.vip.prefix_len() {
        bail!(
            "its address {own} has another prefix than the network of host one, {}; one of the two is wrong",
            answers.vip.trunc()
        );
    }
    Ok(interface.name.clone())
}

/// A time as a person says it.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}
