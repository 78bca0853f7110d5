//! What a simulated cluster looks like, and the configuration file of each of its hosts: the production
//! parser reads it, and the production rules derive the timers from it.

use std::fmt::Write;

use holdfast_config::Config;
use holdfast_config::timers::{Derived, GateInUse};
use holdfast_heartbeat::MemberKind;

use super::kernel::GateKind;

/// Most members of a simulated cluster, the witness included.
pub const MOST_HOSTS: usize = 6;

/// The members and their settings.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Data members: a, b, c, ...
    pub data: usize,
    /// Whether there is a witness, w.
    pub witness: bool,
    /// Heartbeat paths: one, or two.
    pub paths: usize,
    /// `heartbeat_interval`, in milliseconds.
    pub interval_ms: u64,
    /// `failure_threshold`.
    pub threshold: u32,
    /// `two_node`: whether a pair without witness takes over by itself.
    pub probe: bool,
    /// `failback_mode = "auto"`, after this many milliseconds.
    pub failback_ms: Option<u64>,
    /// `standby_timeout`, in milliseconds.
    pub standby_timeout_ms: u64,
    /// The kernel gate of each host.
    pub gates: [GateKind; MOST_HOSTS],
    /// Bytes of records in a segment of the log: small, so that there are many.
    pub segment_size: u64,
    /// Whether the address is probed before it is claimed (`arp_ping`).
    pub arp_ping: bool,
    /// Whether hooks follow the role, which may veto a takeover.
    pub hooks: bool,
    /// The one host that has such hooks, where the others have none.
    pub hooks_of: Option<usize>,
    /// Whether each data member can have the others switched off; a pair without witness then has `two_node = "fence"`.
    pub fence: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            data: 2,
            witness: true,
            paths: 1,
            interval_ms: 100,
            threshold: 3,
            probe: true,
            failback_ms: None,
            standby_timeout_ms: 1000,
            gates: [GateKind::Absolute; MOST_HOSTS],
            segment_size: 32 << 10,
            arp_ping: true,
            hooks: false,
            hooks_of: None,
            fence: false,
        }
    }
}

impl Shape {
    /// Members, the witness included.
    pub fn hosts(&self) -> usize {
        self.data + usize::from(self.witness)
    }

    /// What host `i` is for: the witness is the last one.
    pub fn kind(&self, i: usize) -> MemberKind {
        if i < self.data { MemberKind::Data } else { MemberKind::Witness }
    }

    /// Whether host `i` has hooks that follow the role.
    pub fn has_hooks(&self, i: usize) -> bool {
        self.hooks || self.hooks_of == Some(i)
    }

    /// The name of host `i`.
    pub fn name(&self, i: usize) -> String {
        match self.kind(i) {
            MemberKind::Data => char::from(b'a' + i as u8).to_string(),
            MemberKind::Witness => "w".to_owned(),
        }
    }

    /// Two data members and nobody else.
    pub fn is_pair(&self) -> bool {
        self.data == 2 && !self.witness
    }

    /// The configuration of host `i`, which signs with the first of `secrets` and accepts all of them.
    pub fn config(&self, i: usize, secrets: &[String]) -> Config {
        let text = self.config_text(i, secrets).expect("writing to a string cannot fail");
        match Config::parse("simulated.hcl", &text) {
            Ok(loaded) => loaded.config,
            Err(error) => panic!("a simulated configuration is not valid: {error}\n{text}"),
        }
    }

    /// The timers of host `i` that follow, with its gate.
    pub fn derived(&self, i: usize, config: &Config) -> Derived {
        let gate = match self.gates[i] {
            GateKind::Absolute => GateInUse::Ebpf,
            GateKind::Relative => GateInUse::Nftables,
            GateKind::LifetimeOnly => GateInUse::None,
        };
        Derived::new(&config.ha, gate)
    }

    fn config_text(&self, i: usize, secrets: &[String]) -> Result<String, std::fmt::Error> {
        let data = self.kind(i) == MemberKind::Data;
        let mut out = String::new();
        let mode = match i {
            _ if !data => "witness",
            0 => "primary",
            _ => "replica",
        };
        let quoted =
            |items: Vec<String>| items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ");
        let peers: Vec<usize> = (0..self.data).filter(|j| *j != i).collect();
        writeln!(out, "replication {{\n  mode = \"{mode}\"\n  node_id = \"{}\"", self.name(i))?;
        writeln!(out, "  listen_addr = \"10.0.0.{}:9001\"", i + 1)?;
        writeln!(
            out,
            "  peer_addrs = [{}]",
            quoted(peers.iter().map(|j| format!("10.0.0.{}:9001", j + 1)).collect())
        )?;
        if data && self.witness {
            writeln!(out, "  witness_addrs = [\"10.0.0.{}:9002\"]", self.data + 1)?;
        }
        writeln!(out, "  secret_key = {:?}", secrets[0])?;
        if secrets.len() > 1 {
            writeln!(out, "  previous_secret_keys = [{}]", quoted(secrets[1..].to_vec()))?;
        }
        writeln!(out, "  state_dir = \"/simulated/state\"\n  ha {{\n    enabled = true")?;
        writeln!(out, "    heartbeat_interval = \"{}ms\"", self.interval_ms)?;
        writeln!(out, "    failure_threshold = {}", self.threshold)?;
        if data {
            writeln!(out, "    priority = {}", 50 * (i + 1))?;
            writeln!(out, "    standby_timeout = \"{}ms\"", self.standby_timeout_ms)?;
            if self.is_pair() {
                let policy = match (self.fence, self.probe) {
                    (true, _) => "fence",
                    (false, true) => "probe",
                    (false, false) => "manual",
                };
                writeln!(out, "    two_node = \"{policy}\"")?;
            }
            match self.failback_ms {
                Some(ms) => writeln!(out, "    failback_mode = \"auto\"\n    failback_delay = \"{ms}ms\"")?,
                None => writeln!(out, "    failback_mode = \"manual\"")?,
            }
            writeln!(
                out,
                "    virtual_ip {{\n      address = \"10.0.1.100/24\"\n      interface = \"eth1\""
            )?;
            writeln!(out, "      arp_ping = {}\n    }}", self.arp_ping)?;
            if self.has_hooks(i) {
                writeln!(out, "    hook \"simulated\" {{\n      on = [\"pre_primary\", \"pre_standby\"]")?;
                // The world answers for it; it must only be there when the configuration is read.
                writeln!(
                    out,
                    "      exec = [\"/bin/sh\"]\n      timeout = \"500ms\"\n      veto = true\n    }}"
                )?;
            }
        }
        if self.paths > 1 {
            let witness = (self.witness && data).then_some(self.data);
            let others = peers.iter().copied().chain(witness).map(|j| format!("10.0.2.{}", j + 1));
            writeln!(out, "    heartbeat_path \"cable\" {{\n      listen = \"10.0.2.{}\"", i + 1)?;
            writeln!(out, "      peers = [{}]\n    }}", quoted(others.collect()))?;
        }
        writeln!(out, "  }}\n}}")?;
        if data && self.fence {
            for j in &peers {
                let name = self.name(*j);
                writeln!(out, "fence \"power-{name}\" {{\n  member = \"{name}\"")?;
                // The world answers for it; it must only be there when the configuration is read.
                writeln!(
                    out,
                    "  agent = \"/bin/sh\"\n  delay = \"2s\"\n  timeout = \"1s\"\n  retries = 0\n}}"
                )?;
            }
        }
        if data {
            writeln!(out, "store {{\n  data_dir = \"/simulated/store\"\n  listen = \"0.0.0.0:9000\"\n}}")?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_a_valid_configuration_for_each_host() {
        for data in 2..=5 {
            for (witness, paths, secrets) in [(true, 1, 1), (false, 2, 2), (true, 2, 2)] {
                let shape = Shape { data, witness, paths, failback_ms: Some(500), ..Shape::default() };
                let secrets: Vec<String> =
                    (0..secrets).map(|n| format!("a simulated secret, number {n}")).collect();
                for i in 0..shape.hosts() {
                    let config = shape.config(i, &secrets);
                    assert_eq!(config.peers.len(), shape.hosts() - 1);
                    assert!(config.peers.iter().all(|peer| peer.heartbeat.len() == paths));
                }
            }
        }
    }
}
