//! The promises of this crate against a real kernel: two hosts, which are two network namespaces of
//! this test alone, joined by a cable, which is a veth pair.
//!
//! They need root, or a kernel that lets ordinary users make user namespaces (and `unshare` of util-linux);
//! else each prints `skipped: needs root`. eBPF needs real root.

mod addresses;
mod announce;
mod conflict;
mod conntrack;
mod gate;
mod learned;
mod many;
mod operator;
mod others;
mod parents;
mod probe;
mod routes;
mod two_hosts;
mod watch;
