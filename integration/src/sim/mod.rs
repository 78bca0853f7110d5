//! The simulator: the production core, codecs, log and store in a world that one seed decides.

pub mod chance;
pub mod checkers;
pub mod s3;
pub mod story;
pub mod world;
