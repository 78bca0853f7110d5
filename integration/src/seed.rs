//! The guide's two-node example as a cluster of the lab: the config text as it stands, its networks around it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use holdfast_agent::lab::settings::{ACCESS_KEY, CABLE, CLIENT, ClusterSpec, LAN, SECRET_KEY};
use holdfast_agent::lab::world::{HostSpec, LinkSpec};

const PRIMARY: &str = include_str!("../../config/tests/fixtures/basic_primary.hcl");
const BACKUP: &str = include_str!("../../config/tests/fixtures/basic_backup.hcl");

/// The example's pair, on 192.168.100.0/24 by `eth0`, with the virtual address 10.0.0.100 on `eth1`.
pub fn two_nodes() -> ClusterSpec {
    let link = |network: &str, interface: &str, address: Option<&str>| LinkSpec {
        network: network.to_owned(),
        interface: interface.to_owned(),
        addresses: address.into_iter().map(|a| a.parse().expect("an address")).collect(),
    };
    let member = |name: &str, address: &str| HostSpec {
        name: name.to_owned(),
        links: vec![link(LAN, "eth0", Some(address)), link(CABLE, "eth1", None)],
    };
    let client = HostSpec { name: CLIENT.to_owned(), links: vec![link(CABLE, "eth0", Some("10.0.0.9/24"))] };
    let config = |text: &str| {
        format!(
            "{text}\nstore {{\n  data_dir = \"{{DIR}}/store\"\n  listen = \"0.0.0.0:9000\"\n  \
             root_access_key = \"{ACCESS_KEY}\"\n  root_secret_key = \"{SECRET_KEY}\"\n}}\n\
             api {{\n  listen = \"127.0.0.1:8080\"\n}}\n"
        )
    };
    ClusterSpec {
        witness: false,
        hosts: Some(vec![member("a", "192.168.100.1/24"), member("b", "192.168.100.2/24"), client]),
        verbatim: BTreeMap::from([("a".to_owned(), config(PRIMARY)), ("b".to_owned(), config(BACKUP))]),
        interval: Some(std::time::Duration::from_secs(1)),
        threshold: Some(10),
        vip: Ipv4Addr::new(10, 0, 0, 100),
        ..ClusterSpec::default()
    }
}
