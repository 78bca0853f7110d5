//! A datagram on the heartbeat port.
//!
//! The first byte of an input chooses: the rest is the datagram, or the rest is the body of a datagram with a
//! true tag, which alone gets it to the parser. What is opened is checked against an HMAC of our own over the
//! layout that `heartbeat::packet` documents, so that a check which went missing there does not go missing here.

use std::sync::LazyLock;

use hmac::{Hmac, KeyInit, Mac};
use holdfast_heartbeat::packet::{NEWEST, OLDEST};
use holdfast_heartbeat::{
    AddressTestimony, Ballot, BootNonce, Claim, Dropped, Echo, Epoch, Facts, Heartbeat, InSyncRecord,
    Incarnation, Inquiry, Keyring, Lsn, MAX_EPOCH, MAX_PACKET, MAX_PATHS, MAX_PENALTY, MAX_SIGHTS,
    MAX_SUSPENSION, Member, MemberKind, MemberState, Message, NodeId, Notice, PathReport, Refusal,
    Resignation, Role, Sight, Suspension, Testimony, Time, Vote, Wish, inquiry,
};
use sha2::Sha256;

use super::Target;

/// The target.
pub const TARGET: Target =
    Target { name: "packet", run, seeds, max_len: MAX_PACKET + 65, memory_bytes: 1 << 20 };

const SECRET: &[u8] = b"the secret of a cluster that is fuzzed";
const TAG_AT: usize = 12;
const HEADER: usize = 44;
const AS_IT_IS: u8 = 0;
const SIGNED: u8 = 1;
/// As that, in the oldest version.
const SIGNED_FIRST: u8 = 3;

static RING: LazyLock<Keyring> = LazyLock::new(|| Keyring::new([b"an older one".as_slice(), SECRET]));
static SIGNING: LazyLock<Keyring> = LazyLock::new(|| Keyring::new([SECRET]));

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The derived key, with its secret taken in.
static KEY: LazyLock<Hmac<Sha256>> =
    LazyLock::new(|| keyed(&keyed(SECRET).chain_update(b"holdfast heartbeat v1").finalize().into_bytes()));

fn tag(packet: &[u8]) -> [u8; 32] {
    KEY.clone().chain_update(&packet[..TAG_AT]).chain_update(&packet[HEADER..]).finalize().into_bytes().into()
}

/// A datagram around `body`, as whoever has the secret would make it.
fn signed(body: &[u8], version: u8) -> Vec<u8> {
    let id = KEY.clone().chain_update(b"key id").finalize().into_bytes();
    let length = u16::try_from(body.len()).expect("the longest input is shorter");
    let mut packet =
        [b"HFHB".as_slice(), &[version, NEWEST], &length.to_be_bytes(), &id[..4], &[0; 32], body].concat();
    let tag = tag(&packet);
    packet[TAG_AT..HEADER].copy_from_slice(&tag);
    packet
}

fn run(input: &[u8]) -> bool {
    let Some((&kind, rest)) = input.split_first() else { return false };
    match kind % 4 {
        SIGNED => any_body(rest, NEWEST),
        SIGNED_FIRST => any_body(rest, OLDEST),
        _ => any_datagram(rest),
    }
}

/// Nothing opens without a tag that is right, whatever else it is.
fn any_datagram(packet: &[u8]) -> bool {
    match RING.open(packet) {
        Ok(message) => {
            assert!(packet.len() >= HEADER && packet[TAG_AT..HEADER] == tag(packet), "opened without a tag");
            holds(&message);
            true
        }
        Err(Dropped::Malformed) => {
            assert_eq!(packet[TAG_AT..HEADER], tag(packet), "the parser saw a body without a tag");
            false
        }
        Err(dropped) => {
            let by_length = matches!(dropped, Dropped::Truncated | Dropped::Oversized);
            assert!(packet.len() >= HEADER || by_length, "{dropped} for {} bytes", packet.len());
            false
        }
    }
}

/// Whoever has the secret may say anything, and it is understood or dropped.
fn any_body(body: &[u8], version: u8) -> bool {
    let body = &body[..body.len().min(u16::MAX.into())];
    let packet = signed(body, version);
    match RING.open(&packet) {
        Ok(message) => {
            holds(&message);
            true
        }
        Err(dropped) => {
            let expected = if packet.len() > MAX_PACKET { Dropped::Oversized } else { Dropped::Malformed };
            assert_eq!(dropped, expected);
            false
        }
    }
}

/// What is accepted is within the bounds that everything behind relies on, and can be stated again.
fn holds(message: &Message) {
    let again = SIGNING.seal(message, NEWEST);
    assert!(again.len() <= MAX_PACKET);
    assert_eq!(SIGNING.open(&again).as_ref(), Ok(message), "not the same after another way");
    match message {
        Message::Notice(notice) => assert!(notice.epoch <= MAX_EPOCH),
        Message::Heartbeat(heartbeat) => {
            let state = &heartbeat.state;
            let epochs =
                [Some(state.epoch), Some(state.last_epoch), state.grants, state.vote.map(|v| v.epoch)];
            assert!(epochs.into_iter().flatten().all(|epoch| epoch <= MAX_EPOCH));
            assert!(state.ballot.is_none_or(|ballot| ballot.epoch <= MAX_EPOCH));
            assert!(state.record.as_ref().is_none_or(|record| record.epoch <= MAX_EPOCH));
            assert!(state.suspension.version <= MAX_SUSPENSION && state.penalty <= MAX_PENALTY);
            assert!(state.hears.len() <= MAX_SIGHTS && heartbeat.paths.len() <= MAX_PATHS);
        }
        Message::Inquiry(_) => {}
        Message::Testimony(testimony) => {
            assert!(testimony.addresses.len() <= inquiry::MAX_ADDRESSES);
            assert!(testimony.facts.keys.len() <= inquiry::MAX_KEYS);
            for address in &testimony.addresses {
                assert!(address.holders.len().max(address.claims.len()) <= inquiry::MAX_STATIONS);
            }
        }
    }
}

fn member(name: &str) -> Member {
    Member { id: NodeId::new(name).expect("a name"), incarnation: Incarnation(0x1234_5678_9abc) }
}

/// A heartbeat that says little, and one that says everything.
pub(super) fn heartbeats() -> [Heartbeat; 2] {
    let state = MemberState {
        role: Role::Standby,
        epoch: Epoch(3),
        priority: 100,
        prefers_primary: false,
        lease_ns: 300_000_000,
        grants: None,
        follows: None,
        ballot: None,
        vote: None,
        record: None,
        resigned: None,
        durable: Lsn(4711),
        last_epoch: Epoch(3),
        pristine: false,
        electable: true,
        wants_primary: None,
        leaving: false,
        drained: false,
        suspension: Suspension::default(),
        going_on_alone: false,
        penalty: 0,
        disk_stalled: false,
        hears: Vec::new(),
    };
    let plain = Heartbeat {
        from: member("b"),
        kind: MemberKind::Data,
        boot: BootNonce(7),
        seq: 9,
        sent_at: Time(1_000_000_000),
        path: 0,
        echo: None,
        reply_wanted: true,
        paths: Vec::new(),
        speaks: NEWEST,
        state,
    };
    let mut full = plain.clone();
    full.echo = Some(Echo { boot: BootNonce(1), seq: 5, sent_at: Time(99), path: 1 });
    full.paths = vec![PathReport { sent: 7, received: u32::MAX }, PathReport::default()];
    full.state = MemberState {
        role: Role::Candidate,
        grants: Some(Epoch(4)),
        follows: Some((Epoch(4), NodeId::new("a").expect("a name"))),
        ballot: Some(Ballot { round: 2, epoch: Epoch(5), pre: true, forced: true }),
        vote: Some(Vote { round: 1, epoch: Epoch(5), pre: false, refusal: Some(Refusal::LeaseHeld) }),
        record: Some(InSyncRecord {
            epoch: Epoch(4),
            version: 2,
            members: vec![member("a"), member("b")],
            voters: Some(vec![member("a").id, member("b").id, member("w").id]),
        }),
        resigned: Some(Resignation { epoch: Epoch(2), successor: Some(NodeId::new("a").expect("a name")) }),
        wants_primary: Some(Wish::Failback),
        suspension: Suspension {
            version: 3,
            paused: true,
            by: Some(NodeId::new("w").expect("a name")),
            since_unix_ms: 1_790_000_000_000,
        },
        penalty: 20,
        hears: vec![Sight { member: Incarnation(3), paths: 0b11 }],
        ..full.state
    };
    [plain, full]
}

/// What `ha check` asks, and an answer.
fn inquiries() -> [Message; 2] {
    let inquiry =
        Inquiry { from: member("a"), boot: BootNonce(7), to_boot: BootNonce(8), round: 1, announce: true };
    let facts = Facts {
        version: "0.1.0".into(),
        kind: MemberKind::Data,
        interval_ns: 100_000_000,
        detect_ns: 300_000_000,
        lease_ns: 300_000_000,
        voters: 3,
        two_node: "probe".into(),
        enabled: true,
        gate: "eBPF (tcx)".into(),
        service_port: Some(9000),
        keys: vec!["4f1c".into()],
    };
    let address = AddressTestimony {
        address: "10.0.0.100".parse().expect("an address"),
        prefix: 24,
        mac: Some([2, 0, 0, 0, 0, 1]),
        up: true,
        here: false,
        asked: true,
        holders: vec![[2, 0, 0, 0, 0, 2]],
        claims: vec![Claim { mac: [2, 0, 0, 0, 0, 2], us_ago: 800 }],
        service: Some(true),
    };
    let testimony = Testimony {
        from: member("b"),
        to_boot: BootNonce(7),
        round: 1,
        facts,
        announced_us_ago: Some(900),
        addresses: vec![address],
    };
    [Message::Inquiry(inquiry), Message::Testimony(Box::new(testimony))]
}

fn seeds() -> Vec<Vec<u8>> {
    let notice = Notice { member: member("a"), boot: BootNonce(3), epoch: Epoch(4) };
    let messages = heartbeats().map(|heartbeat| Message::Heartbeat(Box::new(heartbeat)));
    let packets: Vec<Vec<u8>> = messages
        .iter()
        .chain([&Message::Notice(notice)])
        .chain(&inquiries())
        .map(|message| SIGNING.seal(message, NEWEST))
        .collect();
    let mut seeds: Vec<Vec<u8>> = packets.iter().map(|packet| [&[AS_IT_IS], &packet[..]].concat()).collect();
    seeds.extend(packets.iter().map(|packet| [&[SIGNED], &packet[HEADER..]].concat()));
    let first = messages.iter().map(|message| SIGNING.seal(message, OLDEST));
    seeds.extend(first.map(|packet| [&[SIGNED_FIRST], &packet[HEADER..]].concat()));
    let mut other = Keyring::new([b"of another cluster".as_slice()]).seal(&messages[0], NEWEST);
    other.insert(0, AS_IT_IS);
    seeds.push(other);
    seeds.push([&[AS_IT_IS], &packets[0][..TAG_AT]].concat());
    seeds.push([vec![AS_IT_IS], packets[0].clone(), vec![0; MAX_PACKET]].concat()[..MAX_PACKET + 2].to_vec());
    seeds
}
