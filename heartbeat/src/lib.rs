//! The shared vocabulary of Holdfast, and its heartbeat: packet, authentication, replay guard,
//! per-path health and failure detector.
//!
//! This crate has no sockets, no clock and no runtime: every function takes the moment as a
//! parameter and answers with data. A packet's way through it: [`packet::Keyring::open`] (bounds,
//! version, HMAC, and only then the parser), [`replay::ReplayGuard::check`] (is it fresh?), and
//! [`detector::Detector::heard`] (the peer lives, by this path).

pub mod detector;
pub mod inquiry;
pub mod losses;
pub mod message;
pub mod packet;
pub mod planted;
pub mod replay;
pub mod types;
mod version1;

pub use detector::{Detector, PathHealth};
pub use inquiry::{AddressTestimony, Claim, Facts, Inquiry, Testimony};
pub use losses::Loss;
pub use message::{
    Ballot, BootNonce, Echo, Heartbeat, MAX_EPOCH, MAX_PATHS, MAX_PENALTY, MAX_RECORD_BYTES, MAX_SIGHTS,
    MAX_SUSPENSION, MemberState, Message, Notice, PathReport, Refusal, Resignation, Role, Sight, Suspension,
    Vote, Wish,
};
pub use packet::{Dropped, Keyring, MAX_PACKET};
pub use replay::ReplayGuard;
pub use types::{BadNodeId, Epoch, InSyncRecord, Incarnation, Lsn, Member, MemberKind, NodeId, Time};
