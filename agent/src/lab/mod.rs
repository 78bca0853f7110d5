//! A cluster in network namespaces on this machine, for trying everything in a minute.
//!
//! A pair, a witness and a client are real agents with real kernels' networking between them; they differ
//! from a real set-up in nothing but that one machine plays all hosts. Nothing has to be set up and no other
//! program is needed: namespaces, bridges and cables are made by netlink, and all of it ends with the lab.
//!
//! Layers, each of which knows only those before it: `world` (hosts, networks, faults of both), `cluster`
//! (agents in a world), `ledger`, `prober` and `twins` (what clients and bystanders see), and the stories:
//! `demo` and `up`. The namespace tests and the benches are written against the same layers.

pub mod agent_api;
pub mod args;
pub mod cluster;
mod demo;
pub mod host;
pub mod ledger;
mod narrator;
pub mod privilege;
pub mod prober;
mod run_dir;
pub mod settings;
mod spoken;
pub mod twins;
mod up;
mod wire;
pub mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

pub use args::LabArgs;
pub use wire::Output;

use args::{ClusterArgs, LabCommand};
use narrator::Narrator;
use privilege::Standing;
use settings::ClusterSpec;

/// Runs `holdfast lab`. Must be called before the program has started threads or a runtime.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    match args.command {
        LabCommand::Exec { host, argv } => return up::exec(&host, &argv),
        LabCommand::Fault { host, fault } => return up::fault(&host, fault),
        LabCommand::Demo(_) | LabCommand::Up(_) => {}
    }
    if privilege::standing() == Standing::Unprivileged {
        return Err(privilege::restart_as_root());
    }
    match args.command {
        LabCommand::Demo(args) => demo::run(&args),
        LabCommand::Up(args) => up::run(&args),
        LabCommand::Exec { .. } | LabCommand::Fault { .. } => unreachable!("answered above"),
    }
}

/// The program itself: every host runs the very file that runs the lab, even if it was replaced meanwhile.
fn binary() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

fn cluster_spec(args: &ClusterArgs) -> ClusterSpec {
    ClusterSpec {
        witness: !args.no_witness,
        cable: args.cable,
        interval: args.interval_ms.map(Duration::from_millis),
        threshold: args.threshold,
        ..ClusterSpec::default()
    }
}

/// Says what is different here from a run as root.
fn ready_to_build(tell: &Narrator) {
    if privilege::standing() == Standing::UserNamespace {
        tell.say(
            "Not root: the lab runs in a user namespace. There the kernel does not allow the eBPF gate, and\n\
             nftables is taken instead: failover takes one lease longer. For the full picture:\n\
             `sudo holdfast lab demo`.\n",
        );
    }
}
