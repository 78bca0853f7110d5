//! From what was seen to findings in words: pure.
//!
//! | file | judges |
//! |---|---|
//! | `host.rs` | this host: gate, scheduling, clock, disk, programs, supervisor |
//! | `cluster.rs` | the members: paths, quorum, who would take over, agreement |
//! | `network.rs` | the virtual addresses: who has them, who learned of them, whether the service answers there |
//!
//! A finding fails where something that is relied upon does not work; it warns where the set-up protects less
//! than it could, which an operator may have chosen.

mod cluster;
mod host;
mod network;
#[cfg(test)]
mod tests;

use holdfast_config::Config;
use holdfast_config::timers::Derived;
use holdfast_heartbeat::{Facts, Testimony, Time};
use holdfast_replication::replica::ReplicaStatus;

use super::Finding;
use super::observe::{Seen, SeenHost};
use crate::runtime::status::Status;

/// A peer's testimony.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub testimony: Testimony,
    /// When it came.
    pub at: Time,
}

/// Everything that was seen.
pub(super) struct Evidence<'e> {
    pub config: &'e Config,
    pub derived: &'e Derived,
    pub facts: Facts,
    pub status: &'e Status,
    /// None on a witness.
    pub log: Option<&'e ReplicaStatus>,
    /// None where the host's disks did not answer.
    pub host: Option<SeenHost>,
    /// The own virtual addresses.
    pub own: Vec<Seen>,
    /// When this member announced them for this check; none if it does not have them.
    pub announced: Option<Time>,
    /// By peer, in the order of the configuration.
    pub told: Vec<Option<Told>>,
}

impl Evidence<'_> {
    /// The peers that testified, with their names.
    fn testimonies(&self) -> impl Iterator<Item = (&str, &Told)> {
        let named = self.status.peers.iter().zip(&self.told);
        named.filter_map(|(peer, told)| Some((peer.id.as_str(), told.as_ref()?)))
    }

    fn is_data(&self) -> bool {
        self.status.kind == "data"
    }
}

/// All findings, the host's own first.
pub(super) fn findings(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut out = Vec::new();
    host::judge(evidence, &mut out);
    cluster::judge(evidence, &mut out);
    network::judge(evidence, &mut out);
    out
}
