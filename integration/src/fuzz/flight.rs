//! A recording: of any bytes, what is whole is read and what is not is named.
//!
//! The first byte of an input chooses whether its checksums are put right first, which alone gets most inputs
//! further than the first of them. What was read is not replayed: a core that was put into a state which no core
//! ever has may rightly stop.

use holdfast_agent::flight::{self, Origin, Recorder};
use holdfast_agent::node::event::Event;
use holdfast_agent::node::hard_state::HardState;
use holdfast_agent::node::settings::{Failback, PeerSettings, Settings, Timers, TwoNode};
use holdfast_agent::node::{LogPosition, Node};
use holdfast_heartbeat::packet::NEWEST;
use holdfast_heartbeat::{BootNonce, Incarnation, Member, MemberKind, NodeId, Time};
use std::time::Duration;

use super::Target;

/// The target.
pub const TARGET: Target = Target { name: "flight", run, seeds, max_len: 4096, memory_bytes: 8 << 20 };

const AS_IT_IS: u8 = 0;
const PUT_RIGHT: u8 = 1;
/// Magic and format, before the first length.
const HEAD: usize = 12;
/// Before the state in a piece, and after the event in a step.
const CONTINUES: usize = 1;
const DIGEST: usize = 8;

fn run(input: &[u8]) -> bool {
    let Some((&kind, rest)) = input.split_first() else { return false };
    let mut bytes = rest.to_vec();
    if kind % 2 == PUT_RIGHT {
        put_right(&mut bytes);
    }
    let Ok(flight) = flight::read(&bytes) else { return false };
    assert!(!flight.pieces.is_empty(), "nothing can be replayed of it");
    let mut before = None;
    for damage in &flight.damage {
        assert!(
            damage.offset <= bytes.len() && before <= Some(damage.offset),
            "{damage:?} of {}",
            bytes.len()
        );
        before = Some(damage.offset);
    }
    for piece in &flight.pieces {
        assert!(piece.state.len() + piece.steps.len() <= bytes.len());
        let last = piece.steps.len().saturating_sub(1);
        assert!(
            piece.steps.iter().take(last).all(|step| step.digest.is_some()),
            "a step went on after its end"
        );
    }
    true
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 4).map(|four| u32::from_le_bytes(four.try_into().expect("four bytes")) as usize)
}

/// Puts the checksum of the frame at `at` right; gives where its bytes are.
fn frame(bytes: &mut [u8], at: usize) -> Option<std::ops::Range<usize>> {
    let length = number(bytes, at)?;
    let range = at + 8..(at + 8).checked_add(length).filter(|end| *end <= bytes.len())?;
    let crc = crc32c::crc32c(&bytes[range.clone()]).to_le_bytes();
    bytes[at + 4..at + 8].copy_from_slice(&crc);
    Some(range)
}

/// Every checksum of the file, the inner ones first, as far as its lengths make sense.
fn put_right(bytes: &mut [u8]) {
    let Some(origin) = frame(bytes, HEAD) else { return };
    let mut at = origin.end;
    while let Some(piece) = frame(bytes, at) {
        let inner = &mut bytes[piece.clone()];
        let mut step = frame(inner, CONTINUES).map(|state| state.end);
        while let Some(begin) = step {
            step = frame(inner, begin).map(|event| event.end + DIGEST).filter(|end| *end <= inner.len());
            if let Some(end) = step {
                let crc = crc32c::crc32c(&inner[end - DIGEST..end - 4]).to_le_bytes();
                inner[end - 4..end].copy_from_slice(&crc);
            }
        }
        frame(bytes, at);
        at = piece.end;
    }
}

fn node() -> Node {
    let second = Duration::from_secs(1);
    let peer = |label: &str, kind| PeerSettings { label: label.to_owned(), kind, paths: 1, added: false };
    let settings = Settings {
        me: Member { id: NodeId::new("a").expect("a name"), incarnation: Incarnation(7) },
        kind: MemberKind::Data,
        boot: BootNonce(5),
        priority: 50,
        prefers_primary: true,
        peers: vec![peer("b", MemberKind::Data), peer("w", MemberKind::Witness)],
        path_names: vec!["main".to_owned()],
        timers: Timers {
            interval: second / 10,
            detect: second / 3,
            lease: second / 3,
            drift_margin: second / 100,
            gate_excess: Duration::ZERO,
            probe_window: second / 10,
            handover_probe_window: second / 100,
            standby_timeout: second,
            drain: second / 20,
            handover: second,
        },
        two_node: TwoNode::Probe,
        failback: Failback { automatic: false, allowed: true, delay: second, window: 30 * second },
        automatic: true,
        answers_alone: false,
        probe_vip: true,
        attendance: None,
        fencing: None,
        speaks: NEWEST,
    };
    Node::new(settings, HardState::default(), LogPosition::default(), Time(1))
}

/// What a core is told in its first moments.
fn seeds() -> Vec<Vec<u8>> {
    let (mut node, mut recorder, mut now) = (node(), Recorder::new(), Time(1));
    let mut tell = |recorder: &mut Recorder, event: Event| {
        now = now + Duration::from_millis(50);
        let mut effects = Vec::new();
        recorder.before(&node, now, &event);
        node.handle(now, event, &mut effects);
        recorder.after(&effects);
    };
    for heartbeat in super::packet::heartbeats() {
        tell(&mut recorder, Event::HeartbeatReceived { peer: 0, path: 0, heartbeat: Box::new(heartbeat) });
        tell(&mut recorder, Event::Ticked);
    }
    let origin = Origin {
        version: "0.1.0".to_owned(),
        build: 9,
        node: "a".to_owned(),
        why: "the primary died".to_owned(),
        wall_ms: 1_790_000_000_000,
        at: Time(9),
    };
    let mut file = Vec::new();
    flight::write(&recorder.recording(), &origin, &mut file).expect("a buffer takes everything");
    [AS_IT_IS, PUT_RIGHT].map(|kind| [&[kind], &file[..]].concat()).to_vec()
}
