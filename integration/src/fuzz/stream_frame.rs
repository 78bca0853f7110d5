//! The log's stream: what a stranger may send, and what somebody with the secret may.
//!
//! The first byte of an input chooses: the rest is a frame; or what arrives in place of a handshake; or what
//! was decrypted, cut into messages where the bytes say.

use holdfast_replication::log::{Gap, RangeSum};
use holdfast_replication::record::Position;
use holdfast_replication::space::Checkpoint;
use holdfast_replication::stream::{
    Assembly, Features, Frame, MAX_FRAME, MAX_HISTORY, MAX_TEXT, NoiseSession, StreamErrorKind,
};
use holdfast_replication::stream::{Hello, RejectReason, Verdict, Welcome};
use holdfast_replication::{Epoch, EpochHistory, Incarnation, Lsn, Member, NodeId};

use super::Target;

/// The target.
pub const TARGET: Target = Target { name: "stream_frame", run, seeds, max_len: 2048, memory_bytes: 4 << 20 };

const SECRET: &[u8] = b"the secret of a cluster that is fuzzed";
/// Lengths of a handshake's message, with offers of this release and of later ones.
const HANDSHAKES: std::ops::RangeInclusive<usize> = 54..=112;
const FRAME: u8 = 0;
const STRANGER: u8 = 1;
const DECRYPTED: u8 = 2;

fn run(input: &[u8]) -> bool {
    let Some((&kind, rest)) = input.split_first() else { return false };
    match kind % 3 {
        FRAME => a_frame(rest),
        STRANGER => a_stranger(rest),
        _ => what_was_decrypted(rest),
    }
}

/// What is understood is within the limits, takes no more room than its bytes, and says the same again.
fn a_frame(bytes: &[u8]) -> bool {
    let Ok(frame) = Frame::decode(&bytes.to_vec().into()) else { return false };
    holds(&frame);
    true
}

fn holds(frame: &Frame) {
    match frame {
        Frame::Hello(hello) => {
            let starts = hello.history.starts();
            assert!(starts.len() <= MAX_HISTORY && EpochHistory::new(starts.to_vec()).is_ok());
        }
        Frame::Reject { text, .. } => assert!(text.len() <= MAX_TEXT),
        Frame::Skip { gap, .. } => {
            let starts = gap.history.starts();
            assert!(starts.len() <= MAX_HISTORY && EpochHistory::new(starts.to_vec()).is_ok());
        }
        Frame::Append { .. } | Frame::Move { .. } | Frame::Welcome(_) | Frame::Ack { .. } => {}
        Frame::Committed { .. } | Frame::Fetch { .. } | Frame::Fetched { .. } => {}
        Frame::Ask { .. } | Frame::Told { .. } | Frame::Compare { .. } | Frame::Compared { .. } => {}
    }
    let mut again = Vec::new();
    frame.encode(&mut again);
    assert!(again.len() <= MAX_FRAME);
    assert_eq!(Frame::decode(&again.into()).as_ref(), Ok(frame), "not the same after another way");
}

/// Without the secret nobody gets an answer, a frame, or a second try; nobody is waited for behind a length
/// that cannot be a handshake's. The first byte says in which pieces the bytes arrive.
fn a_stranger(bytes: &[u8]) -> bool {
    let Some((&piece, wire)) = bytes.split_first() else { return false };
    let mut session = NoiseSession::responder(SECRET).expect("a secret that is long enough");
    let (mut answer, mut frames, mut fed) = (Vec::new(), Vec::new(), 0);
    let mut end = Ok(());
    for part in wire.chunks(usize::from(piece).max(1)) {
        fed += part.len();
        end = session.feed(part, &mut answer, &mut frames);
        if end.is_err() {
            break;
        }
    }
    assert!(answer.is_empty() && frames.is_empty() && !session.is_open(), "a stranger was let in");
    match end {
        Ok(()) => {
            let announced = wire.first_chunk().map_or(0, |len| usize::from(u16::from_be_bytes(*len)));
            let may_be = fed < 2 || HANDSHAKES.contains(&announced);
            assert!(may_be && fed < 2 + HANDSHAKES.end(), "a stranger is waited for");
        }
        Err(error) => {
            assert_eq!(error.0, StreamErrorKind::Handshake);
            let more = session.feed(&[0], &mut answer, &mut frames).expect_err("it is over");
            assert_eq!(more.0, StreamErrorKind::State);
        }
    }
    false
}

/// Each message is behind a byte of its length, times sixteen.
fn what_was_decrypted(mut bytes: &[u8]) -> bool {
    let (mut assembly, mut accepted) = (Assembly::with(Features::KNOWN), false);
    while let Some((&length, rest)) = bytes.split_first() {
        let (message, after) = rest.split_at((usize::from(length) * 16).max(1).min(rest.len()));
        match assembly.push(message) {
            Ok(Some(frame)) => {
                holds(&frame);
                accepted = true;
            }
            Ok(None) => {}
            Err(error) => {
                let kinds = [StreamErrorKind::BadFrame, StreamErrorKind::TooLarge];
                assert!(kinds.contains(&error.0), "{error}");
                break;
            }
        }
        bytes = after;
    }
    accepted
}

fn frames() -> Vec<Frame> {
    let member = Member { id: NodeId::new("a").expect("a name"), incarnation: Incarnation(7) };
    let history = EpochHistory::new(vec![(Epoch(1), Lsn(0)), (Epoch(4), Lsn(99)), (Epoch(9), Lsn(1 << 40))]);
    vec![
        Frame::Hello(Hello {
            member: member.clone(),
            promised_epoch: Epoch(4),
            log_id: 9,
            history: history.clone().expect("in order"),
            end: Lsn(1 << 41),
            chain: 5,
            whole_below: Lsn(1),
        }),
        Frame::Welcome(Welcome {
            epoch: Epoch(5),
            leader: member,
            log_id: 9,
            segment_size: 1 << 26,
            truncate_to: Lsn(200),
            committed: Lsn(150),
            to_come: 40,
        }),
        Frame::Append { epoch: Epoch(5), lsn: Lsn(200), committed: Lsn(150), bytes: vec![3; 300].into() },
        Frame::Ack { epoch: Epoch(5), durable: Lsn(300) },
        Frame::Committed { epoch: Epoch(5), lsn: Lsn(300) },
        Frame::Reject { reason: RejectReason::ForeignLog, text: "another log".into() },
        Frame::Move { epoch: Epoch(5), committed: Lsn(150), record: vec![3; 70].into() },
        Frame::Compare { sum: RangeSum { from: Lsn(0), to: Lsn(300), sha256: [6; 32] } },
        Frame::Compared { from: Lsn(0), verdict: Verdict::Differs },
        Frame::Fetch { lsn: Lsn(300) },
        Frame::Fetched { lsn: Lsn(300), bytes: vec![3; 70].into() },
        Frame::Skip {
            epoch: Epoch(5),
            gap: Gap {
                hole: (Lsn(100), Lsn(1 << 40)),
                at: Position { lsn: Lsn(1 << 40), chain: 6, epoch: Epoch(4), epoch_start: Lsn(99) },
                checkpoint: Checkpoint { as_of: Lsn(1 << 41), from: Lsn(1 << 41), to: Lsn(1 << 42) },
                history: history.expect("in order"),
            },
        },
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let (mut seeds, mut decrypted) = (Vec::new(), vec![DECRYPTED]);
    for frame in frames() {
        let mut bytes = vec![FRAME];
        frame.encode(&mut bytes);
        let message = [&u32::try_from(bytes.len() - 1).expect("small").to_be_bytes(), &bytes[1..]].concat();
        // As one message, and as two.
        let sixteenths = message.len().div_ceil(16);
        let whole = [&[u8::try_from(sixteenths).expect("small")], &message[..]].concat();
        decrypted.extend(&whole);
        let first = 16.min(message.len());
        seeds.push([&[DECRYPTED, 1], &message[..first], &[0xff], &message[first..]].concat());
        seeds.push([&[DECRYPTED], &whole[..]].concat());
        seeds.push(bytes);
    }
    seeds.push(decrypted);
    // A frame that is compressed: its length with the highest bit, the length before, literals of LZ4.
    let (mut frame, mut squeezed) = (Vec::new(), vec![DECRYPTED, 2, 0x80, 0, 0, 0]);
    Frame::Fetch { lsn: Lsn(300) }.encode(&mut frame);
    let len = u8::try_from(frame.len()).expect("nine bytes");
    squeezed.extend([0, 0, 0, len, len << 4]);
    squeezed.extend(&frame);
    squeezed[5] = len + 5;
    seeds.push(squeezed);
    let handshake = [[0, 54].as_slice(), &[9; 54]].concat();
    for piece in [1, 7, 255] {
        seeds.push([&[STRANGER, piece], &handshake[..]].concat());
    }
    seeds.push([&[STRANGER, 255], b"GET / HTTP/1.1\r\n\r\n".as_slice()].concat());
    seeds.push([&[STRANGER, 255], &handshake[..30]].concat());
    seeds
}
