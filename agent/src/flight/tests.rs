//! What the recorder promises: little memory, the whole story, and no surprise from a damaged file.

use std::time::Duration;

use holdfast_heartbeat::packet::NEWEST;
use holdfast_heartbeat::{BootNonce, Incarnation, Lsn, Member, MemberKind, NodeId, Role, Time};

use super::*;
use crate::node::effect::Effect;
use crate::node::event::{Command, Event, Readiness};
use crate::node::hard_state::HardState;
use crate::node::settings::{Attendance, Failback, PeerSettings, Settings, Timers, TwoNode};
use crate::node::{LogPosition, Node};

const MS: Duration = Duration::from_millis(1);

fn settings(name: &str, kind: MemberKind, peers: &[(&str, MemberKind)]) -> Settings {
    let lease = 300 * MS;
    Settings {
        me: Member { id: NodeId::new(name).unwrap(), incarnation: Incarnation(7) },
        kind,
        boot: BootNonce(u64::from(name.as_bytes()[0])),
        priority: 50,
        prefers_primary: name == "a",
        peers: peers
            .iter()
            .map(|(label, kind)| PeerSettings {
                label: (*label).to_owned(),
                kind: *kind,
                paths: 1,
                added: false,
            })
            .collect(),
        path_names: vec!["main".to_owned()],
        timers: Timers {
            interval: 100 * MS,
            detect: lease,
            lease,
            drift_margin: 4 * MS,
            gate_excess: Duration::ZERO,
            probe_window: 100 * MS,
            handover_probe_window: 10 * MS,
            standby_timeout: 1000 * MS,
            drain: 50 * MS,
            handover: 1000 * MS,
        },
        two_node: TwoNode::Probe,
        failback: Failback { automatic: false, allowed: true, delay: 1000 * MS, window: 30_000 * MS },
        automatic: true,
        answers_alone: false,
        probe_vip: true,
        attendance: Some(Attendance { prepare: 1000 * MS, retire: 1000 * MS, may_veto: true }),
        fencing: None,
        speaks: NEWEST,
    }
}

/// A member that has just started.
pub(crate) fn newborn() -> Node {
    let settings = settings("a", MemberKind::Data, &[("w", MemberKind::Witness)]);
    Node::new(settings, HardState::default(), LogPosition::default(), Time(1))
}

/// A data member and a witness that hear each other at once; the first one is recorded.
struct Two {
    now: Time,
    nodes: [Node; 2],
    recorder: Recorder,
    /// States of the recorded node after each of its steps.
    states: Vec<Vec<u8>>,
    keep_states: bool,
    cut: bool,
    queue: std::collections::VecDeque<(usize, Event)>,
}

impl Two {
    fn new() -> Two {
        let now = Time(5_000_000_000);
        let a = settings("a", MemberKind::Data, &[("w", MemberKind::Witness)]);
        let w = settings("w", MemberKind::Witness, &[("a", MemberKind::Data)]);
        let node = |settings| Node::new(settings, HardState::default(), LogPosition::default(), now);
        Two {
            now,
            nodes: [node(a), node(w)],
            recorder: Recorder::new(),
            states: Vec::new(),
            keep_states: false,
            cut: false,
            queue: Default::default(),
        }
    }

    /// To `at`, each node called whenever it wants to be.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let (a, w) = (self.nodes[0].deadline(), self.nodes[1].deadline());
            self.now = a.min(w).min(end).max(self.now);
            for (i, deadline) in [a, w].into_iter().enumerate() {
                if deadline <= self.now {
                    self.tell(i, Event::Ticked);
                }
            }
        }
    }

    fn tell(&mut self, i: usize, event: Event) {
        self.queue.push_back((i, event));
        while let Some((i, event)) = self.queue.pop_front() {
            let mut effects = Vec::new();
            if i == 0 {
                self.recorder.before(&self.nodes[0], self.now, &event);
            }
            self.nodes[i].handle(self.now, event, &mut effects);
            if i == 0 {
                self.recorder.after(&effects);
                if self.keep_states {
                    self.states.push(postcard::to_allocvec(&self.nodes[0]).unwrap());
                }
            }
            for effect in effects {
                self.carry_out(i, effect);
            }
        }
    }

    fn carry_out(&mut self, i: usize, effect: Effect) {
        let event = match effect {
            Effect::Send { heartbeat, path, .. } if !self.cut => {
                return self.queue.push_back((1 - i, Event::HeartbeatReceived { peer: 0, path, heartbeat }));
            }
            Effect::Persist { token, .. } => Event::Persisted { token },
            Effect::ProbeVip { round, .. } => Event::ProbeFinished { round, conflict: None, asked: true },
            Effect::ClaimVip { epoch } => Event::VipClaimed { epoch },
            Effect::ReleaseVip => Event::VipReleased,
            Effect::StopServing { .. } => Event::ServiceStopped,
            Effect::Lead { epoch, .. } => {
                let (end, durable) = (Lsn(100), Lsn(100));
                self.queue.push_back((i, Event::LogAdvanced { end, durable, last_epoch: epoch }));
                Event::EpochStarted { epoch }
            }
            Effect::WaitFor { epoch, version, .. } => Event::WaitReached { epoch, version },
            Effect::Prepare { epoch, round } => Event::Prepared { epoch, round, outcome: Readiness::Ready },
            Effect::Retire { round, .. } => Event::Retired { round },
            _ => return,
        };
        self.queue.push_back((i, event));
    }

    fn role(&self) -> Role {
        self.nodes[0].view(self.now).role
    }

    /// An election, a reign, an order, a cut, a lapsed lease, a return.
    fn story() -> Two {
        let mut two = Two::new();
        two.run(2000 * MS);
        assert_eq!(two.role(), Role::Primary);
        two.tell(0, Event::CommandGiven { id: 1, command: Command::Failover { to: None } });
        two.cut = true;
        two.run(1000 * MS);
        assert_eq!(two.role(), Role::Standby, "the lease lapsed");
        two.cut = false;
        two.run(3000 * MS);
        assert_eq!(two.role(), Role::Primary);
        two
    }

    fn file(&self) -> Vec<u8> {
        file_of(&self.recorder)
    }
}

fn origin() -> Origin {
    Origin {
        version: "0.1.0".into(),
        build: 1,
        node: "a".into(),
        why: "a test".into(),
        wall_ms: 1_700_000_000_000,
        at: Time(9_000_000_000),
    }
}

fn file_of(recorder: &Recorder) -> Vec<u8> {
    let mut file = Vec::new();
    write(&recorder.recording(), &origin(), &mut file).unwrap();
    file
}

fn replayed(file: &[u8]) -> (Outcome, Flight) {
    let flight = read(file).unwrap();
    (replay(&flight, |_| {}), flight)
}

#[test]
fn a_recorded_session_replays_to_the_same_decisions_and_states() {
    let mut two = Two::new();
    two.keep_states = true;
    two.run(2000 * MS);
    two.cut = true;
    two.run(1000 * MS);
    two.cut = false;
    two.run(2000 * MS);
    let flight = read(&two.file()).unwrap();
    assert_eq!(flight.origin, origin());
    assert_eq!(flight.damage, []);
    let mut transitions = Vec::new();
    let mut at = 0;
    let outcome = replay(&flight, |step| {
        assert_eq!(
            postcard::to_allocvec(step.node).unwrap(),
            two.states[step.number],
            "step {}",
            step.number
        );
        transitions.extend(step.effects.iter().filter_map(|effect| match effect {
            Effect::Report(transition) => Some((transition.from, transition.to)),
            _ => None,
        }));
        at += 1;
    });
    assert_eq!(outcome, Outcome::Identical { steps: two.states.len() });
    assert_eq!(at, two.states.len());
    use Role::*;
    let reign = [(Standby, Candidate), (Candidate, Promoting), (Promoting, Primary)];
    assert_eq!(transitions[..3], reign);
    assert_eq!(transitions[3], (Primary, Standby));
    assert_eq!(transitions[transitions.len() - 3..], reign);
}

#[test]
fn the_ring_keeps_the_newest_pieces_and_no_more_memory_than_that() {
    let mut two = Two::new();
    while two.recorder.recording().pieces.len() < PIECES {
        two.run(10_000 * MS);
    }
    let full_at = two.now;
    two.run(full_at.since(Time(5_000_000_000)));
    let recording = two.recorder.recording();
    assert_eq!(recording.pieces.len(), PIECES);
    assert!(recording.pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
    // Every full piece is nearly so: nothing is sealed before it has to be.
    assert!(recording.pieces[..PIECES - 1].iter().all(|piece| piece.len() > PIECE_BYTES - 4096));
    let (outcome, flight) = replayed(&two.file());
    assert!(matches!(outcome, Outcome::Identical { steps } if steps > 1000), "{outcome:?}");
    assert!(two.file().len() <= MAX_FILE_BYTES);
    assert!(flight.pieces.iter().all(|piece| piece.continues), "pieces follow each other without a gap");
    assert!(flight.pieces[0].steps[0].now > full_at - 20_000 * MS, "the oldest is forgotten");
    let last = flight.pieces.last().unwrap().steps.last().unwrap().now;
    assert!(two.now.since(last) <= 200 * MS, "the newest is there");
}

#[test]
fn a_recording_in_other_hands_is_not_written_over() {
    let mut two = Two::new();
    two.run(1000 * MS);
    let taken = two.recorder.recording();
    let before: Vec<Vec<u8>> = taken.pieces.iter().map(|piece| piece.to_vec()).collect();
    two.run(Duration::from_secs(3600));
    let after: Vec<Vec<u8>> = taken.pieces.iter().map(|piece| piece.to_vec()).collect();
    assert!(before == after);
}

#[test]
fn another_decision_is_found_at_its_step() {
    let two = Two::story();
    let mut flight = read(&two.file()).unwrap();
    let steps = &mut flight.pieces[0].steps;
    let at = steps
        .iter()
        .position(|step| matches!(step.event, Event::CommandGiven { .. }))
        .expect("an order was given");
    let recorded = steps[at].digest.unwrap() ^ 1;
    steps[at].digest = Some(recorded);
    let now = steps[at].now;
    let outcome = replay(&flight, |_| {});
    let Outcome::Diverged(Divergence::Effects { step, now: when, recorded: r, replayed }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((step, when, r), (at, now, recorded));
    assert_eq!(replayed, recorded ^ 1);
}

#[test]
fn a_state_that_the_steps_do_not_lead_to_is_found() {
    let mut two = Two::new();
    while two.recorder.recording().pieces.len() < 2 {
        two.run(1000 * MS);
    }
    let mut flight = read(&two.file()).unwrap();
    // The first piece loses its last step, as if the core of now did not count it.
    let dropped = flight.pieces[0].steps.pop().unwrap();
    assert!(matches!(dropped.event, Event::HeartbeatReceived { .. } | Event::Ticked));
    let outcome = replay(&flight, |_| {});
    let Outcome::Diverged(Divergence::State { step, recorded, replayed }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(step, flight.pieces[0].steps.len());
    assert_ne!(recorded, replayed);
}

#[test]
fn a_truncated_file_replays_up_to_its_end() {
    let file = Two::story().file();
    let (_, whole) = replayed(&file);
    let steps = whole.pieces[0].steps.len();
    let mut seen = 0;
    for cut in (0..file.len()).step_by(97) {
        let Ok(flight) = read(&file[..cut]) else { continue };
        assert_eq!(flight.damage.len(), 1, "cut at {cut}");
        let outcome = replay(&flight, |_| {});
        assert_eq!(outcome, Outcome::Identical { steps: flight.pieces[0].steps.len() }, "cut at {cut}");
        assert!(flight.pieces[0].steps.len() >= seen && seen <= steps);
        seen = flight.pieces[0].steps.len();
    }
    assert!(seen + 2 >= steps, "the last cut leaves nearly everything: {seen} of {steps}");
}

#[test]
fn a_flipped_bit_is_damage_and_never_another_story() {
    let mut two = Two::new();
    while two.recorder.recording().pieces.len() < 3 {
        two.run(1000 * MS);
    }
    let file = two.file();
    let (outcome, _) = replayed(&file);
    let Outcome::Identical { steps: all } = outcome else { panic!("{outcome:?}") };
    for at in (0..file.len()).step_by(1009) {
        let mut bad = file.clone();
        bad[at] ^= 1 << (at % 8);
        let Ok(flight) = read(&bad) else {
            assert!(at < 200, "only the head makes a file unreadable, not the byte {at}");
            continue;
        };
        assert_eq!(flight.damage.len(), 1, "byte {at}");
        let outcome = replay(&flight, |_| {});
        assert!(matches!(outcome, Outcome::Identical { steps } if steps < all), "byte {at}: {outcome:?}");
    }
}

#[test]
fn whatever_is_no_recording_says_so() {
    assert_eq!(read(b"").unwrap_err(), FlightError::NotARecording);
    assert_eq!(read(b"#!/bin/sh\necho").unwrap_err(), FlightError::NotARecording);
    let mut other = Two::story().file();
    other[8] = 9;
    assert_eq!(read(&other).unwrap_err(), FlightError::OtherFormat { found: 9 });
    // Whole, but not a state of this core.
    let strange = Recording { pieces: vec![std::sync::Arc::new(strange_piece())] };
    let mut file = Vec::new();
    write(&strange, &origin(), &mut file).unwrap();
    assert_eq!(read(&file).unwrap_err(), FlightError::OtherCore { version: "0.1.0".into(), build: 1 });
}

fn strange_piece() -> Vec<u8> {
    let state = [0xff; 40];
    let mut piece = vec![0];
    piece.extend((state.len() as u32).to_le_bytes());
    piece.extend(crc32c::crc32c(&state).to_le_bytes());
    piece.extend(state);
    piece
}

#[test]
fn the_step_in_which_a_core_panicked_is_the_end_of_its_recording() {
    let mut two = Two::story();
    // Never finished: what the drop of a panicking core leaves behind.
    let fatal = Event::HeartbeatReceived {
        peer: 0,
        path: 0,
        heartbeat: Box::new(heartbeat_of_the_witness(&mut two)),
    };
    two.recorder.before(&two.nodes[0], two.now, &fatal);
    let flight = read(&two.file()).unwrap();
    assert_eq!(flight.damage, []);
    assert!(flight.pieces[0].steps.last().unwrap().digest.is_none());
    // This core does not panic there; then all that was recorded was replayed.
    assert!(matches!(replay(&flight, |_| {}), Outcome::Identical { .. }));
    // One that does says where: an event that no core takes, put in its place.
    let mut flight = flight;
    let piece = &mut flight.pieces[0];
    let number = piece.steps.len() - 1;
    piece.node = poisoned(&piece.node);
    piece.steps.drain(..number);
    let outcome = replay(&flight, |_| {});
    assert!(matches!(&outcome, Outcome::Panicked { step: 0, .. }), "{outcome:?}");
}

fn heartbeat_of_the_witness(two: &mut Two) -> holdfast_heartbeat::Heartbeat {
    let mut effects = Vec::new();
    let now = two.now + 200 * MS;
    two.nodes[1].handle(now, Event::Ticked, &mut effects);
    effects
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Send { heartbeat, .. } => Some(*heartbeat),
            _ => None,
        })
        .expect("a witness speaks ten times a second")
}

/// The same node with a leader that it has no peer for, which only a defect could make.
fn poisoned(node: &Node) -> Node {
    let mut value = serde_json::to_value(node).unwrap();
    value["phase"] = serde_json::json!("Waiting");
    value["leader"] = serde_json::json!([9, 17]);
    serde_json::from_value(value).unwrap()
}

#[test]
fn what_is_too_large_leaves_a_gap_that_is_told() {
    let mut two = Two::new();
    two.run(1000 * MS);
    two.tell(0, Event::LinksJudged { good: true, detail: "x".repeat(PIECE_BYTES) });
    two.tell(0, Event::LinksJudged { good: true, detail: String::new() });
    let before = two.recorder.recording().pieces.len();
    two.run(Duration::from_secs(200));
    assert!(two.recorder.recording().pieces.len() > before, "the recorder goes on");
    let (outcome, flight) = replayed(&two.file());
    assert!(matches!(outcome, Outcome::Identical { .. }), "{outcome:?}");
    let gaps = flight.pieces.iter().skip(1).filter(|piece| !piece.continues).count();
    assert!(gaps >= 1);
    let mut told = 0;
    replay(&flight, |step| told += usize::from(step.after_gap));
    assert_eq!(told, gaps);
}

#[test]
fn the_wall_clock_is_counted_back_from_the_moment_of_writing() {
    let origin = origin();
    assert_eq!(origin.wall_ms_at(origin.at - 1500 * MS), origin.wall_ms - 1500);
    assert_eq!(origin.wall_ms_at(origin.at + 2 * MS), origin.wall_ms + 2);
}

/// A recording names them by number: one that comes in between would give those after it another meaning.
#[test]
fn commands_keep_their_numbers_in_recordings() {
    let id = || NodeId::new("b").unwrap();
    let commands = [
        Command::Failover { to: None },
        Command::Promote { accept_data_loss: false },
        Command::Failback,
        Command::SetFailback { enabled: true },
        Command::Pause { at_unix_ms: 1 },
        Command::Resume { at_unix_ms: 1 },
        Command::Drain,
        Command::FenceConfirmed { member: id() },
        Command::ChangeVoters { remove: None, add: Some(id()) },
        Command::SetPriority { priority: 10 },
    ];
    let numbers: Vec<_> = commands.iter().map(|command| postcard::to_allocvec(command).unwrap()[0]).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}
