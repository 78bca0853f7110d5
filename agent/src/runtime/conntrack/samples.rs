//! Connections for the tests here.

use std::net::IpAddr;

use holdfast_vip::conntrack::flow::{ASSURED, CONFIRMED, SEEN_REPLY, TCP};
use holdfast_vip::conntrack::{Detail, Flow, Key, State, Tcp, Tuple};

pub(super) const CLIENT: &str = "10.1.0.9";
pub(super) const SERVER: &str = "10.2.0.7";
pub(super) const VIP: &str = "10.1.0.100";

/// An established TCP connection with these addresses: who asks whom, and who answers whom.
pub(super) fn between(from: &str, to: &str, answered_by: &str, answered_to: &str) -> Flow {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let tuple = |from: &str, to: &str, ports: (u16, u16)| Tuple {
        source: address(from),
        destination: address(to),
        detail: Detail::Ports { source: ports.0, destination: ports.1 },
        zone: None,
    };
    Flow {
        key: Key { protocol: TCP, zone: 0, original: tuple(from, to, (40_000, 80)) },
        reply: tuple(answered_by, answered_to, (80, 40_000)),
        status: SEEN_REPLY | ASSURED | CONFIRMED,
        mark: 0,
        timeout_seconds: Some(300),
        state: Some(State::Tcp(Tcp { state: 3, scales: [7, 7], flags: [0x23, 0x23] })),
    }
}

/// The connection of the client's port `port`.
pub(super) fn tcp(port: u16) -> Flow {
    let mut flow = between(CLIENT, SERVER, SERVER, CLIENT);
    flow.key.original.detail = Detail::Ports { source: port, destination: 80 };
    flow.reply.detail = Detail::Ports { source: 80, destination: port };
    flow
}
