//! Four ways to prove the promises of Holdfast.
//!
//! [`sim`] runs the production core, codecs, log and store in a simulated world, from one seed: every order
//! of events that anybody can imagine, and thousands of hours of them.
//!
//! [`model`] looks at every order of events of the protocol's rules, for clusters small enough.
//!
//! [`fuzz`] feeds everything that parses bytes from outside with bytes that nobody would send.
//!
//! The rest is the harness of the namespace tests and benches: real agents, real kernel, real addresses. A test names its promise, describes a cluster and gets it running. One test runs at a time on a machine,
//! whatever binary it is in: the promises are about milliseconds, and two clusters on a few cores would only
//! test the scheduler. When a promise is broken, the report ends with the logs of every host.

pub mod fuzz;
pub mod hosts;
pub mod measure;
pub mod metronome;
pub mod model;
pub mod packets;
pub mod pressure;
pub mod router;
pub mod seed;
pub mod sim;
pub mod stage;

pub use stage::promise;
