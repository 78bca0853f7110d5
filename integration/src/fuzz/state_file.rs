//! `member.json`: any text is this member's state or is refused, and what is accepted can be acted upon.

use holdfast_agent::node::hard_state::HardState;
use holdfast_agent::runtime::state_file::StateFile;
use holdfast_heartbeat::{
    Epoch, InSyncRecord, Incarnation, MAX_EPOCH, MAX_SUSPENSION, Member, NodeId, Suspension,
};

use super::Target;

/// The target.
pub const TARGET: Target = Target { name: "state_file", run, seeds, max_len: 1024, memory_bytes: 1 << 20 };

fn name(text: &str) -> NodeId {
    NodeId::new(text).expect("a name")
}

fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let me = name("a");
    match StateFile::parse("member.json", text, &me) {
        Ok(state) => {
            assert_eq!(state.node_id, me);
            // Beyond these no election, no order and no heartbeat is possible any more.
            let hard = &state.hard;
            assert!(hard.epoch <= MAX_EPOCH && hard.suspension.version <= MAX_SUSPENSION);
            assert!(hard.record.as_ref().is_none_or(|record| record.epoch <= MAX_EPOCH));
            let again = state.encode().expect("plain data");
            let again = StateFile::parse("member.json", std::str::from_utf8(&again).expect("JSON"), &me);
            let again = again.expect("what was written is read");
            assert_eq!((again.incarnation, again.hard), (state.incarnation, state.hard));
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("member.json"), "{error}");
            false
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let member = |text: &str, life| Member { id: name(text), incarnation: Incarnation(life) };
    let full = HardState {
        epoch: Epoch(7),
        voted_for: Some(member("b", 3)),
        record: Some(InSyncRecord {
            epoch: Epoch(6),
            version: 2,
            members: vec![member("a", 0x1234_5678), member("b", 3)],
            voters: Some(vec![name("a"), name("b"), name("w")]),
        }),
        lease_ns: 300_000_000,
        suspension: Suspension {
            version: 4,
            paused: true,
            by: Some(name("w")),
            since_unix_ms: 1_790_000_000_000,
        },
        drained: true,
        owed: vec![name("b")],
        alone_since: Some((Epoch(6), 2)),
        voters_proposed: Some((Epoch(6), 2)),
    };
    let state = |id: &str, hard: &HardState| {
        let file =
            StateFile { format: 1, node_id: name(id), incarnation: Incarnation(9), hard: hard.clone() };
        file.encode().expect("plain data")
    };
    let later = String::from_utf8(state("a", &full)).expect("JSON").replace("\"format\": 1", "\"format\": 2");
    vec![state("a", &full), state("a", &HardState::default()), state("b", &full), later.into_bytes()]
}
