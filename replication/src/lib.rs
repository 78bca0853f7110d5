//! The replicated log of Holdfast.
//!
//! This crate knows how records become bytes, files and frames; what is durable, committed and
//! divergent; and how a primary and its standbys keep their logs identical. It has no sockets, no
//! clock and no runtime: [`replica::Replica`] is one synchronous object that is handed what happened
//! and answers with data. The only thing it waits for is its own [`disk::Disk`].
//!
//! It never elects anybody, never decides who is in sync (it applies the rules in [`in_sync`] when
//! asked), and never looks into an object or an operation.

pub mod disk;
pub mod history;
pub mod log;
pub mod moves;
pub mod progress;
pub mod record;
pub mod replica;
pub mod segment;
pub mod set_aside;
pub mod space;
pub mod stream;
pub mod testing;

pub use history::EpochHistory;
pub use holdfast_heartbeat::{Epoch, InSyncRecord, Incarnation, Lsn, Member, NodeId};
pub use log::{Log, LogError, LogReader, Record};
pub use record::{MAX_PAYLOAD, MAX_RECORD, RecordKind};
