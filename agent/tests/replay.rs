//! `holdfast ha replay` as a shell sees it: the story, the exit status, and files that are not well.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use holdfast_agent::flight::{self, Origin, Recorder};
use holdfast_agent::node::effect::Effect;
use holdfast_agent::node::event::Event;
use holdfast_agent::node::hard_state::HardState;
use holdfast_agent::node::settings::{Failback, Settings, Timers, TwoNode};
use holdfast_agent::node::{LogPosition, Node};
use holdfast_heartbeat::{BootNonce, Incarnation, Lsn, Member, MemberKind, NodeId, Time};

const MS: Duration = Duration::from_millis(1);

/// What the runtime would answer to an effect.
fn answer(effect: Effect) -> Option<Event> {
    Some(match effect {
        Effect::Persist { token, .. } => Event::Persisted { token },
        Effect::ProbeVip { round, .. } => Event::ProbeFinished { round, conflict: None, asked: true },
        Effect::ClaimVip { epoch } => Event::VipClaimed { epoch },
        Effect::ReleaseVip => Event::VipReleased,
        Effect::StopServing { .. } => Event::ServiceStopped,
        Effect::Lead { epoch, .. } => Event::EpochStarted { epoch },
        Effect::WaitFor { epoch, version, .. } => Event::WaitReached { epoch, version },
        _ => return None,
    })
}

/// A member without others: it elects itself, and gives up when its disk fails.
fn session() -> Recorder {
    let lease = 300 * MS;
    let settings = Settings {
        me: Member { id: NodeId::new("alone").unwrap(), incarnation: Incarnation(1) },
        kind: MemberKind::Data,
        boot: BootNonce(1),
        priority: 50,
        prefers_primary: true,
        peers: Vec::new(),
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
        attendance: None,
        fencing: None,
        speaks: holdfast_heartbeat::packet::NEWEST,
    };
    let mut now = Time(100_000_000_000);
    let mut node = Node::new(settings, HardState::default(), LogPosition::default(), now);
    let mut recorder = Recorder::new();
    let mut queue = VecDeque::new();
    for tick in 0..60 {
        queue.push_back(Event::Ticked);
        if tick == 30 {
            queue.push_back(Event::LogAdvanced {
                end: Lsn(100),
                durable: Lsn(100),
                last_epoch: node.view(now).epoch,
            });
            queue.push_back(Event::LogFailed { full: false, error: "Input/output error".into() });
        }
        while let Some(event) = queue.pop_front() {
            let mut effects = Vec::new();
            recorder.before(&node, now, &event);
            node.handle(now, event, &mut effects);
            recorder.after(&effects);
            queue.extend(effects.into_iter().filter_map(answer));
        }
        now = now + 50 * MS;
    }
    recorder
}

fn written(dir: &Path) -> PathBuf {
    let origin = Origin {
        version: env!("CARGO_PKG_VERSION").into(),
        build: 0xbad,
        node: "alone".into(),
        why: "a test".into(),
        wall_ms: 1_795_255_200_000,
        at: Time(103_000_000_000),
    };
    let path = dir.join("a.flight");
    let mut file = Vec::new();
    flight::write(&session().recording(), &origin, &mut file).unwrap();
    std::fs::write(&path, file).unwrap();
    path
}

fn replay(file: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["ha", "replay"])
        .arg(file)
        .args(more)
        // Whatever the API's address is, this needs none.
        .env("HOLDFAST_API", "ftp://nowhere")
        .output()
        .expect("the binary starts")
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // However wide a column is.
    let squeezed = |text: String| {
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
        text.lines().map(line).collect::<String>()
    };
    (output.status.code(), squeezed(text(&output.stdout)), squeezed(text(&output.stderr)))
}

#[test]
fn a_recording_is_told_in_words_and_ends_with_status_0() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = told(&replay(&written(dir.path()), &[]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for part in [
        "Recording of alone, taken 2026-11-21 10:00:00.000Z (a test)",
        "(build 00000bad); this is holdfast",
        "is standby in epoch 0; primary: nobody; hears nobody",
        "ROLE standby -> candidate, epoch 1",
        "ROLE promoting -> primary, epoch 1",
        "told the virtual address is here and announced (epoch 1)",
        "told the log cannot be written: Input/output error",
        "ROLE primary -> standby, epoch 1: this member's log cannot be written",
        "does releases the virtual address",
        " ticks",
        "Replayed identically: ",
    ] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    // The moment on the wall: half of the session, of three seconds, ahead of its end.
    let failed = out.lines().find(|line| line.contains("told the log cannot")).unwrap();
    assert!(failed.starts_with("2026-11-21 09:59:58.500Z"), "{failed}");
}

#[test]
fn every_event_and_effect_is_shown_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path());
    let (code, out, _) = told(&replay(&file, &["--verbose"]));
    assert_eq!(code, Some(0));
    assert!(out.contains("told Ticked") && out.contains("does ExtendLease {"), "{out}");
    let (code, out, _) = told(&replay(&file, &["--json"]));
    assert_eq!(code, Some(0));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["verdict"], "identical");
    assert_eq!(value["recording"]["node"], "alone");
    let kinds: Vec<_> = value["timeline"].as_array().unwrap().iter().map(|line| &line["kind"]).collect();
    assert!(kinds.iter().filter(|kind| **kind == "transition").count() >= 4, "{kinds:?}");
}

#[test]
fn a_cut_off_recording_is_replayed_as_far_as_it_goes_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path());
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let (code, out, _) = told(&replay(&file, &[]));
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("Damaged: at byte ") && out.contains("damaged or cut off from here on"), "{out}");
    assert!(out.contains("What is damaged was left out."), "{out}");
    assert!(!out.contains("primary -> standby"), "the end is not there: {out}");
}

#[test]
fn what_cannot_be_replayed_ends_with_status_1_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path());
    let whole = std::fs::read(&file).unwrap();
    let says = |bytes: &[u8], part: &str| {
        std::fs::write(&file, bytes).unwrap();
        let (code, out, err) = told(&replay(&file, &[]));
        assert_eq!(code, Some(1), "{out}{err}");
        assert!(err.contains(part) && err.contains("a.flight"), "{err}");
    };
    says(b"hello", "no recording of a Holdfast agent");
    says(&whole[..40], "damaged from its beginning");
    let mut later = whole.clone();
    later[8] += 1;
    says(&later, "replay it with the version that wrote it");
    let (code, _, err) = told(&replay(&dir.path().join("missing"), &[]));
    assert!(code == Some(1) && err.contains("No such file"), "{err}");
}

#[test]
fn a_core_that_decides_otherwise_ends_with_status_1_and_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path());
    let bytes = with_another_decision(std::fs::read(&file).unwrap());
    std::fs::write(&file, bytes).unwrap();
    let (code, out, err) = told(&replay(&file, &[]));
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("Diverged in step 0, 2026-11-21 09:59:57.000Z"), "{out}");
    assert!(
        out.contains("(build 00000bad), this is") && out.contains("replay it with that program"),
        "{out}"
    );
    let (code, out, _) = told(&replay(&file, &["--json"]));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &value["verdict"], &value["difference"]["step"]),
        (Some(1), &"diverged".into(), &0.into())
    );
}

/// The file as a core would have written it that decided otherwise in the first step: another digest,
/// with every checksum right.
fn with_another_decision(mut file: Vec<u8>) -> Vec<u8> {
    let number = |file: &[u8], at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let origin_at = 12;
    let frame_at = origin_at + 8 + number(&file, origin_at);
    let piece_at = frame_at + 8;
    let length = number(&file, frame_at);
    let step_at = piece_at + 9 + number(&file, piece_at + 1);
    let digest_at = step_at + 8 + number(&file, step_at);
    file[digest_at] ^= 1;
    let crc = crc32c::crc32c(&file[digest_at..digest_at + 4]).to_le_bytes();
    file[digest_at + 4..digest_at + 8].copy_from_slice(&crc);
    let crc = crc32c::crc32c(&file[piece_at..piece_at + length]).to_le_bytes();
    file[frame_at + 4..frame_at + 8].copy_from_slice(&crc);
    file
}
