//! What a replayed recording says, as a timeline in words.
//!
//! Heartbeats, ticks and acknowledgements are counted; what a person would want to know stands in a line
//! of its own, with the moment on the recorded host's wall clock.

use serde::Serialize;

use super::paint::Paint;
use super::status_view::spoken;
use super::words::{duration, grouped, printable, table};
use crate::flight::{Divergence, Flight, Origin, Outcome, Step};
use crate::node::effect::Effect;
use crate::node::event::{Event, Readiness};
use crate::node::role_name;
use crate::node::view::View;
use crate::runtime::history::rfc3339;

/// Fewer steps of the daily bread than this wait for the next line that counts them.
const WORTH_A_LINE: usize = 10;

/// One line of the timeline.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    /// Wall time, RFC 3339.
    at: String,
    /// Milliseconds since the recorded host's start.
    uptime_ms: u64,
    /// The number of the step.
    step: usize,
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// How things stood.
    State,
    /// The core was told.
    Event,
    /// The core decided.
    Effect,
    Transition,
    Warning,
    /// Much of the same, counted.
    Routine,
    /// Something is missing here.
    Gap,
}

/// A replay that is over.
pub(super) struct Told<'a> {
    pub flight: &'a Flight,
    pub lines: Vec<Line>,
    pub outcome: &'a Outcome,
    /// Of this program.
    pub version: &'a str,
    pub build: u32,
}

/// Takes the steps in and keeps the lines.
pub(super) struct Account<'a> {
    origin: &'a Origin,
    verbose: bool,
    lines: Vec<Line>,
    seen: Option<View>,
    routine: Routine,
}

#[derive(Default)]
struct Routine {
    heartbeats: usize,
    ticks: usize,
    log: usize,
    writes: usize,
    last: Option<(String, u64, usize)>,
}

impl<'a> Account<'a> {
    pub(super) fn new(origin: &'a Origin, verbose: bool) -> Account<'a> {
        Account { origin, verbose, lines: Vec::new(), seen: None, routine: Routine::default() }
    }

    pub(super) fn add(&mut self, step: &Step) {
        if step.after_gap {
            self.line(step, Kind::Gap, "some steps are missing ahead of this one".to_owned());
            self.seen = None;
        }
        let told = in_words(step.event);
        match told {
            _ if self.verbose => self.line(step, Kind::Event, format!("{:?}", step.event)),
            Some(told) => self.line(step, Kind::Event, told),
            None => self.routine.count(self.origin, step),
        }
        let view = step.node.view(step.now);
        for text in changes(self.seen.as_ref(), &view) {
            self.line(step, Kind::State, text);
        }
        self.seen = Some(view);
        for effect in step.effects {
            match order_in_words(effect) {
                Some((kind, text)) => self.line(step, kind, text),
                None if self.verbose => self.line(step, Kind::Effect, format!("{effect:?}")),
                None => {}
            }
        }
    }

    pub(super) fn finish(mut self) -> Vec<Line> {
        self.lines.extend(self.routine.take());
        self.lines
    }

    fn line(&mut self, step: &Step, kind: Kind, text: String) {
        if self.routine.total() >= WORTH_A_LINE {
            self.lines.extend(self.routine.take());
        }
        let (at, uptime_ms) = moment(self.origin, step);
        self.lines.push(Line { at, uptime_ms, step: step.number, kind, text });
    }
}

impl Routine {
    fn count(&mut self, origin: &Origin, step: &Step) {
        match step.event {
            Event::HeartbeatReceived { .. } => self.heartbeats += 1,
            Event::Ticked => self.ticks += 1,
            Event::Persisted { .. } => self.writes += 1,
            _ => self.log += 1,
        }
        let (at, uptime_ms) = moment(origin, step);
        self.last = Some((at, uptime_ms, step.number));
    }

    fn total(&self) -> usize {
        self.heartbeats + self.ticks + self.log + self.writes
    }

    /// The line for what was counted, at the end of it.
    fn take(&mut self) -> Option<Line> {
        let Routine { heartbeats, ticks, log, writes, last } = std::mem::take(self);
        let (at, uptime_ms, step) = last?;
        let counts = [
            (heartbeats, "heartbeat", "heartbeats"),
            (ticks, "tick", "ticks"),
            (log, "report of the log or the links", "reports of the log or the links"),
            (writes, "write of the state", "writes of the state"),
        ];
        let text: Vec<_> = counts
            .iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, one, many)| {
                format!("{} {}", grouped(*count as u64), if *count == 1 { one } else { many })
            })
            .collect();
        Some(Line { at, uptime_ms, step, kind: Kind::Routine, text: text.join(", ") })
    }
}

fn moment(origin: &Origin, step: &Step) -> (String, u64) {
    (rfc3339(origin.wall_ms_at(step.now)), step.now.0 / 1_000_000)
}

/// How things stand, or what is different in it.
fn changes(before: Option<&View>, now: &View) -> Vec<String> {
    let primary = |view: &View| view.primary.clone().unwrap_or_else(|| "nobody".to_owned());
    let Some(before) = before else {
        let heard: Vec<_> =
            now.peers.iter().filter(|peer| peer.alive).map(|peer| peer.name.as_str()).collect();
        let heard = if heard.is_empty() { "nobody".to_owned() } else { heard.join(", ") };
        return vec![format!(
            "{} in epoch {}; primary: {}; hears {heard}",
            spoken(role_name(now.role)),
            now.epoch,
            primary(now)
        )];
    };
    let mut changed = Vec::new();
    for (was, is) in before.peers.iter().zip(&now.peers) {
        match (was.alive, is.alive, is.heard_at) {
            (false, true, _) => changed.push(format!("{} is heard", is.name)),
            (true, false, Some(at)) => {
                let ago = duration(now.at.since(at).as_millis() as u64);
                changed.push(format!("{} is held to be gone; last heard {ago} ago", is.name));
            }
            _ => {}
        }
        for (path, (was, is_now)) in was.paths.iter().zip(&is.paths).enumerate() {
            if was.alive && !is_now.alive && is.alive {
                changed.push(format!("path {path} to {} is dead", is.name));
            }
            if !was.alive && is_now.alive && is.paths.len() > 1 {
                changed.push(format!("path {path} to {} is alive", is.name));
            }
        }
    }
    if primary(before) != primary(now) {
        changed.push(format!("primary, as far as is known here: {}", primary(now)));
    }
    if before.record != now.record
        && let Some(record) = &now.record
    {
        let members: Vec<_> = record.members.iter().map(ToString::to_string).collect();
        changed.push(format!(
            "in sync: {} (record {} of epoch {})",
            members.join(", "),
            record.version,
            record.epoch
        ));
    }
    if before.waiting_for != now.waiting_for
        && let Some(why) = &now.waiting_for
    {
        changed.push(format!("waits: {why}"));
    }
    changed
}

/// What the core was told; `None` for the daily bread.
fn in_words(event: &Event) -> Option<String> {
    Some(match event {
        Event::Ticked
        | Event::HeartbeatReceived { .. }
        | Event::Persisted { .. }
        | Event::LogAdvanced { .. }
        | Event::FollowerProgressed { streaming: true, .. }
        | Event::LinksJudged { good: true, .. }
        | Event::GateJudged { lost: None, .. } => return None,
        Event::NoticeReceived(notice) => {
            format!("a supervisor says that the agent of {} is dead (epoch {})", notice.member, notice.epoch)
        }
        Event::ProbeFinished { round, conflict: Some(who), .. } => {
            format!("conflict probe {round} is over: {who}")
        }
        Event::ProbeFinished { round, asked: false, .. } => {
            format!("conflict probe {round} could not be made")
        }
        Event::ProbeFinished { round, .. } => format!("conflict probe {round} is over: nobody answered"),
        Event::VipClaimed { epoch } => format!("the virtual address is here and announced (epoch {epoch})"),
        Event::VipReleased => "the virtual address is not here any more".to_owned(),
        Event::ServiceStopped => "no request is being served any more".to_owned(),
        Event::EpochStarted { epoch } => format!("the log has begun epoch {epoch}"),
        Event::WaitReached { version, .. } => {
            format!("everybody who is waited for (version {version}) holds every acknowledged byte")
        }
        Event::FollowerProgressed { member, durable, .. } => {
            format!("the stream to {member} is down; it holds {}", grouped(durable.0))
        }
        Event::PeersConfigured(peers) => {
            let named = peers.iter().filter(|peer| peer.paths > 0).map(|peer| peer.label.as_str());
            format!("the configuration names other members: {}", named.collect::<Vec<_>>().join(", "))
        }
        Event::LogFailed { error, .. } => format!("the log cannot be written: {error}"),
        Event::SpaceReturned => "the log's disk has space again".to_owned(),
        Event::LinksJudged { detail, .. } => format!("this host's links are bad: {detail}"),
        Event::GateJudged { lost: Some(detail), .. } => format!("the kernel gate is lost: {detail}"),
        Event::ChecksJudged { failed, .. } if failed.is_empty() => "every check passes".to_owned(),
        Event::ChecksJudged { penalty, failed } => {
            let failed: Vec<_> =
                failed.iter().map(|check| format!("{} ({})", check.name, check.detail)).collect();
            format!("checks fail, counting {penalty}: {}", failed.join(", "))
        }
        Event::DiskJudged { good: true, .. } => "the disk answers in time".to_owned(),
        Event::DiskJudged { detail, .. } => format!("the disk does not answer in time: {detail}"),
        Event::CommandGiven { id, command } => format!("order {id} of an operator: {command:?}"),
        Event::TerminationRequested => "the agent is asked to end".to_owned(),
        Event::Prepared { epoch, outcome: Readiness::Ready, .. } => {
            format!("services and pre-hooks are ready (epoch {epoch})")
        }
        Event::Prepared { outcome: Readiness::Failed { why }, .. } => {
            format!("services are not ready: {why}")
        }
        Event::Prepared { outcome: Readiness::Vetoed { why }, .. } => {
            format!("the takeover is vetoed: {why}")
        }
        Event::FenceFinished { round, confirmed: true, detail } => {
            format!("a member is confirmed to be off (order {round}): {detail}")
        }
        Event::FenceFinished { round, detail, .. } => {
            format!("a member is not confirmed to be off (order {round}): {detail}")
        }
        Event::Retired { round } => format!("services and hooks have left (order {round})"),
    })
}

/// What the core ordered; `None` for the daily bread.
fn order_in_words(effect: &Effect) -> Option<(Kind, String)> {
    let text = match effect {
        Effect::Send { .. } | Effect::ExtendLease { .. } | Effect::Persist { .. } => return None,
        Effect::Report(change) => {
            let peer = change.peer.as_ref().map(|peer| format!(" ({peer})")).unwrap_or_default();
            let (from, to) = (spoken(role_name(change.from)), spoken(role_name(change.to)));
            let text = format!("{from} -> {to}, epoch {}: {}{peer}", change.epoch, change.reason);
            return Some((Kind::Transition, text));
        }
        Effect::Warn { message } => return Some((Kind::Warning, message.clone())),
        Effect::Note { message } => message.clone(),
        Effect::EndLease => "shuts the gate".to_owned(),
        Effect::ProbeVip { round, window } => {
            format!("asks whether anybody has the address (probe {round}, {} ms)", window.as_millis())
        }
        Effect::ClaimVip { epoch } => format!("claims the virtual address (epoch {epoch})"),
        Effect::ReleaseVip => "releases the virtual address".to_owned(),
        Effect::Lead { epoch, members } => format!("the log leads in epoch {epoch}, with {}", names(members)),
        Effect::Follow { epoch, leader, .. } => format!("the log follows {leader} in epoch {epoch}"),
        Effect::StandDown { epoch } => format!("the log neither leads nor follows (epoch {epoch})"),
        Effect::Promise { epoch } => format!("the log refuses epochs below {epoch}"),
        Effect::WaitFor { version, members, .. } => {
            format!("writes wait for {} (version {version})", names(members))
        }
        Effect::Serve { .. } => "answers clients".to_owned(),
        Effect::StopServing { .. } => "stops answering clients".to_owned(),
        Effect::Answer { id, answer: Ok(words) } => format!("order {id} is carried out: {words}"),
        Effect::Answer { id, answer: Err(declined) } => {
            format!("order {id} is refused ({}): {}", declined.code, declined.message)
        }
        Effect::Exit => "lets the process end".to_owned(),
        Effect::Prepare { epoch, .. } => {
            format!("runs the pre-hooks and starts the services (epoch {epoch})")
        }
        Effect::Fence { round, member } => format!("has {member} switched off (order {round})"),
        Effect::CallOffFence { round } => format!("calls order {round} to the fence devices off"),
        Effect::Retire { round, planned: true, .. } => {
            format!("lets hooks and services leave before the address does (order {round})")
        }
        Effect::Retire { round, .. } => format!("stops the services of the ended reign (order {round})"),
    };
    Some((Kind::Effect, text))
}

fn names(members: &[holdfast_heartbeat::Member]) -> String {
    members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The whole view, with its line end.
pub(super) fn render(told: &Told, paint: Paint) -> String {
    let origin = &told.flight.origin;
    let steps: usize = told.flight.pieces.iter().map(|piece| piece.steps.len()).sum();
    let mut times = told.flight.pieces.iter().flat_map(|piece| piece.steps.iter().map(|step| step.now));
    let (first, last) = (times.next(), times.next_back());
    let span = match (first, last) {
        (Some(first), Some(last)) => duration(last.since(first).as_millis() as u64),
        _ => "no time".to_owned(),
    };
    let mut out = format!(
        "Recording of {}, taken {} ({})\n{} steps in {span}, by holdfast {} (build {:08x}){}\n",
        printable(&origin.node),
        clock(&rfc3339(origin.wall_ms)),
        printable(&origin.why),
        grouped(steps as u64),
        printable(&origin.version),
        origin.build,
        if same_program(told) { "; this is the same program".to_owned() } else { other_program(told) },
    );
    for damage in &told.flight.damage {
        out.push_str(&paint.warn(&format!(
            "Damaged: at byte {}: {}",
            grouped(damage.offset as u64),
            damage.what
        )));
        out.push('\n');
    }
    out.push('\n');
    let rows: Vec<_> = told.lines.iter().map(|line| row(line, paint)).collect();
    out.push_str(&table(&rows, ""));
    out.push('\n');
    out.push_str(&verdict(told, paint));
    out
}

fn row(line: &Line, paint: Paint) -> Vec<String> {
    let text = printable(&line.text);
    let (word, text) = match line.kind {
        Kind::State => ("is", text),
        Kind::Event => ("told", text),
        Kind::Effect => ("does", text),
        Kind::Transition => ("ROLE", paint.good(&text)),
        Kind::Warning => ("warns", paint.warn(&text)),
        Kind::Routine => ("", paint.dim(&text)),
        Kind::Gap => ("gap", paint.warn(&text)),
    };
    vec![paint.dim(&clock(&line.at)), word.to_owned(), text]
}

fn clock(at: &str) -> String {
    printable(at).replacen('T', " ", 1)
}

fn same_program(told: &Told) -> bool {
    let origin = &told.flight.origin;
    origin.version == told.version && origin.build == told.build
}

fn other_program(told: &Told) -> String {
    format!("; this is holdfast {} (build {:08x}), another program", told.version, told.build)
}

fn verdict(told: &Told, paint: Paint) -> String {
    let damaged = match told.flight.damage.len() {
        0 => "",
        _ => " What is damaged was left out.",
    };
    let at = |now: &holdfast_heartbeat::Time| clock(&rfc3339(told.flight.origin.wall_ms_at(*now)));
    match told.outcome {
        Outcome::Identical { steps } => {
            paint.good(&format!(
                "Replayed identically: {} steps, each with the recorded decisions.{damaged}",
                grouped(*steps as u64)
            )) + "\n"
        }
        Outcome::Panicked { step, message } => format!(
            "{}\nThis is the defect that stopped the agent: please report it, with this file.\n",
            paint.bad(&format!(
                "The core panics in step {step}, where the recording ends: {}",
                printable(message)
            ))
        ),
        Outcome::Diverged(difference) => {
            let what = match difference {
                Divergence::Effects { step, now, recorded, replayed } => format!(
                    "Diverged in step {step}, {}: the decisions there (above) are not the recorded ones \
                     (digest {replayed:08x}, recorded {recorded:08x}).",
                    at(now)
                ),
                Divergence::State { step, recorded, replayed } => format!(
                    "Diverged ahead of step {step}: the decisions are the recorded ones, the state they led to is not.\n  \
                     recorded: {}\n  here:     {}",
                    printable(recorded),
                    printable(replayed)
                ),
                Divergence::Panicked { step, now, message } => format!(
                    "Diverged in step {step}, {}: the core panics here and did not there: {}",
                    at(now),
                    printable(message)
                ),
            };
            let advice = if same_program(told) {
                "The same program decided otherwise on the same input: that is a defect. Please report it, with this file."
                    .to_owned()
            } else {
                format!(
                    "The recording is of holdfast {} (build {:08x}), this is {} (build {:08x}); replay it with that program.",
                    printable(&told.flight.origin.version),
                    told.flight.origin.build,
                    told.version,
                    told.build
                )
            };
            format!("{}\n{advice}\n", paint.bad(&what))
        }
    }
}
