//! What comes out of the network: only what a member signed, exactly as it signed it, and never a panic.

mod support;

use hmac::{Hmac, KeyInit, Mac};
use holdfast_heartbeat::packet::{NEWEST, OLDEST};
use holdfast_heartbeat::*;
use proptest::prelude::*;
use sha2::Sha256;

use support::{largest, member, plain};

const SECRET: &[u8] = b"correct horse battery staple";
const OTHER: &[u8] = b"another secret of the same kind";
/// Bytes before the payload.
const HEADER: usize = 44;

fn ring(secrets: &[&[u8]]) -> Keyring {
    Keyring::new(secrets.iter().copied())
}

fn message(heartbeat: Heartbeat) -> Message {
    Message::Heartbeat(Box::new(heartbeat))
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// An authentic packet around any payload, made from the description of the format alone.
fn authentic(secret: &[u8], version: u8, payload: &[u8]) -> Vec<u8> {
    let key = mac(secret, &[b"holdfast heartbeat v1"]);
    let mut packet = b"HFHB".to_vec();
    packet.extend([version, NEWEST]);
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend(&mac(&key, &[b"key id"])[..4]);
    packet.extend(mac(&key, &[&packet[..12], payload]));
    packet.extend(payload);
    packet
}

#[test]
fn what_was_sealed_is_opened() {
    let ring = ring(&[SECRET]);
    let notice = Message::Notice(Notice { member: member("a"), boot: BootNonce(9), epoch: Epoch(3) });
    for message in [message(plain()), message(largest(5)), notice] {
        assert_eq!(ring.open(&ring.seal(&message, NEWEST)), Ok(message));
    }
}

/// A heartbeat of a member whose record says who votes.
fn with_voters(members: usize, voters: usize) -> Heartbeat {
    let mut heartbeat = largest(members);
    let voters = (0..voters).map(support::long_name).collect();
    heartbeat.state.record.as_mut().expect("a record").voters = Some(voters);
    heartbeat.speaks = NEWEST;
    heartbeat
}

#[test]
fn an_older_release_is_told_what_its_version_can_say_and_says_which_is_its_newest() {
    let ring = ring(&[SECRET]);
    let newer = with_voters(3, 3);
    let packet = ring.seal(&message(newer.clone()), OLDEST);
    assert_eq!((packet[4], packet[5]), (OLDEST, NEWEST), "what it is written in, and what its sender speaks");
    let mut told = newer.clone();
    told.state.record.as_mut().expect("a record").voters = None;
    told.state.vote.as_mut().expect("a vote").refusal = Some(Refusal::NotInSync);
    assert_eq!(ring.open_up_to(&packet, OLDEST), Ok(message(told)));
    assert_eq!(ring.open(&packet), Ok(message(newer.clone())), "who knows more is told all of it");
    // The older one answers in the version that it has.
    let older = Heartbeat { speaks: OLDEST, ..plain() };
    let packet = ring.seal(&message(older.clone()), OLDEST);
    assert_eq!((packet[4], packet[5]), (OLDEST, OLDEST));
    assert_eq!(ring.open(&packet), Ok(message(older)));
    // What is too new for it is counted and changes nothing.
    assert_eq!(ring.open_up_to(&ring.seal(&message(newer), NEWEST), OLDEST), Err(Dropped::OtherVersion));
}

#[test]
fn a_sender_that_speaks_less_than_it_says_here_is_not_believed() {
    let payload = postcard::to_stdvec(&message(plain())).unwrap();
    let mut packet = authentic(SECRET, NEWEST, &payload);
    packet[5] = OLDEST;
    let sealed = mac(&mac(SECRET, &[b"holdfast heartbeat v1"]), &[&packet[..12], &payload]);
    packet[12..HEADER].copy_from_slice(&sealed);
    assert_eq!(ring(&[SECRET]).open(&packet), Err(Dropped::OtherVersion));
}

#[test]
fn the_voters_count_for_the_size_of_a_record_and_nobody_votes_twice() {
    let ring = ring(&[SECRET]);
    let fits = |heartbeat: Heartbeat| {
        let packet = ring.seal(&message(heartbeat), NEWEST);
        ring.open(&packet).is_ok()
    };
    assert!(fits(with_voters(3, 5)), "five voters of whom three are in sync, with the longest names");
    let mut twice = with_voters(2, 2);
    twice.state.record.as_mut().unwrap().voters = Some(vec![support::long_name(0), support::long_name(0)]);
    assert!(!fits(twice));
    assert!(!fits(with_voters(2, 0)), "somebody votes");
    let mut large = with_voters(3, 8);
    large.paths.clear();
    large.state.hears.clear();
    assert!(!large.state.record.as_ref().unwrap().within_bounds());
}

#[test]
fn the_format_is_the_one_that_is_documented() {
    let message = message(plain());
    let payload = postcard::to_stdvec(&message).unwrap();
    assert_eq!(ring(&[SECRET]).seal(&message, NEWEST), authentic(SECRET, NEWEST, &payload));
}

#[test]
fn another_key_is_not_believed() {
    let packet = ring(&[OTHER]).seal(&message(plain()), NEWEST);
    assert_eq!(ring(&[SECRET]).open(&packet), Err(Dropped::UnknownKey));
    // Whoever claims the right key and does not have it comes no further than the tag.
    let mut forged = packet;
    forged[8..12].copy_from_slice(&ring(&[SECRET]).seal(&message(plain()), NEWEST)[8..12]);
    assert_eq!(ring(&[SECRET]).open(&forged), Err(Dropped::BadMac));
}

#[test]
fn a_key_is_replaced_member_by_member() {
    let (old, both, new) = (ring(&[SECRET]), ring(&[OTHER, SECRET]), ring(&[OTHER]));
    let message = message(plain());
    assert_eq!(both.open(&old.seal(&message, NEWEST)), Ok(message.clone()), "the old key still opens");
    assert_eq!(new.open(&both.seal(&message, NEWEST)), Ok(message.clone()), "the new key signs");
    assert_eq!(old.open(&both.seal(&message, NEWEST)), Err(Dropped::UnknownKey));
    assert_eq!(new.open(&old.seal(&message, NEWEST)), Err(Dropped::UnknownKey));
}

#[test]
fn a_packet_cut_anywhere_is_dropped() {
    let ring = ring(&[SECRET]);
    let packet = ring.seal(&message(largest(5)), NEWEST);
    for length in 0..packet.len() {
        assert_eq!(ring.open(&packet[..length]), Err(Dropped::Truncated), "{length} bytes");
    }
}

#[test]
fn every_single_bit_flip_is_dropped_with_its_reason() {
    let ring = ring(&[SECRET, OTHER]);
    let packet = ring.seal(&message(largest(5)), NEWEST);
    for bit in 0..packet.len() * 8 {
        let mut flipped = packet.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let dropped = ring.open(&flipped).expect_err("a flipped bit went through");
        let length = |packet: &[u8]| u16::from_be_bytes([packet[6], packet[7]]);
        let expected = match bit / 8 {
            0..4 => Dropped::BadMagic,
            4 => Dropped::OtherVersion,
            5 => Dropped::BadMac,
            6..8 if length(&flipped) > length(&packet) => Dropped::Truncated,
            6..8 => Dropped::Oversized,
            8..12 => Dropped::UnknownKey,
            _ => Dropped::BadMac,
        };
        assert_eq!(dropped, expected, "bit {bit}");
    }
}

#[test]
fn more_than_was_signed_is_dropped() {
    let ring = ring(&[SECRET]);
    let mut packet = ring.seal(&message(plain()), NEWEST);
    packet.push(0);
    assert_eq!(ring.open(&packet), Err(Dropped::Oversized));
    packet.resize(MAX_PACKET + 1, 0);
    assert_eq!(ring.open(&packet), Err(Dropped::Oversized));
    assert_eq!(ring.open(&vec![0; 65_507]), Err(Dropped::Oversized));
    // A message with something behind it, signed as a whole, is a defect of the peer.
    let mut payload = postcard::to_stdvec(&message(plain())).unwrap();
    payload.push(0);
    assert_eq!(ring.open(&authentic(SECRET, NEWEST, &payload)), Err(Dropped::Malformed));
}

#[test]
fn another_version_is_dropped_even_if_it_is_authentic() {
    let payload = postcard::to_stdvec(&message(plain())).unwrap();
    for version in [0, NEWEST + 1, u8::MAX] {
        let packet = authentic(SECRET, version, &payload);
        assert_eq!(ring(&[SECRET]).open(&packet), Err(Dropped::OtherVersion));
    }
}

#[test]
fn the_largest_heartbeat_fits() {
    let ring = ring(&[SECRET]);
    // Five data members are more than anybody runs; nine are what the bound on records admits.
    for (members, version) in [(5, NEWEST), (9, NEWEST), (5, OLDEST), (9, OLDEST)] {
        let mut heartbeat = largest(members);
        let packet = ring.seal(&message(heartbeat.clone()), version);
        assert!(packet.len() <= MAX_PACKET, "{members} members: {} bytes", packet.len());
        if members == 9 {
            // What is measured gives way; all that is decided by is there.
            heartbeat.paths.clear();
            heartbeat.state.hears.clear();
        }
        assert_eq!(ring.open(&packet), Ok(message(heartbeat)));
    }
}

#[test]
fn a_record_that_could_not_be_stated_again_is_not_taken() {
    let mut heartbeat = plain();
    let mut state = largest(9).state;
    state.record.as_mut().unwrap().members.push(member("a"));
    heartbeat.state.record = state.record;
    let payload = postcard::to_stdvec(&message(heartbeat)).unwrap();
    assert!(HEADER + payload.len() <= MAX_PACKET, "it fits into its own packet");
    assert_eq!(ring(&[SECRET]).open(&authentic(SECRET, NEWEST, &payload)), Err(Dropped::Malformed));
}

#[test]
fn an_epoch_that_leaves_no_room_for_the_next_is_not_taken() {
    let ring = ring(&[SECRET]);
    let mut heartbeat = plain();
    heartbeat.state.epoch = MAX_EPOCH;
    assert!(ring.open(&ring.seal(&message(heartbeat.clone()), NEWEST)).is_ok());
    heartbeat.state.epoch = MAX_EPOCH.next();
    assert_eq!(ring.open(&ring.seal(&message(heartbeat), NEWEST)), Err(Dropped::Malformed));
    let ballot = Ballot { round: 1, epoch: Epoch(u64::MAX), pre: true, forced: false };
    let mut heartbeat = plain();
    heartbeat.state.ballot = Some(ballot);
    assert_eq!(ring.open(&ring.seal(&message(heartbeat), NEWEST)), Err(Dropped::Malformed));
    let notice = Notice { member: member("a"), boot: BootNonce(1), epoch: Epoch(u64::MAX) };
    assert_eq!(ring.open(&ring.seal(&Message::Notice(notice), NEWEST)), Err(Dropped::Malformed));
}

#[test]
fn an_order_that_leaves_no_room_for_the_next_is_not_taken() {
    let ring = ring(&[SECRET]);
    let mut heartbeat = plain();
    heartbeat.state.suspension.version = MAX_SUSPENSION;
    assert!(ring.open(&ring.seal(&message(heartbeat.clone()), NEWEST)).is_ok());
    heartbeat.state.suspension.version = MAX_SUSPENSION + 1;
    assert_eq!(ring.open(&ring.seal(&message(heartbeat), NEWEST)), Err(Dropped::Malformed));
}

#[test]
fn health_comes_through_as_stated_and_a_penalty_beyond_its_bound_does_not() {
    let ring = ring(&[SECRET]);
    let mut heartbeat = plain();
    (heartbeat.state.penalty, heartbeat.state.disk_stalled) = (MAX_PENALTY, true);
    let stated = message(heartbeat.clone());
    assert_eq!(ring.open(&ring.seal(&stated, NEWEST)), Ok(stated));
    heartbeat.state.penalty = MAX_PENALTY + 1;
    assert_eq!(ring.open(&ring.seal(&message(heartbeat), NEWEST)), Err(Dropped::Malformed));
}

#[test]
fn of_two_orders_the_later_one_holds_and_of_two_at_once_the_pause() {
    let order = |version, paused, by: &str| Suspension {
        version,
        paused,
        by: Some(NodeId::new(by).unwrap()),
        since_unix_ms: 5,
    };
    assert!(order(2, false, "a").rank() > order(1, true, "b").rank());
    assert!(order(2, true, "a").rank() > order(2, false, "b").rank());
    assert!(order(2, true, "b").rank() > order(2, true, "a").rank(), "members agree on one of the two");
    assert!(order(1, false, "a").rank() > Suspension::default().rank());
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Dropped::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), Dropped::ALL.len());
    assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
}

#[test]
fn a_keyring_does_not_show_its_keys() {
    assert_eq!(format!("{:?}", ring(&[SECRET, OTHER])), "Keyring(2 keys)");
}

proptest! {
    #[test]
    fn garbage_is_dropped(packet in prop::collection::vec(any::<u8>(), 0..=2 * MAX_PACKET)) {
        prop_assert!(ring(&[SECRET]).open(&packet).is_err());
    }

    #[test]
    fn garbage_behind_a_good_header_is_dropped(
        mut tail in prop::collection::vec(any::<u8>(), 32..=MAX_PACKET - 12),
    ) {
        let mut packet = ring(&[SECRET]).seal(&message(plain()), NEWEST)[..12].to_vec();
        packet[6..8].copy_from_slice(&u16::try_from(tail.len() - 32).unwrap().to_be_bytes());
        packet.append(&mut tail);
        prop_assert_eq!(ring(&[SECRET]).open(&packet), Err(Dropped::BadMac));
    }

    #[test]
    fn authentic_garbage_never_panics(payload in prop::collection::vec(any::<u8>(), 0..=MAX_PACKET - HEADER)) {
        let opened = ring(&[SECRET]).open(&authentic(SECRET, NEWEST, &payload));
        prop_assert!(opened.is_ok() || opened == Err(Dropped::Malformed));
    }

    /// A defect of the peer that hits one byte of a real message; what is still taken can be sent again.
    #[test]
    fn a_real_message_with_a_wrong_byte_never_panics(at in any::<prop::sample::Index>(), byte: u8) {
        let mut payload = postcard::to_stdvec(&message(largest(5))).unwrap();
        let at = at.index(payload.len());
        payload[at] = byte;
        match ring(&[SECRET]).open(&authentic(SECRET, NEWEST, &payload)) {
            Ok(message) => prop_assert!(ring(&[SECRET]).seal(&message, NEWEST).len() <= MAX_PACKET),
            Err(dropped) => prop_assert_eq!(dropped, Dropped::Malformed),
        }
    }

    #[test]
    fn any_numbers_survive_the_way(
        boot: u64, seq: u64, sent_at: u64, path: u8, epoch in 0..=MAX_EPOCH.0, lsn: u64, name in "[A-Za-z0-9._:-]{1,63}",
    ) {
        let mut heartbeat = plain();
        heartbeat.from.id = NodeId::new(name).unwrap();
        heartbeat.boot = BootNonce(boot);
        heartbeat.seq = seq;
        heartbeat.sent_at = Time(sent_at);
        heartbeat.path = path;
        heartbeat.state.epoch = Epoch(epoch);
        heartbeat.state.durable = Lsn(lsn);
        let ring = ring(&[SECRET]);
        prop_assert_eq!(ring.open(&ring.seal(&message(heartbeat.clone()), NEWEST)), Ok(message(heartbeat)));
    }
}

fn largest_testimony() -> Testimony {
    let text: compact_str::CompactString = "x".repeat(inquiry::MAX_LABEL).into();
    let claim = Claim { mac: [0xff; 6], us_ago: u64::MAX };
    let address = AddressTestimony {
        address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
        prefix: 128,
        mac: Some([0xff; 6]),
        up: true,
        here: true,
        asked: true,
        holders: vec![[0xff; 6]; inquiry::MAX_STATIONS],
        claims: vec![claim; inquiry::MAX_STATIONS],
        service: Some(true),
    };
    Testimony {
        from: Member { id: support::long_name(0), incarnation: Incarnation(u64::MAX) },
        to_boot: BootNonce(u64::MAX),
        round: u64::MAX,
        facts: Facts {
            version: text.clone(),
            kind: MemberKind::Witness,
            interval_ns: u64::MAX,
            detect_ns: u64::MAX,
            lease_ns: u64::MAX,
            voters: u8::MAX,
            two_node: text.clone(),
            enabled: true,
            gate: text.clone(),
            service_port: Some(u16::MAX),
            keys: vec![text; inquiry::MAX_KEYS],
        },
        announced_us_ago: Some(u64::MAX),
        addresses: vec![address; inquiry::MAX_ADDRESSES],
    }
}

#[test]
fn the_largest_testimony_fits_and_more_is_not_taken() {
    let ring = ring(&[SECRET]);
    let of = |testimony: &Testimony| Message::Testimony(Box::new(testimony.clone()));
    let mut testimony = largest_testimony();
    let packet = ring.seal(&of(&testimony), OLDEST);
    assert!(packet.len() <= MAX_PACKET, "{} bytes", packet.len());
    assert_eq!(ring.open(&packet), Ok(of(&testimony)));
    let refused = |testimony: &Testimony| {
        let payload = postcard::to_stdvec(&of(testimony)).unwrap();
        ring.open(&authentic(SECRET, NEWEST, &payload)) == Err(Dropped::Malformed)
    };
    testimony.addresses.truncate(1);
    testimony.addresses[0].holders.push([0; 6]);
    assert!(refused(&testimony));
    testimony.addresses[0].holders.clear();
    testimony.facts.gate.push('x');
    assert!(refused(&testimony));
    let name = "é".repeat(inquiry::MAX_LABEL);
    assert!(inquiry::label(&name).len() <= inquiry::MAX_LABEL);
    assert_eq!(inquiry::label("0.1.0"), "0.1.0");
}

#[test]
fn more_paths_or_members_than_there_can_be_are_not_taken() {
    let mut heartbeat = plain();
    heartbeat.paths = vec![PathReport::default(); MAX_PATHS + 1];
    let payload = postcard::to_stdvec(&message(heartbeat)).unwrap();
    assert_eq!(ring(&[SECRET]).open(&authentic(SECRET, NEWEST, &payload)), Err(Dropped::Malformed));
    let mut heartbeat = plain();
    heartbeat.state.hears = vec![Sight { member: Incarnation(1), paths: 1 }; MAX_SIGHTS + 1];
    let payload = postcard::to_stdvec(&message(heartbeat)).unwrap();
    assert_eq!(ring(&[SECRET]).open(&authentic(SECRET, NEWEST, &payload)), Err(Dropped::Malformed));
}
