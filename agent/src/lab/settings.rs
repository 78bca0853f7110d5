//! What a cluster of the lab looks like: its members, addresses and timers, and the config file of each.
//!
//! Pure: a specification goes in, text comes out. The text is what an operator would write.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::world::{HostSpec, LinkSpec};

/// The network that everything is on.
pub const LAN: &str = "lan";
/// The second network between the members, if there is one.
pub const CABLE: &str = "cable";
/// The witness's host.
pub const WITNESS: &str = "w";
/// The client's host.
pub const CLIENT: &str = "c";
/// The data members' hosts, in the order of preference.
pub const DATA: [&str; 3] = ["a", "b", "d"];
/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The virtual address for IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
/// The S3 port.
pub const S3_PORT: u16 = 9000;
/// The access key of the lab's store.
pub const ACCESS_KEY: &str = "labadmin";
/// The secret key of the lab's store. It opens nothing outside of the lab.
pub const SECRET_KEY: &str = "lab-secret-key";

/// What to build.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// How many data members: 1 to 3.
    pub data_members: usize,
    /// Whether there is a witness.
    pub witness: bool,
    /// Whether a second network carries a second heartbeat path.
    pub cable: bool,
    /// Whether there is an IPv6 virtual address too.
    pub ipv6: bool,
    /// The heartbeat interval; none leaves it to the agent's default.
    pub interval: Option<Duration>,
    /// The failure threshold; none leaves it to the agent's default.
    pub threshold: Option<u32>,
    /// The priorities of the data members; lower is preferred.
    pub priorities: [u32; 3],
    /// `failback_mode`, if it is to be stated.
    pub failback_mode: Option<String>,
    /// `two_node`, if it is to be stated.
    pub two_node: Option<String>,
    /// Further lines for the `replication` block of one host, by host.
    pub extra_replication: BTreeMap<String, String>,
    /// Further lines for the `ha` block of one host, by host.
    pub extra_ha: BTreeMap<String, String>,
    /// Further blocks for the config file of one host, by host.
    pub extra: BTreeMap<String, String>,
    /// The size of a log segment, if it is to be stated, as the config file writes it.
    pub segment_size: Option<String>,
    /// Lines for the `store` block of each data member.
    pub extra_store: String,
    /// Hosts whose store is on a disk of limited size, in bytes.
    pub small_disks: BTreeMap<String, u64>,
    /// Directories of which each host has its own, by their paths on the hosts; they must be there on the machine.
    pub own_dirs: Vec<PathBuf>,
    /// Config files that replace the generated ones, by host. `{DIR}` stands for the host's directory.
    pub verbatim: BTreeMap<String, String>,
    /// Hosts that replace the usual ones, for clusters with other networks.
    pub hosts: Option<Vec<HostSpec>>,
    /// Hosts whose agents are not started with the others.
    pub idle: Vec<String>,
    /// The virtual address that clients use.
    pub vip: Ipv4Addr,
    /// The log filter of the agents.
    pub log: String,
}

impl Default for ClusterSpec {
    fn default() -> ClusterSpec {
        ClusterSpec {
            data_members: 2,
            witness: true,
            cable: false,
            ipv6: false,
            interval: None,
            threshold: None,
            priorities: [50, 100, 150],
            failback_mode: None,
            two_node: None,
            extra_replication: BTreeMap::new(),
            extra_ha: BTreeMap::new(),
            extra: BTreeMap::new(),
            segment_size: None,
            extra_store: String::new(),
            small_disks: BTreeMap::new(),
            own_dirs: Vec::new(),
            verbatim: BTreeMap::new(),
            hosts: None,
            idle: Vec::new(),
            vip: VIP,
            // The prober's unsigned requests are refused thousands of times; that is no news.
            log: "info,s3s=off".to_owned(),
        }
    }
}

impl ClusterSpec {
    /// The default cluster with other timers.
    pub fn with_timers(interval_ms: u64, threshold: u32) -> ClusterSpec {
        ClusterSpec {
            interval: Some(Duration::from_millis(interval_ms)),
            threshold: Some(threshold),
            ..ClusterSpec::default()
        }
    }

    /// The lease that follows from the timers: what the configuration derives when nothing else is said.
    pub fn lease(&self) -> Duration {
        self.interval.unwrap_or(Duration::from_millis(100)) * self.threshold.unwrap_or(3)
    }

    /// The data members' hosts.
    pub fn data(&self) -> &'static [&'static str] {
        &DATA[..self.data_members.clamp(1, DATA.len())]
    }

    /// The hosts that run an agent.
    pub fn members(&self) -> Vec<&'static str> {
        let witness = self.witness.then_some(WITNESS);
        self.data().iter().copied().chain(witness).collect()
    }

    /// The hosts to build.
    pub fn host_specs(&self) -> Vec<HostSpec> {
        if let Some(hosts) = &self.hosts {
            return hosts.clone();
        }
        self.members().into_iter().chain([CLIENT]).map(|name| self.host_spec(name)).collect()
    }

    fn host_spec(&self, name: &str) -> HostSpec {
        let number = number_of(name);
        let v4 = |third| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(10, third, 0, number), 24));
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into());
        let mut links = vec![LinkSpec {
            network: LAN.to_owned(),
            interface: "eth0".to_owned(),
            addresses: vec![v4(77), Ipv6Net::new_assert(v6, 64).into()],
        }];
        if self.cable && name != CLIENT {
            links.push(LinkSpec {
                network: CABLE.to_owned(),
                interface: "eth1".to_owned(),
                addresses: vec![v4(78)],
            });
        }
        HostSpec { name: name.to_owned(), links }
    }

    /// The config file of the member `name`, whose directory is `dir`.
    pub fn config_file(&self, name: &str, dir: &Path) -> String {
        if let Some(text) = self.verbatim.get(name) {
            return text.replace("{DIR}", &dir.display().to_string());
        }
        let mut text = String::new();
        self.write_config(&mut text, name, dir).expect("writing to a string cannot fail");
        text
    }

    fn write_config(&self, out: &mut String, name: &str, dir: &Path) -> std::fmt::Result {
        let rank = DATA.iter().position(|&d| d == name);
        let mode = match rank {
            None => "witness",
            Some(0) => "primary",
            Some(_) => "replica",
        };
        let peers: Vec<&str> = self.data().iter().copied().filter(|&d| d != name).collect();
        writeln!(out, "replication {{")?;
        writeln!(out, "  mode        = \"{mode}\"")?;
        writeln!(out, "  node_id     = \"{name}\"")?;
        writeln!(out, "  listen_addr = \"{}:9001\"", lan_address(name))?;
        writeln!(
            out,
            "  peer_addrs  = [{}]",
            quoted(peers.iter().map(|p| format!("{}:9001", lan_address(p))))
        )?;
        if rank.is_some() && self.witness {
            writeln!(out, "  witness_addrs = [\"{}:9002\"]", lan_address(WITNESS))?;
        }
        writeln!(out, "  secret_key  = \"a secret of the lab, good for nothing else\"")?;
        writeln!(out, "  state_dir   = \"{}\"", dir.join("state").display())?;
        if let Some(extra) = self.extra_replication.get(name) {
            writeln!(out, "  {extra}")?;
        }
        writeln!(out, "  ha {{\n    enabled = true")?;
        if let Some(interval) = self.interval {
            writeln!(out, "    heartbeat_interval = \"{}ms\"", interval.as_millis())?;
        }
        if let Some(threshold) = self.threshold {
            writeln!(out, "    failure_threshold = {threshold}")?;
        }
        if let Some(rank) = rank {
            self.write_data_settings(out, rank)?;
        }
        if self.cable {
            let witness = (self.witness && rank.is_some()).then_some(WITNESS);
            let others = peers.iter().copied().chain(witness).map(cable_address);
            writeln!(out, "    heartbeat_path \"cable\" {{")?;
            writeln!(out, "      listen = \"{}\"", cable_address(name))?;
            writeln!(out, "      peers  = [{}]\n    }}", quoted(others))?;
        }
        if let Some(extra) = self.extra_ha.get(name) {
            writeln!(out, "{extra}")?;
        }
        writeln!(out, "  }}\n}}")?;
        if rank.is_some() {
            writeln!(out, "store {{\n  data_dir = \"{}\"", dir.join("store").display())?;
            writeln!(out, "  listen   = \"0.0.0.0:{S3_PORT}\"")?;
            if let Some(size) = &self.segment_size {
                writeln!(out, "  segment_size = \"{size}\"")?;
            }
            if !self.extra_store.is_empty() {
                writeln!(out, "  {}", self.extra_store)?;
            }
            writeln!(out, "  root_access_key = \"{ACCESS_KEY}\"")?;
            writeln!(out, "  root_secret_key = \"{SECRET_KEY}\"\n}}")?;
        }
        writeln!(out, "api {{\n  listen = \"127.0.0.1:8080\"\n}}")?;
        if let Some(extra) = self.extra.get(name) {
            writeln!(out, "{extra}")?;
        }
        Ok(())
    }

    fn write_data_settings(&self, out: &mut String, rank: usize) -> std::fmt::Result {
        writeln!(out, "    priority = {}", self.priorities[rank])?;
        if let Some(mode) = &self.failback_mode {
            writeln!(out, "    failback_mode = \"{mode}\"")?;
        }
        if let Some(policy) = &self.two_node {
            writeln!(out, "    two_node = \"{policy}\"")?;
        }
        let mut vips = vec![format!("{}/24", self.vip)];
        if self.ipv6 {
            vips.push(format!("{VIP6}/64"));
        }
        for address in vips {
            writeln!(out, "    virtual_ip {{\n      address   = \"{address}\"")?;
            writeln!(out, "      interface = \"eth0\"\n    }}")?;
        }
        Ok(())
    }
}

fn quoted(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ")
}

fn number_of(name: &str) -> u8 {
    match name {
        "a" => 1,
        "b" => 2,
        WITNESS => 3,
        "d" => 4,
        _ => 9,
    }
}

/// The address of a host on the network that everything is on.
pub fn lan_address(name: &str) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, number_of(name)).into()
}

fn cable_address(name: &str) -> String {
    format!("10.78.0.{}", number_of(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_member_names_its_peer_and_the_witness() {
        let text = ClusterSpec::default().config_file("b", Path::new("/x/b"));
        assert!(text.contains("mode        = \"replica\""), "{text}");
        assert!(text.contains("peer_addrs  = [\"10.77.0.1:9001\"]"), "{text}");
        assert!(text.contains("witness_addrs = [\"10.77.0.3:9002\"]"), "{text}");
        assert!(text.contains("data_dir = \"/x/b/store\""), "{text}");
    }

    #[test]
    fn a_witness_has_neither_store_nor_virtual_address() {
        let text = ClusterSpec::default().config_file("w", Path::new("/x/w"));
        assert!(text.contains("mode        = \"witness\""), "{text}");
        assert!(!text.contains("store {") && !text.contains("virtual_ip"), "{text}");
    }

    #[test]
    fn the_cable_lists_data_peers_before_the_witness() {
        let spec = ClusterSpec { cable: true, data_members: 3, ..ClusterSpec::default() };
        let text = spec.config_file("b", Path::new("/x/b"));
        assert!(text.contains("peers  = [\"10.78.0.1\", \"10.78.0.4\", \"10.78.0.3\"]"), "{text}");
    }
}
