//! What a scenario's lines say: the story of the members, and what clients saw.

use std::collections::BTreeMap;

use crate::sim::s3::blob::Blob;
use crate::sim::s3::call::{Call, Code, Condition, Doubt, Key};
use crate::sim::s3::history::{Heard, History, OpId, Recorded};
use crate::sim::world::network::MS;
use crate::sim::world::{Ns, World};

/// Clients ask this often.
const EVERY: Ns = 10 * MS;
/// And wait this long for an answer.
const PATIENCE: Ns = 10 * MS;
/// A pause between two successes that is worth a line.
const PAUSE: Ns = 25 * MS;
/// The first key of the objects that clients write all the time; each is written once.
const FIRST_KEY: u32 = 10_000;
/// The object that clients read all the time.
pub const READ_KEY: Key = Key(9_999);

/// Lines that only repeat the step that they stand below.
const ECHOES: [&str; 8] = [
    "an operator orders",
    "the agent dies",
    "the agent is stopped",
    "the agent goes on",
    "the agent is asked to end",
    "the service link goes",
    "disks are lost",
    "0 bytes are left",
];

/// A line of the outcome: when, who, what.
pub type Line = (Ns, String, String);

/// Takes the lines that were told since the last time.
pub fn told_since(world: &World, told: &mut u64, into: &mut Vec<Line>) -> Result<(), String> {
    let new = world.story.told() - *told;
    if new == 0 {
        return Ok(());
    }
    let kept = world.story.lines().len() as u64;
    if new > kept {
        return Err(format!("{new} lines were told within a millisecond"));
    }
    *told += new;
    for (at, host, line) in world.story.lines().skip((kept - new) as usize) {
        if !ECHOES.iter().any(|echo| line.starts_with(echo)) {
            let line = line.split_once(", life ").map_or(line.as_str(), |(start, _)| start);
            into.push((*at, world.hosts[*host].name.clone(), line.to_owned()));
        }
    }
    Ok(())
}

/// What an answer means to whoever asked.
pub fn in_words(op: &Recorded, name: impl Fn(&Heard) -> String) -> String {
    let sure = matches!(op.call, Call::Get { .. });
    let open = if sure { "" } else { ": nobody knows whether it was written" };
    match &op.heard {
        Heard::Refused(Code::NoSuchKey) => "there is none".into(),
        Heard::Refused(Code::NotPrimary) => "refused (not the primary)".into(),
        Heard::Refused(Code::Unavailable) => "refused (come back later)".into(),
        Heard::Refused(Code::DiskFull) => "refused (no space left)".into(),
        Heard::Refused(code) => format!("refused ({code:?})"),
        Heard::Nothing(Some(Doubt::ConnectionLost)) => format!("the connection broke{open}"),
        Heard::Nothing(Some(Doubt::NotPrimary)) => format!("no longer the primary{open}"),
        Heard::Nothing(Some(Doubt::Failed)) => format!("the log failed{open}"),
        Heard::Nothing(_) => format!("no answer{open}"),
        Heard::Stored(_) => "stored".into(),
        heard => name(heard),
    }
}

/// One of the two clients that ask all the time.
struct Stream {
    client: usize,
    what: &'static str,
    open: Option<OpId>,
    next: Ns,
    last_success: Ns,
}

/// A client that writes and one that reads, all the time; their pauses are what an outage is.
pub struct Load {
    streams: [Stream; 2],
    on: bool,
    written: u32,
}

impl Load {
    /// Clients that do nothing yet.
    pub fn new(world: &mut World) -> Load {
        let mut stream =
            |what| Stream { client: world.add_led_client(), what, open: None, next: 0, last_success: 0 };
        Load { streams: [stream("writes"), stream("reads")], on: false, written: 0 }
    }

    /// They begin.
    pub fn begin(&mut self, now: Ns) {
        self.on = true;
        for stream in &mut self.streams {
            (stream.next, stream.last_success) = (now, now);
        }
    }

    /// They end; a pause that has not ended is reported.
    pub fn end(&mut self, now: Ns, into: &mut Vec<Line>) {
        self.report_open(now, into);
        self.on = false;
    }

    /// The pauses that last.
    pub fn report_open(&self, now: Ns, into: &mut Vec<Line>) {
        for stream in self.streams.iter().filter(|_| self.on) {
            let pause = now.saturating_sub(stream.last_success);
            if pause > PAUSE {
                let line = format!("{} are not answered, since {} ms", stream.what, pause / MS);
                into.push((now, "clients".into(), line));
            }
        }
    }

    /// Asks what is due, and hears what has come.
    pub fn turn(&mut self, world: &mut World, into: &mut Vec<Line>) {
        for at in 0..self.streams.len() {
            let stream = &mut self.streams[at];
            if let Some(op) = stream.open {
                if world.is_waiting(stream.client) {
                    continue;
                }
                stream.open = None;
                let op = world.history.op(op);
                if let (Heard::Stored(_) | Heard::Object { .. }, Some((_, when))) = (&op.heard, op.completed)
                {
                    let pause = when.saturating_sub(stream.last_success);
                    stream.last_success = when;
                    if pause > PAUSE && self.on {
                        let line = format!("{} are answered again, after {} ms", stream.what, pause / MS);
                        into.push((when, "clients".into(), line));
                    }
                }
            }
            if self.on && world.now >= stream.next {
                stream.next = world.now + EVERY;
                let call = match at {
                    0 => {
                        self.written += 1;
                        let key = Key(FIRST_KEY + self.written);
                        Call::Put { key, blob: Blob::new(u64::from(key.0), 8), condition: Condition::Always }
                    }
                    _ => Call::Get { key: READ_KEY },
                };
                let client = self.streams[at].client;
                self.streams[at].open = Some(world.ask(client, call, None, PATIENCE));
            }
        }
    }
}

/// The objects that a scenario writes by name.
#[derive(Default)]
pub struct Objects {
    keys: BTreeMap<String, (Key, u64)>,
    bodies: BTreeMap<(Key, Blob), String>,
}

impl Objects {
    /// The key of an object.
    pub fn key(&mut self, name: &str) -> Key {
        let next = Key(self.keys.len() as u32);
        self.keys.entry(name.to_owned()).or_insert((next, 0)).0
    }

    /// What is written to it next.
    pub fn next_write(&mut self, name: &str) -> Call {
        let key = self.key(name);
        let written = &mut self.keys.get_mut(name).expect("it was just made").1;
        *written += 1;
        let blob = Blob::new(u64::from(key.0) << 16 | *written, 16);
        self.bodies.insert((key, blob), ordinal(*written));
        Call::Put { key, blob, condition: Condition::Always }
    }

    /// Which of the writes an answer shows.
    pub fn shown(&self, key: Key, heard: &Heard, history: &History) -> String {
        let Heard::Object { token, wrong } = heard else { return format!("{heard:?}") };
        if let Some(wrong) = wrong {
            return format!("WRONG: {wrong}");
        }
        let found = self
            .bodies
            .iter()
            .find(|((of, blob), _)| *of == key && history.token(blob.etag()) == Some(*token));
        found
            .map_or_else(|| "what nobody wrote".to_owned(), |(_, which)| format!("as it was written {which}"))
    }
}

fn ordinal(n: u64) -> String {
    match n {
        1 => "first".into(),
        2 => "second".into(),
        3 => "third".into(),
        _ => format!("for the {n}th time"),
    }
}
