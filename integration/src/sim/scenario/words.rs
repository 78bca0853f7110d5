//! The words of scenarios: what a cluster may be, and every step.
//!
//! A table has the pattern of each step. Words in small letters stand for themselves; `HOST` is a member,
//! `SPAN` a time such as `300ms` or `2s`, `NUMBER` a number, `NAME` an object that clients write. An error shows
//! the patterns that were close.

use holdfast_agent::node::event::Command;
use holdfast_heartbeat::NodeId;

use crate::sim::world::Ns;
use crate::sim::world::fencing::Devices;
use crate::sim::world::hosts::Death;
use crate::sim::world::kernel::GateKind;
use crate::sim::world::network::{MS, S, US};
use crate::sim::world::shape::{MOST_HOSTS, Shape};

/// Something to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is primary and answers on the address.
    Primary(usize),
    /// Its agent runs and is standby.
    Standby(usize),
    /// Its agent does not run.
    Down(usize),
    /// A primary serves, and has recorded exactly these data members as in sync.
    InSync(Vec<usize>),
    /// There is one primary, it serves, and every data member follows it in sync.
    Whole,
}

/// What a client is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// An answer, sooner or later.
    Success,
    /// Anything else, at the first try.
    Failure,
}

/// A network's direction, or both, on one path, or on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// From whom.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// Whether the other direction is meant too.
    pub both: bool,
    /// Which path, from 0.
    pub path: Option<usize>,
}

/// What can be done in a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table below has the words")]
pub enum Step {
    Wait(Ns),
    WaitUntil(Condition),
    Unchanged(Ns),
    Show,
    PowerOff(usize),
    Kill(usize, Death),
    Start(usize),
    Stop(usize),
    Freeze(usize),
    Thaw(usize),
    Cut(Way),
    Mend(Way),
    Isolate { host: usize, clients_too: bool },
    Rejoin(usize),
    MendAll,
    Link { host: usize, down: bool },
    Write { name: String, expected: Expected },
    Read { name: String, host: Option<usize>, expected: Expected },
    Load(bool),
    Order { host: usize, command: Command },
    FillDisk(usize),
    FreeDisk(usize),
    FailSync(usize),
    Penalty { host: usize, penalty: u32 },
    StallDisk { host: usize, span: Ns },
    StateDisk { host: usize, fails: bool },
    PreHooks { host: usize, veto: bool },
    Devices { host: usize, devices: Devices },
    Rot(usize),
    LoseDisks(usize),
    Keys { host: usize, signing: u32, accepted: Option<u32> },
    ClockRate { host: usize, ppm: i64 },
    WallClock { host: usize, by_ms: i64 },
    Record,
    Replay(u64),
    AcceptLoss,
}

/// A value of a placeholder.
#[derive(Clone, Debug)]
enum Value {
    Host(usize),
    Span(Ns),
    Number(u64),
    Name(String),
}

/// The values of the placeholders of a line, in their order.
struct Values(Vec<Value>);

impl Values {
    fn host(&self, at: usize) -> usize {
        match self.0[at] {
            Value::Host(host) => host,
            _ => unreachable!("the pattern has a HOST there"),
        }
    }

    fn span(&self, at: usize) -> Ns {
        match self.0[at] {
            Value::Span(span) => span,
            _ => unreachable!("the pattern has a SPAN there"),
        }
    }

    fn ms(&self, at: usize) -> u64 {
        self.span(at) / MS
    }

    fn number(&self, at: usize) -> u64 {
        match self.0[at] {
            Value::Number(number) => number,
            _ => unreachable!("the pattern has a NUMBER there"),
        }
    }

    fn name(&self, at: usize) -> String {
        match &self.0[at] {
            Value::Name(name) => name.clone(),
            _ => unreachable!("the pattern has a NAME there"),
        }
    }

    fn way(&self, both: bool, path: bool) -> Way {
        let path = path.then(|| (self.number(2) as usize).clamp(1, 2) - 1);
        Way { from: self.host(0), to: self.host(1), both, path }
    }

    fn order(&self, command: Command) -> Step {
        Step::Order { host: self.host(0), command }
    }

    fn in_sync(&self) -> Step {
        Step::WaitUntil(Condition::InSync((0..self.0.len()).map(|at| self.host(at)).collect()))
    }
}

type Make = fn(&Values) -> Step;

/// Every step: its pattern, what it does, and its meaning.
const STEPS: &[(&str, &str, Make)] = &[
    ("wait SPAN", "time passes", |v| Step::Wait(v.span(0))),
    ("wait until HOST is primary", "and answers on the address", |v| {
        Step::WaitUntil(Condition::Primary(v.host(0)))
    }),
    ("wait until HOST is standby", "its agent runs and is standby", |v| {
        Step::WaitUntil(Condition::Standby(v.host(0)))
    }),
    ("wait until HOST is down", "its agent does not run", |v| Step::WaitUntil(Condition::Down(v.host(0)))),
    ("wait until in sync: HOST", "the primary has recorded this member alone", Values::in_sync),
    ("wait until in sync: HOST HOST", "the primary has recorded exactly these members", Values::in_sync),
    ("wait until in sync: HOST HOST HOST", "the primary has recorded exactly these members", Values::in_sync),
    ("wait until whole", "a primary serves, and every data member is in sync", |_| {
        Step::WaitUntil(Condition::Whole)
    }),
    ("nothing changes for SPAN", "nobody's role or epoch changes", |v| Step::Unchanged(v.span(0))),
    ("show", "the members as they are, and what they warn of", |_| Step::Show),
    ("power off HOST", "the host loses its power", |v| Step::PowerOff(v.host(0))),
    ("power on HOST", "the host boots, and its agent starts", |v| Step::Start(v.host(0))),
    ("kill HOST", "SIGKILL of the agent; its supervisor lives", |v| Step::Kill(v.host(0), Death::Agent)),
    ("kill HOST and its supervisor", "SIGKILL of both: only the kernel is left", |v| {
        Step::Kill(v.host(0), Death::Everything)
    }),
    ("start HOST", "the agent is started", |v| Step::Start(v.host(0))),
    ("stop HOST", "the agent is asked to end in good order", |v| Step::Stop(v.host(0))),
    ("freeze HOST", "SIGSTOP of the agent, or suspend of the machine: its clock goes on", |v| {
        Step::Freeze(v.host(0))
    }),
    ("thaw HOST", "it goes on", |v| Step::Thaw(v.host(0))),
    ("cut HOST -> HOST", "nothing gets through in this direction", |v| Step::Cut(v.way(false, false))),
    ("cut HOST <-> HOST", "nothing gets through in both", |v| Step::Cut(v.way(true, false))),
    ("cut HOST <-> HOST on path NUMBER", "nothing gets through on one of two paths", |v| {
        Step::Cut(v.way(true, true))
    }),
    ("mend HOST -> HOST", "packets get through again", |v| Step::Mend(v.way(false, false))),
    ("mend HOST <-> HOST", "packets get through again", |v| Step::Mend(v.way(true, false))),
    ("mend everything", "all networks are whole", |_| Step::MendAll),
    ("isolate HOST", "cut off from all members and from clients", |v| Step::Isolate {
        host: v.host(0),
        clients_too: true,
    }),
    ("isolate HOST from members", "cut off from all members; clients reach it", |v| Step::Isolate {
        host: v.host(0),
        clients_too: false,
    }),
    ("rejoin HOST", "no longer isolated", |v| Step::Rejoin(v.host(0))),
    ("link of HOST down", "the service interface loses its carrier", |v| Step::Link {
        host: v.host(0),
        down: true,
    }),
    ("link of HOST up", "the carrier is back", |v| Step::Link { host: v.host(0), down: false }),
    ("write NAME", "a client writes until it succeeds", |v| Step::Write {
        name: v.name(0),
        expected: Expected::Success,
    }),
    ("write NAME fails", "a client tries once, and must not succeed", |v| Step::Write {
        name: v.name(0),
        expected: Expected::Failure,
    }),
    ("read NAME", "a client reads until it gets an answer", |v| Step::Read {
        name: v.name(0),
        host: None,
        expected: Expected::Success,
    }),
    ("read NAME fails", "a client tries once, and must not succeed", |v| Step::Read {
        name: v.name(0),
        host: None,
        expected: Expected::Failure,
    }),
    ("read NAME at HOST", "by the host's own address", |v| Step::Read {
        name: v.name(0),
        host: Some(v.host(1)),
        expected: Expected::Success,
    }),
    ("read NAME at HOST fails", "by the host's own address", |v| Step::Read {
        name: v.name(0),
        host: Some(v.host(1)),
        expected: Expected::Failure,
    }),
    ("clients begin", "one writes and one reads every 10 ms; pauses are reported", |_| Step::Load(true)),
    ("clients end", "they stop", |_| Step::Load(false)),
    ("order HOST failover", "ha failover", |v| v.order(Command::Failover { to: None })),
    ("order HOST failover to HOST", "ha failover --to", |v| {
        let to = char::from(b'a' + v.host(1) as u8).to_string();
        v.order(Command::Failover { to: NodeId::new(to).ok() })
    }),
    ("order HOST failback", "ha failback", |v| v.order(Command::Failback)),
    ("order HOST promote", "ha promote", |v| v.order(Command::Promote { accept_data_loss: false })),
    ("order HOST promote accepting data loss", "ha promote --accept-data-loss", |v| {
        v.order(Command::Promote { accept_data_loss: true })
    }),
    ("order HOST pause", "ha pause", |v| v.order(Command::Pause { at_unix_ms: 0 })),
    ("order HOST fence-confirmed HOST", "ha fence-confirmed", |v| {
        let name = char::from(b'a' + v.host(1) as u8).to_string();
        let member = NodeId::new(name).expect("a letter is a name");
        v.order(Command::FenceConfirmed { member })
    }),
    ("order HOST resume", "ha resume", |v| v.order(Command::Resume { at_unix_ms: 0 })),
    ("order HOST drain", "ha drain", |v| v.order(Command::Drain)),
    ("order HOST priority NUMBER", "ha members edit HOST --priority", |v| {
        v.order(Command::SetPriority { priority: v.number(1) as u32 })
    }),
    ("fill disk of HOST", "no space is left on it", |v| Step::FillDisk(v.host(0))),
    ("free disk of HOST", "there is space again", |v| Step::FreeDisk(v.host(0))),
    ("fail next fsync of HOST", "of its log", |v| Step::FailSync(v.host(0))),
    ("check of HOST fails counting NUMBER", "a check is judged to fail, and counts so much", |v| {
        Step::Penalty { host: v.host(0), penalty: v.number(1) as u32 }
    }),
    ("checks of HOST pass", "all of them", |v| Step::Penalty { host: v.host(0), penalty: 0 }),
    ("disks of HOST stall for SPAN", "no write ends; judged after 5 s, and 3 s after the end", |v| {
        Step::StallDisk { host: v.host(0), span: v.span(1) }
    }),
    ("state disk of HOST fails", "votes cannot be written", |v| Step::StateDisk {
        host: v.host(0),
        fails: true,
    }),
    ("state disk of HOST works", "they can again", |v| Step::StateDisk { host: v.host(0), fails: false }),
    ("pre-hooks of HOST veto", "every takeover there, until they agree", |v| Step::PreHooks {
        host: v.host(0),
        veto: true,
    }),
    ("pre-hooks of HOST agree", "they end well again", |v| Step::PreHooks { host: v.host(0), veto: false }),
    ("fence devices of HOST fail", "those that it uses answer that they cannot", |v| Step::Devices {
        host: v.host(0),
        devices: Devices::Fail,
    }),
    ("fence devices of HOST hang", "those that it uses never answer", |v| Step::Devices {
        host: v.host(0),
        devices: Devices::Hang,
    }),
    ("fence devices of HOST work", "those that it uses switch off and say so", |v| Step::Devices {
        host: v.host(0),
        devices: Devices::Work,
    }),
    ("rot disk of HOST", "a bit of its log turns over while its agent is down", |v| Step::Rot(v.host(0))),
    ("lose disks of HOST", "votes and log are gone", |v| Step::LoseDisks(v.host(0))),
    ("keys of HOST: sign NUMBER", "its secret is the one of this number", |v| Step::Keys {
        host: v.host(0),
        signing: v.number(1) as u32,
        accepted: None,
    }),
    ("keys of HOST: sign NUMBER accept NUMBER", "a second secret is understood too", |v| Step::Keys {
        host: v.host(0),
        signing: v.number(1) as u32,
        accepted: Some(v.number(2) as u32),
    }),
    ("clock of HOST is NUMBER ppm fast", "its deciding clock runs at another rate", |v| Step::ClockRate {
        host: v.host(0),
        ppm: v.number(1) as i64,
    }),
    ("clock of HOST is NUMBER ppm slow", "its deciding clock runs at another rate", |v| Step::ClockRate {
        host: v.host(0),
        ppm: -(v.number(1) as i64),
    }),
    ("wall clock of HOST jumps SPAN ahead", "what nobody decides by", |v| Step::WallClock {
        host: v.host(0),
        by_ms: v.ms(1) as i64,
    }),
    ("wall clock of HOST jumps SPAN back", "what nobody decides by", |v| Step::WallClock {
        host: v.host(0),
        by_ms: -(v.ms(1) as i64),
    }),
    ("record packets", "somebody who means harm keeps some of them", |_| Step::Record),
    ("replay NUMBER packets", "and sends them again, from any address, and rubbish too", |v| {
        Step::Replay(v.number(0))
    }),
    (
        "acknowledged data may be lost",
        "said where the rules allow it: the history is not judged before",
        |_| Step::AcceptLoss,
    ),
];

/// Changes what a cluster is.
type Describe = fn(&mut (Shape, bool), &Values);

/// Every property of a cluster.
const CLUSTERS: &[(&str, &str, Describe)] = &[
    ("NUMBER data", "data members: a, b, ...", |c, v| c.0.data = v.number(0) as usize),
    ("witness", "a witness: w", |c, _| c.0.witness = true),
    ("interval SPAN", "heartbeat_interval", |c, v| c.0.interval_ms = v.ms(0)),
    ("threshold NUMBER", "failure_threshold", |c, v| c.0.threshold = v.number(0) as u32),
    ("standby_timeout SPAN", "how long a write waits for a standby", |c, v| c.0.standby_timeout_ms = v.ms(0)),
    ("two paths", "a second heartbeat path", |c, _| c.0.paths = 2),
    ("two_node manual", "a pair takes over by order only", |c, _| c.0.probe = false),
    ("two_node fence", "a pair goes on alone when a device has switched the other half off", |c, _| {
        c.0.fence = true;
    }),
    ("fence devices", "each data member can have the others switched off", |c, _| c.0.fence = true),
    ("failback after SPAN", "failback_mode = \"auto\"", |c, v| c.0.failback_ms = Some(v.ms(0))),
    ("gate none", "no gate in the kernel but the lifetime of the address", |c, _| {
        c.0.gates = [GateKind::LifetimeOnly; MOST_HOSTS];
    }),
    ("gate of HOST relative", "that host's gate can only be told how long, as nftables", |c, v| {
        c.0.gates[v.host(0)] = GateKind::Relative;
    }),
    ("hooks", "hooks that are run before taking over and before handing over", |c, _| c.0.hooks = true),
    ("hooks of HOST", "the same, on that host alone", |c, v| c.0.hooks_of = Some(v.host(0))),
    ("not started", "no agent runs", |c, _| c.1 = false),
];

/// Why words were not understood, and what could stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// In words.
    pub what: String,
    /// Lines with patterns.
    pub known: String,
}

/// Reads what stands behind `cluster:`; also whether it is to be started.
pub fn cluster(items: &str) -> Result<(Shape, bool), Misread> {
    let mut described = (Shape { witness: false, ..Shape::default() }, true);
    for item in items.split(',').map(str::trim) {
        let shape = described.0.clone();
        let (row, values) = find(item, CLUSTERS.iter().map(|row| (row.0, row.1)), &shape)?;
        CLUSTERS[row].2(&mut described, &values);
    }
    match described.0.data {
        2..=5 => Ok(described),
        data => Err(Misread { what: format!("{data} data members"), known: "  there are 2 to 5".into() }),
    }
}

/// Reads a step.
pub fn step(line: &str, shape: &Shape) -> Result<Step, Misread> {
    let (row, values) = find(line, STEPS.iter().map(|row| (row.0, row.1)), shape)?;
    Ok(STEPS[row].2(&values))
}

/// Finds the row whose pattern fits.
fn find(
    line: &str,
    rows: impl Iterator<Item = (&'static str, &'static str)> + Clone,
    shape: &Shape,
) -> Result<(usize, Values), Misread> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut best: Option<(usize, String)> = None;
    for (row, (pattern, _)) in rows.clone().enumerate() {
        match fit(&words, pattern, shape) {
            Ok(values) => return Ok((row, values)),
            Err((got, what)) => {
                if best.as_ref().is_none_or(|(most, _)| got > *most) {
                    best = Some((got, what));
                }
            }
        }
    }
    let (got, what) = best.unwrap_or_default();
    let close = |pattern: &str| pattern.split_whitespace().next() == words.first().copied() || got == 0;
    let known: Vec<String> = rows
        .filter(|(pattern, _)| close(pattern))
        .map(|(pattern, meaning)| format!("  known: {pattern:<42} {meaning}"))
        .collect();
    Err(Misread { what, known: known.join("\n") })
}

/// The values of the pattern's placeholders, or how many words fit and what is wrong with the next.
fn fit(words: &[&str], pattern: &str, shape: &Shape) -> Result<Values, (usize, String)> {
    let mut values = Vec::new();
    let mut rest = words.iter();
    for (at, wanted) in pattern.split_whitespace().enumerate() {
        let Some(word) = rest.next() else { return Err((at, format!("the line ends before {wanted:?}"))) };
        // A colon belongs to the pattern's word.
        let (kind, bare) = match wanted.strip_suffix(':') {
            Some(kind) if word.ends_with(':') => (kind, &word[..word.len() - 1]),
            _ => (wanted, *word),
        };
        let value = match kind {
            "HOST" => host(bare, shape).map(Value::Host),
            "SPAN" => span(bare).map(Value::Span),
            "NUMBER" => bare.parse().map(Value::Number).map_err(|_| format!("{bare:?} is not a number")),
            "NAME" => Ok(Value::Name(bare.to_owned())),
            _ if kind == bare => continue,
            _ => Err(format!("{word:?} is not known there")),
        };
        values.push(value.map_err(|what| (at, what))?);
    }
    match rest.next() {
        None => Ok(Values(values)),
        Some(word) => Err((words.len() - rest.len() - 1, format!("{word:?} is not known there"))),
    }
}

fn host(word: &str, shape: &Shape) -> Result<usize, String> {
    let names: Vec<String> = (0..shape.hosts()).map(|h| shape.name(h)).collect();
    let found = names.iter().position(|name| name == word);
    found.ok_or_else(|| format!("{word:?} is no member of this cluster: {}", names.join(", ")))
}

fn span(word: &str) -> Result<Ns, String> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &word[digits.len()..] {
        "us" => US,
        "ms" => MS,
        "s" => S,
        "m" => 60 * S,
        "h" => 3600 * S,
        _ => return Err(format!("{word:?} is not a time such as 300ms, 2s or 5m")),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{word:?} is not a time such as 300ms, 2s or 5m"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{word:?} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_can_be_written() {
        let shape = Shape { data: 3, paths: 2, ..Shape::default() };
        for (pattern, _, _) in STEPS {
            let line = pattern
                .replace("HOST", "a")
                .replace("SPAN", "2s")
                .replace("NUMBER", "1")
                .replace("NAME", "x");
            assert!(step(&line, &shape).is_ok(), "{line}");
        }
    }

    #[test]
    fn no_pattern_hides_another() {
        let shape = Shape { data: 3, ..Shape::default() };
        for (row, (pattern, _, _)) in STEPS.iter().enumerate() {
            let line = pattern
                .replace("HOST", "b")
                .replace("SPAN", "2s")
                .replace("NUMBER", "1")
                .replace("NAME", "x");
            let found = find(&line, STEPS.iter().map(|row| (row.0, row.1)), &shape).expect("it is a step");
            assert_eq!(found.0, row, "{line}");
        }
    }
}
