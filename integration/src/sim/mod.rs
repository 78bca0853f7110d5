//! The simulator: the production core, codecs, log and store in a world that one seed decides.
//!
//! ```text
//!   plan      what a seed draws: the cluster, the clients, the kinds of faults
//!   run       one run: calm, trouble, everything lifted, judgement
//!   world/    time, hosts, networks, clocks, disks, kernels
//!   faults    what goes wrong, and when it ends
//!   ailments  checks that fail and disks that are judged, from dice of their own
//!   s3/       clients of the shape of S3 and the host's side of their requests
//!   checkers/ what must never happen, one file per invariant
//!   scenario/ texts with the outcome that is expected of them
//!   sweep     many runs
//!   story     what happened, for people and as a digest
//! ```

pub mod ailments;
pub mod bugs;
pub mod chance;
pub mod checkers;
pub mod faults;
pub mod plan;
pub mod run;
pub mod s3;
pub mod scenario;
pub mod story;
pub mod sweep;
pub mod world;
