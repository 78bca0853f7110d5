//! A cluster in network namespaces on this machine.
pub mod host;
pub mod privilege;
mod wire;
pub mod world;
pub use wire::Output;
