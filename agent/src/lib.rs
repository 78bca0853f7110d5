//! The Holdfast agent: `node` decides, `runtime` executes, `api` and `cli` show and ask, `lab` tries it all out,
//! `setup` makes new clusters, `flight` tells the core again what it was told.

mod anew;
pub mod api;
pub mod cli;
pub mod flight;
pub mod lab;
pub mod node;
mod plain_http;
pub mod runtime;
pub mod setup;
