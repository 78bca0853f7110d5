//! What happened, for people: the last lines of every host; and a digest of everything, for machines.

use std::collections::VecDeque;
use std::io::Write;

use holdfast_agent::node::event::Event;

use super::world::Ns;

/// Lines that are kept: enough for the last few changes of primary.
const LINES: usize = 400;

/// The story of a run.
#[derive(Default)]
pub struct Story {
    lines: VecDeque<(Ns, usize, String)>,
    digest: u64,
    /// Where every event goes as a line of its own, if anywhere.
    log: Option<Box<dyn Write>>,
    told: u64,
}

impl Story {
    /// Writes every event to `log` too: the whole event log.
    pub fn write_to(&mut self, log: Box<dyn Write>) {
        self.log = Some(log);
    }

    /// A line for people.
    pub fn tell(&mut self, now: Ns, host: usize, line: String) {
        self.mix(now);
        line.bytes().for_each(|byte| self.mix(u64::from(byte)));
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{now} {host} {line}");
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.told += 1;
        self.lines.push_back((now, host, line));
    }

    /// An event that a node takes in: part of the digest and of the event log.
    pub fn note_event(&mut self, now: Ns, host: usize, event: &Event) {
        self.mix(now);
        self.mix(host as u64);
        let detail = match event {
            Event::Ticked => 1,
            Event::HeartbeatReceived { heartbeat, .. } => heartbeat.seq << 8 | 2,
            Event::Persisted { token } => token << 8 | 3,
            Event::LogAdvanced { end, durable, .. } => (end.0 << 20 ^ durable.0) << 8 | 4,
            Event::FollowerProgressed { durable, .. } => durable.0 << 8 | 5,
            _ => 6,
        };
        self.mix(detail);
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{now} {host} {event:?}");
        }
    }

    /// Takes a number into the digest.
    pub fn mix(&mut self, number: u64) {
        // FNV-1a on words, with a rotation so that high bits matter too.
        self.digest = (self.digest ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Stands for everything that happened, in its order.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The last lines, oldest first.
    pub fn lines(&self) -> impl ExactSizeIterator<Item = &(Ns, usize, String)> {
        self.lines.iter()
    }

    /// How many lines were told, those included that are no longer kept.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// The last lines as text, with the names of the hosts.
    pub fn timeline(&self, names: &[String]) -> String {
        let mut text = String::new();
        if self.told > self.lines.len() as u64 {
            text.push_str(&format!(
                "  (the first {} lines are left out)\n",
                self.told - self.lines.len() as u64
            ));
        }
        for (at, host, line) in &self.lines {
            let name = names.get(*host).map_or("-", String::as_str);
            text.push_str(&format!("  {:>12.3} ms  {name}  {line}\n", *at as f64 / 1e6));
        }
        text
    }
}
