//! The arguments of `holdfast lab`.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::cluster::Fault;

/// Try everything on this machine: a pair, a witness and a client in network namespaces.
#[derive(Args, Debug)]
pub struct LabArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LabCommand,
}

/// What the lab can do.
#[derive(Subcommand, Debug)]
pub enum LabCommand {
    /// Tell the whole story in under a minute: write, cut the primary's power, read everything back, rejoin,
    /// switch over. Ends with status 0 only if nothing that was acknowledged is missing.
    Demo(DemoArgs),
    /// Keep a cluster running until Ctrl-C, to try things by hand.
    Up(UpArgs),
    /// Run a command on a host of the running lab: a and b are the pair, w the witness, c the client.
    Exec {
        /// The host.
        host: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        argv: Vec<OsString>,
    },
    /// Break a host of the running lab, or mend it.
    Fault {
        /// The host.
        host: String,
        /// power-off, cut, deaf, freeze, freeze-agent, kill, kill-all, heal
        fault: Fault,
    },
}

/// How the cluster is built.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Leave the witness out (two members cannot have a majority after a loss).
    #[arg(long)]
    pub no_witness: bool,
    /// The heartbeat interval in milliseconds [default: the agent's own]
    #[arg(long, value_name = "MS")]
    pub interval_ms: Option<u64>,
    /// Missed heartbeats until a member counts as silent [default: the agent's own]
    #[arg(long, value_name = "N")]
    pub threshold: Option<u32>,
    /// Lay a second cable between the members, for a second heartbeat path.
    #[arg(long)]
    pub cable: bool,
}

/// Arguments of `lab demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How the cluster is built.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How many objects must be acknowledged before the power is cut.
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub objects: usize,
    /// Concurrent writers.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub writers: usize,
    /// Keep the hosts' disks and logs.
    #[arg(long)]
    pub keep: bool,
}

/// Arguments of `lab up`.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// How the cluster is built.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The number of data members.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub data_members: u8,
    /// Add an IPv6 virtual address.
    #[arg(long)]
    pub ipv6: bool,
}
