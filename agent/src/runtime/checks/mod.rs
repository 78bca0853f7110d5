//! Runs the `check` blocks of the configuration and says when what they find together has changed.
//!
//! ```text
//!   hysteresis.rs  how many runs make a judgement
//!   exec.rs        a program, in a process group of its own
//!   unit.rs        a systemd unit, by `systemctl is-active`
//!   tcp.rs http.rs a connection, an answer
//!   file.rs process.rs  what the file system says
//! ```
//!
//! Each check has its own schedule and its own time limit, on one thread that is not the core's. Whatever may
//! hang in the kernel runs on a thread of its own, and is not begun again before it has come back: at most one
//! run of a check is under way. Nothing here decides about the role; the core is told the sum.

mod exec;
mod file;
mod http;
mod hysteresis;
mod process;
mod tcp;
#[cfg(test)]
mod tests;
mod unit;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use holdfast_config::{Check, CheckKind, show_duration};
use holdfast_heartbeat::Time;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::hysteresis::Hysteresis;
use super::address;
use crate::node::event::{Event, FailedCheck};

/// What a failed check without a weight counts: more than the weights of all checks that a configuration can have
/// (32 of at most 254 each).
pub const WITHOUT_WEIGHT: u32 = 10_000;
/// The longest text that is kept of a run, in bytes.
const MAX_WORDS: usize = 200;

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    passed: bool,
    /// In words, or the last line that a program printed.
    words: String,
}

impl Outcome {
    fn passed(words: impl Into<String>) -> Outcome {
        Outcome { passed: true, words: words.into() }
    }

    fn failed(words: impl Into<String>) -> Outcome {
        Outcome { passed: false, words: words.into() }
    }
}

/// A check as `ha status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    pub name: String,
    /// `passing`, `failing`, or `unknown` before the first run is over.
    pub state: String,
    /// For how long.
    pub since_ms: u64,
    /// What the last run said.
    pub last: String,
    /// What its failure counts; absent: more than all weights together.
    pub weight: Option<u32>,
    /// Runs since the start.
    pub runs: u64,
    /// Runs that failed since the start.
    pub failed_runs: u64,
}

/// What the checks found, for whoever shows it. The lock is held for a copy, never across a run.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Vec<Line>>>);

struct Line {
    name: String,
    weight: Option<u32>,
    state: Option<bool>,
    since: Time,
    last: String,
    runs: u64,
    failed_runs: u64,
}

impl Board {
    /// Every check, in the order of the configuration.
    pub fn read(&self, now: Time) -> Vec<CheckStatus> {
        let shown = |line: &Line| CheckStatus {
            name: line.name.clone(),
            state: match line.state {
                None => "unknown",
                Some(true) => "passing",
                Some(false) => "failing",
            }
            .to_owned(),
            since_ms: now.since(line.since).as_millis() as u64,
            last: line.last.clone(),
            weight: line.weight,
            runs: line.runs,
            failed_runs: line.failed_runs,
        };
        self.0.lock().iter().map(shown).collect()
    }
}

/// Starts the thread, if there is anything to check.
pub fn spawn(checks: Vec<Check>, report: impl Fn(Event) + Send + 'static) -> std::io::Result<Board> {
    let board = Board::default();
    if checks.is_empty() {
        return Ok(board);
    }
    *board.0.lock() = checks.iter().map(Line::new).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .thread_name("check")
        .max_blocking_threads(2 * checks.len() + 2)
        .enable_all()
        .build()?;
    let shown = board.clone();
    std::thread::Builder::new().name("checks".into()).spawn(move || {
        let judge = RefCell::new(Judge::new(&checks, shown));
        let watch = |turn: usize| watch(&checks[turn], turn, &judge, &report);
        runtime.block_on(join_all((0..checks.len()).map(watch)));
    })?;
    Ok(board)
}

/// Runs one check for ever.
async fn watch(check: &Check, turn: usize, judge: &RefCell<Judge>, report: &impl Fn(Event)) {
    let mut runner = Runner::new(check);
    let mut schedule = interval(check.interval);
    schedule.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        schedule.tick().await;
        let outcome = runner.run(check.timeout).await;
        if let Some(event) = judge.borrow_mut().take(turn, &outcome) {
            report(event);
        }
    }
}

/// Whatever a check keeps between its runs.
enum Runner {
    Exec(exec::Exec),
    Tcp(String),
    Http(http::Http),
    File(file::File),
    Process(process::Process),
}

impl Runner {
    fn new(check: &Check) -> Runner {
        match &check.kind {
            CheckKind::Exec(argv) => Runner::Exec(exec::Exec::new(&check.name, argv.clone())),
            CheckKind::Unit(unit) => Runner::Exec(unit::is_active(&check.name, unit)),
            CheckKind::Tcp(address) => Runner::Tcp(address.clone()),
            CheckKind::Http { url, status } => Runner::Http(http::Http::new(url.clone(), status.clone())),
            CheckKind::File { path, max_age } => Runner::File(file::File::new(path.clone(), *max_age)),
            CheckKind::Process(name) => Runner::Process(process::Process::named(name.clone())),
            CheckKind::Pidfile(path) => Runner::Process(process::Process::of_file(path.clone())),
        }
    }

    /// One run, which ends within the limit.
    async fn run(&mut self, limit: Duration) -> Outcome {
        let run = async {
            match self {
                Runner::Exec(exec) => exec.run().await,
                Runner::Tcp(address) => tcp::run(address).await,
                Runner::Http(http) => http.run().await,
                Runner::File(file) => file.run().await,
                Runner::Process(process) => process.run().await,
            }
        };
        let late = |_| Outcome::failed(format!("no result within {}", show_duration(limit)));
        timeout(limit, run).await.unwrap_or_else(late)
    }
}

/// Work that may hang in the kernel, on a thread of its own: at most one at a time.
#[derive(Default)]
struct Apart(Option<tokio::task::JoinHandle<Outcome>>);

impl Apart {
    /// Runs `work`; where an earlier one hangs still, waits for that one instead.
    async fn run(&mut self, work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
        let handle = self.0.get_or_insert_with(|| tokio::task::spawn_blocking(work));
        let outcome = handle.await.unwrap_or_else(|error| Outcome::failed(error.to_string()));
        self.0 = None;
        outcome
    }
}

/// What all runs so far amount to.
struct Judge {
    board: Board,
    hysteresis: Vec<Hysteresis>,
}

impl Line {
    fn new(check: &Check) -> Line {
        Line {
            name: check.name.clone(),
            weight: check.weight,
            state: None,
            since: address::now(),
            last: String::new(),
            runs: 0,
            failed_runs: 0,
        }
    }
}

impl Judge {
    fn new(checks: &[Check], board: Board) -> Judge {
        Judge { board, hysteresis: checks.iter().map(|c| Hysteresis::new(c.rise, c.fall)).collect() }
    }

    /// Takes the outcome of a run in; an event where the judgement of the whole has changed.
    fn take(&mut self, turn: usize, outcome: &Outcome) -> Option<Event> {
        let changed = self.hysteresis[turn].take(outcome.passed);
        let mut lines = self.board.0.lock();
        let line = &mut lines[turn];
        line.runs += 1;
        line.failed_runs += u64::from(!outcome.passed);
        line.last = shortened(&outcome.words);
        let state = changed?;
        let first_and_good = line.state.is_none() && state;
        line.state = Some(state);
        line.since = address::now();
        // What was not judged yet counted as good.
        if first_and_good {
            return None;
        }
        let failing = lines.iter().filter(|line| line.state == Some(false));
        let penalty = failing.clone().map(|line| line.weight.unwrap_or(WITHOUT_WEIGHT)).sum();
        let failed =
            failing.map(|line| FailedCheck { name: line.name.clone(), detail: line.last.clone() }).collect();
        Some(Event::ChecksJudged { penalty, failed })
    }
}

/// At most [`MAX_WORDS`] bytes of a line, with nothing in it that a terminal would take for an order.
fn shortened(words: &str) -> String {
    let mut short: String = words.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() > MAX_WORDS {
        let end = short.floor_char_boundary(MAX_WORDS);
        short.truncate(end);
        short.push('…');
    }
    short
}
