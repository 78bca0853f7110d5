//! Clients that speak something of the shape of S3, and the host's side of their requests.
//!
//! [`call`] has the requests and answers, [`blob`] the bytes that they carry, [`session`] what a host does
//! for one request with the production log, index and `apply`; [`workload`] and [`client`] decide what is
//! asked for and when, and [`history`] remembers all of it for the checkers. Nothing here knows of hosts,
//! networks, leases or faults.

pub mod blob;
pub mod call;
pub mod client;
pub mod history;
pub mod session;
pub mod workload;
