//! The S3 object store over the replicated log.
//!
//! The log is the store: object bytes are records in it, and an operation record names the extents
//! that make an object. What is garbage in it by and by is given up ([`space`]). This crate defines the operations ([`op`]), what each one does to the index
//! ([`apply`], deterministic), the index itself ([`index`], derived and rebuildable), and the S3
//! endpoint ([`s3`]) that turns requests into operations and reads extents back.
//!
//! It never decides who is primary, never waits for a disk on its own account and never talks to a
//! peer: all of that lies behind [`backend::Backend`], which the agent implements.
//!
//! Invariant: two members that applied the same log up to the same LSN have the same index, byte for
//! byte, whatever their clocks, configurations and restarts were.

pub mod access;
pub mod admin;
pub mod apply;
pub mod archive;
pub mod backend;
pub mod bucket;
pub mod checkpoint;
pub mod checksum;
pub mod files;
pub mod index;
pub mod keys;
pub mod listing;
pub mod machine;
pub mod object;
pub mod op;
pub mod replicated;
pub mod s3;
pub mod seal;
pub mod space;
pub mod state;
