//! Makes a host a router: it forwards, translates addresses both ways, and drops what belongs to no connection
//! that it knows.
//!
//! The rules go to the kernel as netlink messages, so that no program for firewalls is needed. In words:
//!
//! ```text
//! table ip router {
//!   chain before  { type nat hook prerouting priority -100; iifname eth0 tcp dport PORT dnat to SERVER:PORT }
//!   chain after   { type nat hook postrouting priority 100; oifname eth1 snat to OUTSIDE }
//!   chain forward { type filter hook forward priority 0; ct state invalid drop }
//! }
//! ```
//!
//! With `nf_conntrack_tcp_loose` off, a TCP packet that neither begins a connection nor belongs to one is invalid.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::world::NetNs;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// What to translate.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// TCP to this port that comes in by `eth0` goes to the same port of [`server`](Self::server).
    pub port: u16,
    /// Where it goes.
    pub server: Ipv4Addr,
    /// What leaves by `eth1` leaves from here.
    pub outside: Ipv4Addr,
}

/// Makes the host with this namespace a router.
pub fn make_router(host: &NetNs, translation: Translation) -> Result<()> {
    host.run(move || {
        for (setting, value) in [("ipv4/ip_forward", "1"), ("netfilter/nf_conntrack_tcp_loose", "0")] {
            let path = format!("/proc/sys/net/{setting}");
            fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
        }
        send(&rules(translation))
    })?
}

const NEW_TABLE: u16 = 0x0a00;
const NEW_CHAIN: u16 = 0x0a03;
const NEW_RULE: u16 = 0x0a06;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = 2;
/// REQUEST, CREATE and APPEND.
const FLAGS: u16 = 0x001 | 0x400 | 0x800;
const ACK: u16 = 0x004;
const FAMILY_IPV4: u8 = 2;
const NESTED: u16 = 1 << 15;

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;
/// Registers of 16 bytes.
const VERDICT: u32 = 0;
const FIRST: u32 = 1;
const SECOND: u32 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const CT_STATE: u32 = 0;
/// As the register has it.
const CT_INVALID: [u8; 4] = 1u32.to_ne_bytes();
const TO_SOURCE: u32 = 0;
const TO_DESTINATION: u32 = 1;

type Attributes = Vec<u8>;

fn attribute(kind: u16, value: &[u8]) -> Attributes {
    let mut out = Vec::new();
    out.extend(u16::try_from(4 + value.len()).expect("rules are short").to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn number(kind: u16, value: u32) -> Attributes {
    attribute(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Attributes {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn nest(kind: u16, inner: &[Attributes]) -> Attributes {
    attribute(kind | NESTED, &inner.concat())
}

fn value(kind: u16, bytes: &[u8]) -> Attributes {
    nest(kind, &[attribute(1, bytes)])
}

fn expression(name: &str, inner: &[Attributes]) -> Attributes {
    nest(1, &[text(1, name), nest(2, inner)])
}

fn load_meta(key: u32) -> Attributes {
    expression("meta", &[number(1, FIRST), number(2, key)])
}

fn compare(how: u32, bytes: &[u8]) -> Attributes {
    expression("cmp", &[number(1, FIRST), number(2, how), value(3, bytes)])
}

fn immediate(register: u32, bytes: &[u8]) -> Attributes {
    expression("immediate", &[number(1, register), value(2, bytes)])
}

fn interface(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

fn message(kind: u16, flags: u16, family: u8, resource: u16, body: &[Attributes]) -> Vec<u8> {
    let body = body.concat();
    let mut out = Vec::new();
    out.extend(u32::try_from(20 + body.len()).expect("rules are short").to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(body);
    out
}

fn chain(name: &str, kind: &str, hook: u32, priority: i32) -> Vec<u8> {
    let hook = nest(4, &[number(1, hook), number(2, priority.cast_unsigned())]);
    message(NEW_CHAIN, FLAGS, FAMILY_IPV4, 0, &[text(1, "router"), text(3, name), hook, text(7, kind)])
}

fn rule(chain: &str, expressions: &[Attributes]) -> Vec<u8> {
    let body = [text(1, "router"), text(2, chain), nest(4, expressions)];
    message(NEW_RULE, FLAGS, FAMILY_IPV4, 0, &body)
}

fn rules(translation: Translation) -> Vec<u8> {
    let Translation { port, server, outside } = translation;
    let family = || number(2, FAMILY_IPV4.into());
    let port = port.to_be_bytes();
    let into = [
        load_meta(META_IIFNAME),
        compare(EQUAL, &interface("eth0")),
        load_meta(META_L4PROTO),
        compare(EQUAL, &[6]),
        expression("payload", &[number(1, FIRST), number(2, TRANSPORT_HEADER), number(3, 2), number(4, 2)]),
        compare(EQUAL, &port),
        immediate(FIRST, &server.octets()),
        immediate(SECOND, &port),
        expression("nat", &[number(1, TO_DESTINATION), family(), number(3, FIRST), number(5, SECOND)]),
    ];
    let out = [
        load_meta(META_OIFNAME),
        compare(EQUAL, &interface("eth1")),
        immediate(FIRST, &outside.octets()),
        expression("nat", &[number(1, TO_SOURCE), family(), number(3, FIRST)]),
    ];
    let mask = [number(1, FIRST), number(2, FIRST), number(3, 4), value(4, &CT_INVALID), value(5, &[0; 4])];
    // A verdict is data of the second kind; dropping is zero.
    let drop = nest(2, &[nest(2, &[number(1, 0)])]);
    let invalid = [
        expression("ct", &[number(1, FIRST), number(2, CT_STATE)]),
        expression("bitwise", &mask),
        compare(NOT_EQUAL, &[0; 4]),
        expression("immediate", &[number(1, VERDICT), drop]),
    ];
    [
        message(BATCH_BEGIN, 1, 0, 10, &[]),
        message(NEW_TABLE, FLAGS, FAMILY_IPV4, 0, &[text(1, "router")]),
        chain("before", "nat", PREROUTING, -100),
        chain("after", "nat", POSTROUTING, 100),
        chain("forward", "filter", FORWARD, 0),
        rule("before", &into),
        rule("after", &out),
        message_with_ack(rule("forward", &invalid)),
        message(BATCH_END, 1, 0, 10, &[]),
    ]
    .concat()
}

fn message_with_ack(mut message: Vec<u8>) -> Vec<u8> {
    message[6..8].copy_from_slice(&(FLAGS | ACK).to_ne_bytes());
    message
}

fn send(batch: &[u8]) -> Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.send_to(batch, &SocketAddr::new(0, 0), 0)?;
    // The kernel answers before the send returns: with refusals, or with one confirmation.
    let (answer, _) = socket.recv_from_full()?;
    let word = |at: usize| answer.get(at..at + 4).map(|b| i32::from_ne_bytes(b.try_into().expect("four")));
    let kind = answer.get(4..6).map(|b| u16::from_ne_bytes(b.try_into().expect("two")));
    match (kind, word(16)) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => {
            Err(std::io::Error::from_raw_os_error(-code)).context("the kernel refused the router's rules")
        }
        other => bail!("the kernel answered {other:?} to the router's rules"),
    }
}
