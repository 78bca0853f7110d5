//! What was seen, and the words that come of it.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_config::timers::GateInUse;
use holdfast_heartbeat::{
    AddressTestimony, BootNonce, Claim, Incarnation, Loss, Member, MemberKind, NodeId, Testimony,
};
use holdfast_vip::{Learned, LinkView, MacAddr, VipSpec};

use super::*;
use crate::api::tests::status;
use crate::runtime::inquiry::Outcome;

const A: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xa);
const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xb);
const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 0x66);
const VIP: &str = "10.0.0.100/24";

/// Everything as it should be, seen from the primary `a` of a pair with a witness.
struct World {
    config: Config,
    derived: Derived,
    status: Status,
    host: Option<SeenHost>,
    own: Vec<Seen>,
    announced: Option<Time>,
    told: Vec<Option<Told>>,
}

fn config(extra: &str, witness: bool) -> Config {
    let witnesses = if witness { r#"witness_addrs = ["10.0.0.3:9002"]"# } else { "" };
    let text = format!(
        r#"
replication {{
  mode        = "primary"
  node_id     = "a"
  listen_addr = "10.0.0.1:9001"
  peer_addrs  = ["10.0.0.2:9001"]
  {witnesses}
  secret_key  = "a secret of the tests, long enough"
  state_dir   = "/tmp/state"
  ha {{
    enabled  = true
    priority = 50
    {extra}
    heartbeat_path "cable" {{
      listen = "10.78.0.1"
      peers  = ["10.78.0.2"{}]
    }}
    virtual_ip {{
      address   = "{VIP}"
      interface = "eth1"
    }}
  }}
}}
store {{
  data_dir        = "/tmp/store"
  listen          = "0.0.0.0:9000"
  root_access_key = "admin"
  root_secret_key = "change-me-please"
}}
"#,
        if witness { r#", "10.78.0.3""# } else { "" }
    );
    Config::parse("test.hcl", &text).unwrap_or_else(|error| panic!("{error}")).config
}

fn ms(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn seen(here: bool, mac: MacAddr) -> Seen {
    Seen {
        spec: VipSpec::new(VIP.parse().unwrap(), "eth1"),
        link: Some(LinkView { mac, up: true, addresses: vec!["10.0.0.1/24".parse().unwrap()] }),
        here,
        holders: Ok(vec![]),
        claims: vec![],
        service: Some(Ok(Duration::from_micros(300))),
    }
}

impl World {
    fn new(witness: bool, extra: &str) -> World {
        let config = config(extra, witness);
        let derived = Derived::new(&config.ha, GateInUse::Ebpf);
        let mut status = status();
        status.gate = "eBPF (tcx)".into();
        (status.votes, status.quorum, status.pair) = (config.voters(), config.quorum(), config.is_two_node());
        for path in &mut status.peers[0].paths {
            path.alive = true;
            path.reaches = Some(true);
        }
        for peer in &mut status.peers {
            peer.hears.clear();
        }
        let mut world = World {
            derived,
            status,
            host: Some(SeenHost { systemd: true, boottime: true, ..SeenHost::default() }),
            own: vec![seen(true, A)],
            announced: Some(ms(10_000)),
            told: vec![],
            config,
        };
        let facts = world.facts();
        let address = AddressTestimony {
            address: "10.0.0.100".parse().unwrap(),
            prefix: 24,
            mac: Some(B.octets()),
            up: true,
            here: false,
            asked: true,
            holders: vec![A.octets()],
            // Heard 0.8 ms after it was announced.
            claims: vec![Claim { mac: A.octets(), us_ago: 399_200 }],
            service: Some(true),
        };
        let testimony = |name: &str, kind, addresses| Testimony {
            from: Member { id: NodeId::new(name).unwrap(), incarnation: Incarnation(1) },
            to_boot: BootNonce(1),
            round: 1,
            facts: Facts { kind, ..facts.clone() },
            announced_us_ago: None,
            addresses,
        };
        let told = |testimony| Some(Told { testimony, at: ms(10_400) });
        world.told.push(told(testimony("b", MemberKind::Data, vec![address])));
        if witness {
            world.told.push(told(testimony("w", MemberKind::Witness, vec![])));
        } else {
            world.status.peers.truncate(1);
        }
        world
    }

    fn facts(&self) -> Facts {
        Facts {
            version: "0.1.0".into(),
            kind: MemberKind::Data,
            interval_ns: 100_000_000,
            detect_ns: 300_000_000,
            lease_ns: 300_000_000,
            voters: self.config.voters() as u8,
            two_node: "probe".into(),
            enabled: true,
            gate: "eBPF (tcx)".into(),
            service_port: Some(9000),
            keys: vec!["5d1f0c2a".into()],
        }
    }

    fn findings(&self) -> Vec<Finding> {
        findings(&Evidence {
            config: &self.config,
            derived: &self.derived,
            facts: self.facts(),
            status: &self.status,
            log: None,
            host: self.host.clone(),
            own: self.own.clone(),
            announced: self.announced,
            told: self.told.clone(),
        })
    }

    #[track_caller]
    fn finding(&self, name: &str) -> Finding {
        let all = self.findings();
        all.iter()
            .find(|finding| finding.name == name)
            .cloned()
            .unwrap_or_else(|| panic!("no {name} in {all:#?}"))
    }

    #[track_caller]
    fn says(&self, name: &str, outcome: Outcome, words: &str) {
        let finding = self.finding(name);
        let text = format!(
            "{} / {} / {}",
            finding.seen,
            finding.means.unwrap_or_default(),
            finding.advice.unwrap_or_default()
        );
        assert!(finding.outcome == outcome && text.contains(words), "{name}: {:?} {text}", finding.outcome);
    }

    fn of_b(&mut self) -> &mut AddressTestimony {
        &mut self.told[0].as_mut().unwrap().testimony.addresses[0]
    }
}

const LEARNED: &str = "announcement of 10.0.0.100 to b";

#[test]
fn a_whole_cluster_has_no_failure_and_the_announcement_is_proven() {
    let world = World::new(true, "");
    let bad: Vec<_> = world.findings().into_iter().filter(|f| f.outcome != Outcome::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    world.says(LEARNED, Outcome::Ok, "b learned 10.0.0.100 is at 02:00:00:00:00:0a");
    world.says(LEARNED, Outcome::Ok, "was heard by b within 0.8 ms");
    world.says("holder of 10.0.0.100", Outcome::Ok, "a: 02:00:00:00:00:0a (a), as a and b see");
    world.says("if a dies now", Outcome::Ok, "b takes over");
    world.says("if w dies now", Outcome::Ok, "a serves on, and nothing waits");
    world.says("S3 at 10.0.0.100 from b", Outcome::Ok, "takes a connection from b");
    world.says("gate", Outcome::Ok, "the kernel itself stops every packet");
    assert!(world.findings().iter().all(|finding| finding.outcome != Outcome::Ok
        || finding.advice.is_none()
        || finding.name == "links"));
}

#[test]
fn an_announcement_that_was_not_heard_is_a_failure_that_says_where_to_look() {
    let mut world = World::new(true, "");
    world.of_b().claims.clear();
    world.says(LEARNED, Outcome::Fail, "b heard no announcement of a, though a answers when b asks");
    world.says(LEARNED, Outcome::Fail, "look at the switch port of b");
    world.of_b().holders.clear();
    world.says(LEARNED, Outcome::Fail, "nobody answered when b asked who has 10.0.0.100");
    world.says(LEARNED, Outcome::Fail, "compare VLAN");
    // What was heard before this announcement proves nothing of it.
    world.of_b().claims = vec![Claim { mac: A.octets(), us_ago: 30_000_000 }];
    world.says(LEARNED, Outcome::Fail, "b heard no announcement of a");
    world.told[0] = None;
    world.says(LEARNED, Outcome::Fail, "b did not say what it heard");
}

#[test]
fn two_stations_that_answer_are_named() {
    let mut world = World::new(true, "");
    world.of_b().holders.push(STRANGER.octets());
    let holder = "holder of 10.0.0.100";
    world.says(holder, Outcome::Fail, "2 stations answer for it");
    world.says(holder, Outcome::Fail, "02:00:00:00:00:66 (no member of this cluster), as b sees");
    world.of_b().holders.clear();
    world.own[0].holders = Ok(vec![STRANGER]);
    world.says(holder, Outcome::Fail, "as a sees");
    // The former primary's hardware address, announced before, is no second station.
    let mut world = World::new(true, "");
    world.of_b().claims.push(Claim { mac: STRANGER.octets(), us_ago: 20_000_000 });
    world.says(holder, Outcome::Ok, "nobody else answers");
}

#[test]
fn the_standby_proves_it_from_its_own_side() {
    let mut world = World::new(true, "");
    // b has the address; a looks.
    world.own = vec![seen(false, A)];
    world.announced = None;
    world.status.role = "standby".into();
    world.status.primary = Some("b".into());
    world.told[0].as_mut().unwrap().testimony.announced_us_ago = Some(400_000);
    *world.of_b() = AddressTestimony { here: true, holders: vec![], claims: vec![], ..world.of_b().clone() };
    let to_a = "announcement of 10.0.0.100 to a";
    world.says(to_a, Outcome::Fail, "a heard no announcement of b, and nobody answered");
    world.own[0].holders = Ok(vec![B]);
    world.own[0].claims = vec![Learned { mac: B, at: ms(10_001).0 }];
    world.says(to_a, Outcome::Ok, "a learned 10.0.0.100 is at 02:00:00:00:00:0b");
}

#[test]
fn what_the_gate_promises_is_said_plainly() {
    let mut world = World::new(true, "");
    world.status.gate = "nftables".into();
    world.says("gate", Outcome::Ok, "or 0 ms later where the agent was stopped");
    world.status.gate = "none (the address's lifetime alone)".into();
    world.says("gate", Outcome::Warn, "valid_lft");
    world.says("gate", Outcome::Warn, "in user space");
}

#[test]
fn replicated_files_that_cannot_be_placed_are_named() {
    use crate::runtime::files::{FilesStatus, Named, SetStatus};
    let mut world = World::new(true, "");
    let set = SetStatus { name: "dhcp".into(), files: 4, ..SetStatus::default() };
    world.status.files = Some(FilesStatus { sets: vec![set], ..FilesStatus::default() });
    let obstacles = |world: &mut World, found: Vec<String>| {
        world.host.as_mut().unwrap().files = vec![("dhcp".into(), found)];
    };
    obstacles(&mut world, vec![]);
    world.says("files dhcp", Outcome::Ok, "4 in the log");
    let set = |world: &mut World| world.status.files.as_mut().unwrap().sets.remove(0);
    let mut bad = set(&mut world);
    bad.left_out = 1;
    bad.left_out_paths =
        vec![Named { path: "/etc/dhcp/big".into(), why: "it is larger than max_file_size".into() }];
    world.status.files.as_mut().unwrap().sets.push(bad.clone());
    world.says("files dhcp", Outcome::Warn, "/etc/dhcp/big: it is larger");
    bad.failed = 1;
    bad.failures = vec![Named { path: "/etc/dhcp/a".into(), why: "no".into() }];
    world.status.files.as_mut().unwrap().sets = vec![bad];
    world.says("files dhcp", Outcome::Fail, "1 paths are not replicated, first /etc/dhcp/a: no");
    obstacles(&mut world, vec!["/etc/dhcp cannot be written: Read-only file system".into()]);
    world.says("files dhcp", Outcome::Fail, "cannot be written");
}

#[test]
fn who_takes_over_is_said_for_each_member() {
    let mut world = World::new(true, "");
    world.status.peers[0].in_sync = false;
    world.status.in_sync = vec!["a".into()];
    world.says("if a dies now", Outcome::Fail, "no other member that is heard holds every acknowledged byte");
    world.says("in sync", Outcome::Fail, "a alone holds every acknowledged byte");
    let mut world = World::new(true, "");
    world.status.peers[0].electable = false;
    world.says("if a dies now", Outcome::Fail, "b is drained, or its host is not fit");
    let mut world = World::new(true, "");
    world.status.peers[1].alive = false;
    world.told[1] = None;
    world.says("if a dies now", Outcome::Fail, "1 of 3 members would be left, and 2 decide");
    world.says("if b dies now", Outcome::Fail, "a stops serving");
    world.says("path to w", Outcome::Fail, "w is not heard");
    let pair = World::new(false, "");
    pair.says("if a dies now", Outcome::Ok, "nobody answers for the virtual address");
    pair.says("if b dies now", Outcome::Ok, "solo");
    let mut manual = World::new(false, r#"two_node = "manual""#);
    manual.says("if a dies now", Outcome::Warn, "two_node = \"manual\"");
    manual.status.exposure = Some("nobody takes over by itself".into());
    manual.says("policy", Outcome::Warn, "what it cannot protect against: nobody takes over");
}

#[test]
fn a_direction_that_is_dead_or_lossy_is_named() {
    let mut world = World::new(true, "");
    world.status.peers[0].paths[1].reaches = Some(false);
    world.says("path cable to b", Outcome::Warn, "nothing from here arrives at b");
    world.status.peers[0].paths[1].alive = false;
    world.status.peers[0].paths[1].reaches = Some(true);
    world.says("path cable to b", Outcome::Warn, "nothing of b arrives here");
    world.status.peers[0].paths[0].lost_there = Some(Loss { sent: 600, lost: 60 });
    world.says("path main to b", Outcome::Warn, "from here to b 60 of 600 lost (10.0 %)");
    world.status.peers[1].hears =
        vec![crate::runtime::status::Hearing { member: "b".into(), by: vec![], not_by: vec!["main".into()] }];
    world.says("w hears b", Outcome::Warn, "w does not hear b");
}

#[test]
fn what_must_agree_is_compared() {
    let mut world = World::new(true, "");
    let theirs = &mut world.told[0].as_mut().unwrap().testimony.facts;
    theirs.lease_ns = 500_000_000;
    theirs.gate = "nftables".into();
    world.says(
        "agreement",
        Outcome::Fail,
        "lease: 300 ms here, 500 ms on b; kernel gate: eBPF (tcx) here, nftables on b",
    );
    let mut world = World::new(true, "");
    world.of_b().address = "10.0.0.101".parse::<IpAddr>().unwrap();
    world.says("agreement", Outcome::Fail, "virtual_ip: 10.0.0.100/24 here, 10.0.0.101/24 on b");
    let mut world = World::new(true, "");
    world.told[1].as_mut().unwrap().testimony.facts.keys = vec!["00000001".into()];
    world.says("keys", Outcome::Warn, "w has 00000001");
    world.told[1] = None;
    world.says("agreement", Outcome::Fail, "w did not say what is configured there");
}

#[test]
fn this_host_is_looked_at_too() {
    let mut world = World::new(true, "");
    let host = world.host.as_mut().unwrap();
    host.missing = vec![("hook \"pager\"".into(), "/x".into(), "No such file".into())];
    host.space = vec![("/data".into(), Ok((5 << 30, 100 << 30))), ("/state".into(), Err("gone".into()))];
    host.systemd = false;
    world.own[0].link = None;
    world.status.links_failed = Some("no carrier on eth1".into());
    world.status.realtime = "ordinary scheduling (x), memory locked".into();
    world.status.lateness.longest_us = 80_000;
    world.says("program of hook \"pager\"", Outcome::Fail, "/x: No such file");
    world.says("space /data", Outcome::Warn, "5.0 GiB free, 5 %");
    world.says("space /state", Outcome::Fail, "gone");
    world.says("supervisor", Outcome::Warn, "not started by systemd");
    world.says("interface of 10.0.0.100", Outcome::Fail, "there is no interface eth1");
    world.says("links", Outcome::Fail, "no carrier on eth1");
    world.says("real time", Outcome::Warn, "heartbeats can be late");
    world.says("lateness", Outcome::Warn, "80.0 ms late");
}
