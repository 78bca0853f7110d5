//! The shared vocabulary of Holdfast, and its heartbeat: packet, authentication, replay window,
//! per-path health and failure detector.
//!
//! This crate has no sockets, no clock and no runtime: every function takes the moment as a
//! parameter and answers with data.

pub mod types;

pub use types::{BadNodeId, Epoch, InSyncRecord, Incarnation, Lsn, Member, MemberKind, NodeId, Time};
