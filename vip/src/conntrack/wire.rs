//! Entries and orders as the kernel speaks them. Attribute and message numbers are those of
//! `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::SUBSYSTEM;
use super::flow::{
    ASSURED, CONFIRMED, Detail, Flow, ICMPV6, Key, LONGEST_TIMEOUT_SECONDS, SEEN_REPLY, Sctp, State,
    TCP_BE_LIBERAL, Tcp, Tuple,
};
use crate::gate::wire::{Answer, Attributes, CREATE, DUMP, EXCLUSIVE, REQUEST, attributes};

pub(super) const NEW: u8 = 0;
const GET: u8 = 1;
pub(super) const DELETE: u8 = 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const NAT_SOURCE: u16 = 6;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const NAT_DESTINATION: u16 = 13;
const ZONE: u16 = 18;
const STATUS_MASK: u16 = 26;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;
const IP4_SOURCE: u16 = 1;
const IP4_DESTINATION: u16 = 2;
const IP6_SOURCE: u16 = 3;
const IP6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const ICMP_ID: u16 = 4;
const ICMP_TYPE: u16 = 5;
const ICMP_CODE: u16 = 6;
const ICMPV6_ID: u16 = 7;
const ICMPV6_TYPE: u16 = 8;
const ICMPV6_CODE: u16 = 9;

const INFO_TCP: u16 = 1;
const INFO_SCTP: u16 = 3;
const TCP_STATE: u16 = 1;
const TCP_SCALE_ORIGINAL: u16 = 2;
const TCP_SCALE_REPLY: u16 = 3;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;
const SCTP_STATE: u16 = 1;
const SCTP_TAG_ORIGINAL: u16 = 2;
const SCTP_TAG_REPLY: u16 = 3;

const NAT_IP4_LOWEST: u16 = 1;
const NAT_PROTOCOL: u16 = 3;
const NAT_IP6_LOWEST: u16 = 4;
const NAT_PORT_LOWEST: u16 = 1;
const NAT_PORT_HIGHEST: u16 = 2;

/// Appends a message; `build` its attributes.
fn message(
    out: &mut Vec<u8>,
    kind: u8,
    flags: u16,
    family: u8,
    sequence: u32,
    build: impl FnOnce(&mut Attributes<'_>),
) {
    let at = out.len();
    out.extend([0; 4]);
    out.extend((u16::from(SUBSYSTEM) << 8 | u16::from(kind)).to_ne_bytes());
    out.extend((flags | REQUEST).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([family, 0, 0, 0]);
    build(&mut Attributes(out));
    let length = u32::try_from(out.len() - at).expect("a message of ours is short");
    out[at..at + 4].copy_from_slice(&length.to_ne_bytes());
}

fn family(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// Asks for every entry whose both sides have spoken (older kernels tell of all).
pub(super) fn ask_for_all(out: &mut Vec<u8>, sequence: u32) {
    message(out, GET, DUMP, libc::AF_UNSPEC as u8, sequence, |a| {
        a.number(STATUS, SEEN_REPLY);
        a.number(STATUS_MASK, SEEN_REPLY);
    });
}

/// Puts in an entry that is not there yet.
pub(super) fn create(out: &mut Vec<u8>, flow: &Flow, sequence: u32) {
    message(out, NEW, CREATE | EXCLUSIVE, family(&flow.key.original.source), sequence, |a| {
        tuple(a, TUPLE_ORIGINAL, &flow.key.original, flow.key.protocol);
        // The kernel itself makes the translated tuple, and all that belongs to it, from the plain one.
        tuple(a, TUPLE_REPLY, &flow.untranslated_reply(), flow.key.protocol);
        zone(a, &flow.key);
        translation(a, NAT_DESTINATION, flow.destination_translation());
        translation(a, NAT_SOURCE, flow.source_translation());
        contents(a, flow);
    });
}

/// Changes an entry that is there. Its address translation cannot be changed.
pub(super) fn change(out: &mut Vec<u8>, flow: &Flow, sequence: u32) {
    message(out, NEW, 0, family(&flow.key.original.source), sequence, |a| {
        tuple(a, TUPLE_ORIGINAL, &flow.key.original, flow.key.protocol);
        zone(a, &flow.key);
        contents(a, flow);
    });
}

/// Deletes the entry whose first packet is that of `key`.
pub(super) fn delete(out: &mut Vec<u8>, key: &Key, sequence: u32) {
    message(out, DELETE, 0, family(&key.original.source), sequence, |a| {
        tuple(a, TUPLE_ORIGINAL, &key.original, key.protocol);
        zone(a, key);
    });
}

/// Deletes the entry whose answers are those of `flow`.
pub(super) fn delete_by_reply(out: &mut Vec<u8>, flow: &Flow, sequence: u32) {
    message(out, DELETE, 0, family(&flow.reply.source), sequence, |a| {
        tuple(a, TUPLE_REPLY, &flow.reply, flow.key.protocol);
        zone(a, &flow.key);
    });
}

fn zone(a: &mut Attributes<'_>, key: &Key) {
    if key.zone != 0 {
        a.bytes(ZONE, &key.zone.to_be_bytes());
    }
}

fn contents(a: &mut Attributes<'_>, flow: &Flow) {
    a.number(STATUS, flow.status & (SEEN_REPLY | ASSURED) | CONFIRMED);
    a.number(TIMEOUT, flow.timeout_seconds.unwrap_or_default().min(LONGEST_TIMEOUT_SECONDS));
    a.number(MARK, flow.mark);
    match flow.state {
        Some(State::Tcp(tcp)) => a.nest(PROTOCOL_INFO, |a| {
            a.nest(INFO_TCP, |a| {
                a.bytes(TCP_STATE, &[tcp.state]);
                a.bytes(TCP_SCALE_ORIGINAL, &[tcp.scales[0]]);
                a.bytes(TCP_SCALE_REPLY, &[tcp.scales[1]]);
                for (kind, flags) in [TCP_FLAGS_ORIGINAL, TCP_FLAGS_REPLY].into_iter().zip(tcp.flags) {
                    // Flags, and which of them are meant.
                    let flags = flags | TCP_BE_LIBERAL;
                    a.bytes(kind, &[flags, flags]);
                }
            });
        }),
        Some(State::Sctp(sctp)) => a.nest(PROTOCOL_INFO, |a| {
            a.nest(INFO_SCTP, |a| {
                a.bytes(SCTP_STATE, &[sctp.state]);
                a.number(SCTP_TAG_ORIGINAL, sctp.tags[0]);
                a.number(SCTP_TAG_REPLY, sctp.tags[1]);
            });
        }),
        Some(State::None) | None => {}
    }
}

fn tuple(a: &mut Attributes<'_>, kind: u16, tuple: &Tuple, protocol: u8) {
    a.nest(kind, |a| {
        a.nest(TUPLE_IP, |a| {
            let mut address = |v4, v6, address: &IpAddr| match address {
                IpAddr::V4(address) => a.bytes(v4, &address.octets()),
                IpAddr::V6(address) => a.bytes(v6, &address.octets()),
            };
            address(IP4_SOURCE, IP6_SOURCE, &tuple.source);
            address(IP4_DESTINATION, IP6_DESTINATION, &tuple.destination);
        });
        a.nest(TUPLE_PROTOCOL, |a| {
            a.bytes(PROTOCOL_NUMBER, &[protocol]);
            match tuple.detail {
                Detail::None => {}
                Detail::Ports { source, destination } => {
                    a.bytes(SOURCE_PORT, &source.to_be_bytes());
                    a.bytes(DESTINATION_PORT, &destination.to_be_bytes());
                }
                Detail::Icmp { id, kind, code } => {
                    let (ids, kinds, codes) = if protocol == ICMPV6 {
                        (ICMPV6_ID, ICMPV6_TYPE, ICMPV6_CODE)
                    } else {
                        (ICMP_ID, ICMP_TYPE, ICMP_CODE)
                    };
                    a.bytes(ids, &id.to_be_bytes());
                    a.bytes(kinds, &[kind]);
                    a.bytes(codes, &[code]);
                }
            }
        });
        if let Some(zone) = tuple.zone {
            a.bytes(TUPLE_ZONE, &zone.to_be_bytes());
        }
    });
}

fn translation(a: &mut Attributes<'_>, kind: u16, to: Option<(IpAddr, Option<u16>)>) {
    let Some((address, number)) = to else { return };
    a.nest(kind, |a| {
        match address {
            IpAddr::V4(address) => a.bytes(NAT_IP4_LOWEST, &address.octets()),
            IpAddr::V6(address) => a.bytes(NAT_IP6_LOWEST, &address.octets()),
        }
        if let Some(number) = number {
            a.nest(NAT_PROTOCOL, |a| {
                a.bytes(NAT_PORT_LOWEST, &number.to_be_bytes());
                a.bytes(NAT_PORT_HIGHEST, &number.to_be_bytes());
            });
        }
    });
}

/// Whether this is a message of the table, and of which kind.
pub(super) fn kind(answer: &Answer<'_>) -> Option<u8> {
    let [subsystem, kind] = answer.kind.to_be_bytes();
    (subsystem == SUBSYSTEM).then_some(kind)
}

/// The entry that a message tells of; `None` where it makes no sense to us.
pub(super) fn flow(answer: &Answer<'_>) -> Option<Flow> {
    let (mut original, mut reply) = (None, None);
    let (mut status, mut mark, mut zone) = (0, 0, 0);
    let (mut timeout_seconds, mut state) = (None, None);
    for (kind, value) in answer.attributes() {
        match kind {
            TUPLE_ORIGINAL => original = Some(parse_tuple(value)?),
            TUPLE_REPLY => reply = Some(parse_tuple(value)?),
            STATUS => status = word(value)?,
            MARK => mark = word(value)?,
            ZONE => zone = half(value)?,
            TIMEOUT => timeout_seconds = Some(word(value)?),
            PROTOCOL_INFO => state = parse_state(value),
            _ => {}
        }
    }
    let (protocol, original) = original?;
    let (_, reply) = reply?;
    let key = Key { protocol, zone, original };
    Some(Flow { key, reply, status, mark, timeout_seconds, state })
}

fn parse_tuple(value: &[u8]) -> Option<(u8, Tuple)> {
    let (mut source, mut destination, mut protocol, mut zone) = (None, None, None, None);
    let (mut from, mut to, mut id, mut icmp_kind, mut code) = (None, None, None, None, None);
    for (kind, value) in attributes(value) {
        match kind {
            TUPLE_IP => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IP4_SOURCE | IP6_SOURCE => source = Some(parse_address(value)?),
                        IP4_DESTINATION | IP6_DESTINATION => destination = Some(parse_address(value)?),
                        _ => {}
                    }
                }
            }
            TUPLE_PROTOCOL => {
                for (kind, value) in attributes(value) {
                    match kind {
                        PROTOCOL_NUMBER => protocol = Some(*value.first()?),
                        SOURCE_PORT => from = Some(half(value)?),
                        DESTINATION_PORT => to = Some(half(value)?),
                        ICMP_ID | ICMPV6_ID => id = Some(half(value)?),
                        ICMP_TYPE | ICMPV6_TYPE => icmp_kind = Some(*value.first()?),
                        ICMP_CODE | ICMPV6_CODE => code = Some(*value.first()?),
                        _ => {}
                    }
                }
            }
            TUPLE_ZONE => zone = Some(half(value)?),
            _ => {}
        }
    }
    let detail = match (from, to, id, icmp_kind, code) {
        (Some(source), Some(destination), ..) => Detail::Ports { source, destination },
        (_, _, Some(id), Some(kind), Some(code)) => Detail::Icmp { id, kind, code },
        _ => Detail::None,
    };
    Some((protocol?, Tuple { source: source?, destination: destination?, detail, zone }))
}

fn parse_state(value: &[u8]) -> Option<State> {
    let (kind, inner) = attributes(value).next()?;
    let find = |wanted| attributes(inner).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let byte = |wanted| find(wanted).and_then(|value| value.first().copied());
    match kind {
        INFO_TCP => Some(State::Tcp(Tcp {
            state: byte(TCP_STATE)?,
            scales: [byte(TCP_SCALE_ORIGINAL)?, byte(TCP_SCALE_REPLY)?],
            flags: [byte(TCP_FLAGS_ORIGINAL)?, byte(TCP_FLAGS_REPLY)?],
        })),
        INFO_SCTP => Some(State::Sctp(Sctp {
            state: byte(SCTP_STATE)?,
            tags: [word(find(SCTP_TAG_ORIGINAL)?)?, word(find(SCTP_TAG_REPLY)?)?],
        })),
        _ => None,
    }
}

fn parse_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into())
}

fn word(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn half(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conntrack::flow::{ICMP, TCP};
    use crate::gate::wire::answers;

    fn tcp() -> Flow {
        let ports = |source, destination| Detail::Ports { source, destination };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        Flow {
            key: Key {
                protocol: TCP,
                zone: 7,
                original: Tuple {
                    source: address("10.1.0.9"),
                    destination: address("10.2.0.7"),
                    detail: ports(4000, 80),
                    zone: None,
                },
            },
            reply: Tuple {
                source: address("10.2.0.7"),
                destination: address("10.2.0.100"),
                detail: ports(80, 61000),
                zone: None,
            },
            status: SEEN_REPLY | ASSURED | CONFIRMED | 0x190,
            mark: 0x42,
            timeout_seconds: Some(431_999),
            state: Some(State::Tcp(Tcp { state: 3, scales: [7, 8], flags: [0x23, 0x21] })),
        }
    }

    #[test]
    fn what_is_encoded_is_read_again() {
        let flow = tcp();
        let mut bytes = Vec::new();
        create(&mut bytes, &flow, 5);
        change(&mut bytes, &flow, 6);
        delete(&mut bytes, &flow.key, 7);
        let all: Vec<_> = answers(&bytes).collect();
        assert_eq!(all.iter().map(kind).collect::<Vec<_>>(), [Some(NEW), Some(NEW), Some(DELETE)]);
        assert_eq!(all.iter().map(|answer| answer.sequence).collect::<Vec<_>>(), [5, 6, 7]);
        let read = self::flow(&all[0]).unwrap();
        assert_eq!(read.key, flow.key);
        assert_eq!((read.mark, read.timeout_seconds), (flow.mark, flow.timeout_seconds));
        assert_eq!(read.reply, flow.untranslated_reply());
        let Some(State::Tcp(state)) = read.state else { panic!("{read:?}") };
        assert_eq!((state.state, state.scales), (3, [7, 8]));
        assert!(state.flags.iter().all(|flags| flags & TCP_BE_LIBERAL != 0));
        assert_eq!(read.status, SEEN_REPLY | ASSURED | CONFIRMED);
    }

    #[test]
    fn the_difference_of_the_tuples_is_the_translation() {
        let flow = tcp();
        assert_eq!(flow.source_translation(), Some(("10.2.0.100".parse().unwrap(), Some(61000))));
        assert_eq!(flow.destination_translation(), None);
        let plain = Flow { reply: flow.untranslated_reply(), ..flow };
        assert_eq!((plain.source_translation(), plain.destination_translation()), (None, None));
        let icmp = |id, kind| Detail::Icmp { id, kind, code: 0 };
        let key =
            Key { protocol: ICMP, original: Tuple { detail: icmp(5, 8), ..flow.key.original }, zone: 0 };
        let ping = Flow { key, reply: Tuple { detail: icmp(9, 0), ..flow.reply }, ..flow };
        assert_eq!(ping.source_translation().unwrap().1, Some(9));
        assert_eq!(ping.untranslated_reply().detail, icmp(5, 0));
    }

    proptest! {
        #[test]
        fn no_message_can_panic_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..256), cut in 0usize..400) {
            let mut whole = Vec::new();
            create(&mut whole, &tcp(), 1);
            let at = cut.min(whole.len());
            whole.splice(at.., bytes.iter().copied());
            let length = u32::try_from(whole.len()).unwrap();
            if whole.len() >= 4 {
                whole[..4].copy_from_slice(&length.to_ne_bytes());
            }
            for datagram in [&whole, &bytes] {
                for answer in answers(datagram) {
                    let _ = (kind(&answer), self::flow(&answer));
                }
            }
        }
    }
}
