//! The Holdfast agent: `node` decides, `runtime` executes, `api` and `cli` show and ask, `lab` tries it all out.

pub mod api;
pub mod cli;
pub mod lab;
pub mod node;
pub mod runtime;
