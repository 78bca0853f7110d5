//! The kernel's table of connections (`nf_conntrack`): what stands in it, what changes, and putting into it what
//! another host's table had, so that connections *through* this host go on when it takes over from that one.
//!
//! | module | decides |
//! |---|---|
//! | [`flow`] | what of an entry is carried, and what makes an entry put in go on like the original |
//! | `wire` | encoding |
//! | [`table`] | nothing: dumps, puts and deletes |
//! | [`events`] | nothing: tells what changed, and when it missed something |
//!
//! Written by hand, and not with netlink-packet-netfilter: that (0.4) knows neither address translation nor ICMP,
//! both of which a router needs, and builds a tree of allocations for each of a hundred thousand entries.
//!
//! Invariants: no message of the kernel, however cut or long, can panic the parser; and no request to delete ever
//! leaves without naming one connection, since the kernel takes such a one for an order to delete all of them.

pub mod events;
pub mod flow;
pub mod table;
mod wire;

pub use events::{Events, Listener, Notice};
pub use flow::{Detail, Flow, Key, Sctp, State, Tcp, Tuple};
pub use table::{Order, Outcome, Table, entries, events_enabled, most_entries};

/// The table's subsystem, in the upper byte of a message's type.
const SUBSYSTEM: u8 = 1;
/// `NETLINK_NETFILTER`.
const PROTOCOL: isize = netlink_sys::protocols::NETLINK_NETFILTER;
/// Room for one message: the kernel makes dumps of pages of up to 32 KiB.
const ROOM_BYTES: usize = 64 * 1024;
