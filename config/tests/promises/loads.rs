//! The guide's examples load as they stand, and every key means what it says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_config::{
    Ack, CheckKind, Config, FailbackMode, GateChoice, HookEvent, Loaded, Mode, PeerKind, TwoNode, explain,
};

use crate::{GOOD, load, messages, with};

fn fixture(name: &str) -> Loaded {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    Config::parse(name, &text).unwrap_or_else(|error| panic!("{error}"))
}

/// Kind, host, heartbeat addresses and replication address of each peer, as text.
fn peers(config: &Config) -> Vec<String> {
    let show = |peer: &holdfast_config::Peer| {
        let heartbeat: Vec<String> = peer.heartbeat.iter().map(ToString::to_string).collect();
        let replication = peer.replication.map_or_else(|| "-".to_owned(), |address| address.to_string());
        format!("{:?} {} hb {} repl {replication}", peer.kind, peer.host, heartbeat.join(","))
    };
    config.peers.iter().map(show).collect()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn the_basic_pair_loads_and_both_sides_see_each_other() {
    let primary = fixture("basic_primary.hcl");
    let config = &primary.config;
    assert_eq!(config.mode, Mode::Primary);
    assert_eq!(config.node_id, "192.168.100.1");
    assert_eq!(config.listen.to_string(), "192.168.100.1:9001");
    assert_eq!(config.heartbeat_paths[0].listen.to_string(), "192.168.100.1:9002");
    assert_eq!(peers(config), ["Data 192.168.100.2 hb 192.168.100.2:9002 repl 192.168.100.2:9001"]);
    assert_eq!(config.keys.signing.expose(), "SHARED_SECRET_KEY");
    assert!(config.ha.enabled);
    assert_eq!(config.ha.priority, 50);
    assert_eq!(config.ha.failback.mode, FailbackMode::Auto);
    assert_eq!(config.ha.failback.delay, seconds(5));
    assert_eq!(config.ha.heartbeat_interval, seconds(1));
    assert_eq!(config.ha.failure_threshold, 10);
    assert_eq!(config.ha.detect(), seconds(10));
    assert_eq!(config.ha.lease(), seconds(10));
    assert_eq!(config.ha.virtual_ips[0].address.to_string(), "10.0.0.100/24");
    assert_eq!(config.ha.virtual_ips[0].interface, "eth1");
    assert!(config.ha.virtual_ips[0].arp_ping && config.ha.virtual_ips[0].gratuitous_arp);
    assert_eq!(primary.warnings.len(), 1, "{:?}", messages(&primary));
    assert!(primary.warnings[0].message.contains("no credentials"));

    let backup = fixture("basic_backup.hcl").config;
    assert_eq!(backup.mode, Mode::Replica);
    assert_eq!(backup.ha.failback.mode, FailbackMode::Manual);
    // `peer_addr` and `primary_addr` are two addresses of one peer.
    assert_eq!(peers(&backup), ["Data 192.168.100.1 hb 192.168.100.1:9002 repl 192.168.100.1:9001"]);
    assert_eq!(backup.keys.signing.expose(), config.keys.signing.expose());
    assert!(backup.is_two_node());
}

#[test]
fn the_advanced_example_loads_and_names_what_is_not_active() {
    let loaded = fixture("advanced.hcl");
    let config = &loaded.config;
    assert_eq!(config.ha.failback.mode, FailbackMode::Manual);
    assert_eq!(config.ha.failback.delay, seconds(30));
    assert_eq!(config.ha.failback.window, Some(seconds(300)));
    assert_eq!(config.ha.failure_timeout, Some(seconds(10)));
    assert_eq!(config.ha.detect(), seconds(10));
    assert_eq!(config.ha.lease(), seconds(10));
    assert_eq!(config.ha.monitor_links, ["eth0", "eth1"]);
    assert_eq!(config.ha.monitor_gateways[0].to_string(), "192.168.1.1");
    let said = messages(&loaded).join("\n");
    assert!(config.compression);
    assert!(explain(&loaded).contains("stream            compressed (LZ4)"));
    // The guide's own example says nothing of what a write waits for: it waits for the standby, and nothing is held back.
    assert_eq!(config.ack, Ack::InSync);
    for key in ["sync_interval", "batch_size"] {
        assert!(
            said.contains(&format!("`{key}` has no effect: every write is sent at once")),
            "{key}: {said}"
        );
    }
    assert!(!said.contains("conntrack"), "{said}");
    let connections = config.ha.conntrack_sync.as_ref().unwrap();
    assert_eq!(connections.interface.as_deref(), Some("eth0"));
    assert_eq!((connections.sync_interval, connections.max_entries), (seconds(5), 100_000));
    assert!(explain(&loaded).contains("carried over to the standby as they change, up to 100000"));
    for (hook, event) in config.ha.hooks.iter().zip([HookEvent::PrePrimary, HookEvent::Primary]) {
        assert_eq!(hook.on, [event]);
        assert!(!hook.veto && hook.timeout == holdfast_config::DEFAULT_HOOK_TIMEOUT);
        // The guide's scripts are on the guide's hosts; the file loads here all the same.
        assert!(said.contains(&format!("`{}`: cannot look at {}", hook.name, hook.command[0])), "{said}");
    }
    // With two voters the probe policy uses both.
    assert!(!said.contains("monitor_"), "{said}");
    assert!(!said.contains("encryption"), "{said}");
    assert!(said.contains("`failure_threshold` 5 (5s) gives way to `failure_timeout` 10s"), "{said}");
}

#[test]
fn the_three_nodes_load_with_derived_timers() {
    for (name, id, priority, others) in [
        ("multi_node1.hcl", "node1", 50, ["10.0.0.2", "10.0.0.3"]),
        ("multi_node2.hcl", "node2", 100, ["10.0.0.1", "10.0.0.3"]),
        ("multi_node3.hcl", "node3", 150, ["10.0.0.1", "10.0.0.2"]),
    ] {
        let loaded = fixture(name);
        let config = &loaded.config;
        assert_eq!(config.node_id, id);
        assert_eq!(config.ha.priority, priority);
        assert_eq!((config.voters(), config.quorum()), (3, 2));
        let expected = others.map(|host| format!("Data {host} hb {host}:9002 repl {host}:9001"));
        assert_eq!(peers(config), expected);
        assert_eq!(config.ha.heartbeat_interval, Duration::from_millis(100));
        assert_eq!(config.ha.failure_threshold, 3);
        assert_eq!(config.ha.lease(), Duration::from_millis(300));
        assert_eq!(loaded.warnings.len(), 1, "{:?}", messages(&loaded));
    }
}

#[test]
fn a_whole_file_loads_without_warnings_and_with_the_defaults() {
    let loaded = load(GOOD);
    assert!(loaded.warnings.is_empty(), "{:?}", messages(&loaded));
    let config = &loaded.config;
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/holdfast"));
    let store = config.store.as_ref().unwrap();
    assert_eq!(store.data_dir, PathBuf::from("/var/lib/holdfast/store"));
    assert_eq!(store.listen.to_string(), "0.0.0.0:9000");
    assert_eq!(store.segment_size_bytes, 64 << 20);
    assert_eq!(store.root.as_ref().unwrap().access_key, "admin");
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.ha.standby_timeout, seconds(1));
    assert_eq!(config.ha.gate, GateChoice::Auto);
    assert!(config.ha.flight_recorder && config.ha.realtime && config.ha.watchdog.is_none());
    assert_eq!(config.ha.two_node, TwoNode::Probe);
    assert_eq!(config.peers[1].kind, PeerKind::Witness);
    assert_eq!(config.peers[1].replication, None);
}

#[test]
fn every_key_is_accepted_and_none_is_silently_ignored() {
    let loaded = fixture("every_key.hcl");
    let config = &loaded.config;
    assert_eq!(config.node_id, "b");
    assert_eq!(
        peers(config),
        [
            // The longer list of peers comes first: `office` is path 1 and `cable` path 2.
            "Data 10.0.0.1 hb 10.0.0.1:9002,10.2.0.1:9200,10.1.0.1:9002 repl 10.0.0.1:9101",
            "Data 10.0.0.4 hb 10.0.0.4:9002,10.2.0.4:9002,10.1.0.4:9400 repl 10.0.0.4:9001",
            "Witness 10.0.0.3 hb 10.0.0.3:9002,10.2.0.3:9002 repl -",
            "Witness 10.0.0.5 hb 10.0.0.5:9300 repl -",
        ]
    );
    let paths: Vec<String> =
        config.heartbeat_paths.iter().map(|path| format!("{} {}", path.name, path.listen)).collect();
    assert_eq!(paths, ["main 10.0.0.2:9002", "office 10.2.0.2:9200", "cable 10.1.0.2:9002"]);
    assert_eq!(config.keys.previous[0].expose(), "the-former-key-of-the-pair");
    assert_eq!(config.state_dir, PathBuf::from("/srv/holdfast"));
    let ha = &config.ha;
    assert_eq!(ha.heartbeat_interval, Duration::from_millis(200));
    assert_eq!(ha.lease(), Duration::from_millis(1200));
    assert_eq!(ha.standby_timeout, seconds(2));
    assert_eq!(ha.two_node, TwoNode::Fence);
    assert_eq!(ha.gate, GateChoice::Ebpf);
    for (word, gate) in [("nftables", GateChoice::Nftables), ("none", GateChoice::None)] {
        let line = format!("    gate = {word:?}");
        assert_eq!(load(&with("    enabled = true", &line)).config.ha.gate, gate);
    }
    assert!(!ha.flight_recorder && !ha.realtime);
    let watchdog = ha.watchdog.as_ref().unwrap();
    assert_eq!((watchdog.device.as_path(), watchdog.timeout), (Path::new("/dev/watchdog1"), seconds(20)));
    assert_eq!(ha.virtual_ips.len(), 2);
    assert!(!ha.virtual_ips[0].arp_ping && !ha.virtual_ips[0].gratuitous_arp);
    assert_eq!(ha.virtual_ips[1].address.to_string(), "fd00::100/64");
    let store = config.store.as_ref().unwrap();
    assert_eq!(store.data_dir, PathBuf::from("/srv/holdfast/data"));
    assert_eq!(store.segment_size_bytes, 16 << 20);
    assert_eq!(store.max_connections, 64);
    assert_eq!(store.virtual_host_domain.as_deref(), Some("s3.example.com"));
    assert_eq!(store.disk_timeout, seconds(3));
    let program = &config.checks[0];
    assert_eq!((program.interval, program.timeout), (seconds(2), Duration::from_millis(1500)));
    assert_eq!((program.rise, program.fall, program.weight), (3, 4, Some(20)));
    let kinds: Vec<_> = config.checks.iter().map(|check| check.kind.clone()).collect();
    assert_eq!(
        kinds,
        [
            CheckKind::Exec(vec!["/usr/local/bin/check-it".into(), "--quick".into()]),
            CheckKind::Tcp("127.0.0.1:5432".into()),
            CheckKind::Http { url: "http://127.0.0.1:8081/health".into(), status: 200..=299 },
            CheckKind::File { path: "/run/ready".into(), max_age: Some(seconds(300)) },
            CheckKind::Process("nginx".into()),
            CheckKind::Pidfile("/run/nginx.pid".into()),
            CheckKind::Unit("nginx.service".into()),
        ]
    );
    assert_eq!(config.api.token.as_ref().unwrap().expose(), "the-token-of-the-interface");

    let said = messages(&loaded).join("\n");
    assert!(config.compression);
    assert_eq!(config.ack, Ack::Local { sync_interval: seconds(1), batch_size: 1000 });
    assert!(said.contains("what the standby lacks is lost with the primary"), "{said}");
    assert!(explain(&loaded).contains("the primary's own disk alone; sent after 1s or with 1000 records"));
    assert_eq!(config.catch_up_rate_bytes, Some(50 << 20));
    assert!(explain(&loaded).contains("catching up       50MiB/s at most"), "{}", explain(&loaded));
    assert!(said.contains("`backup` is accepted, not active in this version: "), "{said}");
    assert!(said.contains("`encryption = false` has no effect: the stream is always encrypted"), "{said}");
}

#[test]
fn a_witness_loads_without_store_and_knows_the_data_members() {
    let loaded = load(
        r#"
replication {
  mode        = "witness"
  node_id     = "w"
  listen_addr = "10.0.0.3"
  peer_addrs  = ["10.0.0.1:9001", "10.0.0.2"]
  secret_key  = "correct horse battery staple"
  ha {
  }
}
"#,
    );
    assert!(loaded.warnings.is_empty(), "{:?}", messages(&loaded));
    assert!(loaded.config.store.is_none());
    assert_eq!(
        peers(&loaded.config),
        [
            "Data 10.0.0.1 hb 10.0.0.1:9002 repl 10.0.0.1:9001",
            "Data 10.0.0.2 hb 10.0.0.2:9002 repl 10.0.0.2:9001",
        ]
    );
    assert!(explain(&loaded).contains("Member w: witness"));
}

#[test]
fn ipv6_members_are_named_with_brackets() {
    let text = GOOD
        .replace("10.0.0.1:9001", "[fd00::1]:9001")
        .replace("10.0.0.2:9001", "fd00::2")
        .replace("10.0.0.3:9002", "[fd00::3]")
        .replace("  node_id = \"a\"\n", "");
    let config = load(&text).config;
    assert_eq!(config.node_id, "fd00::1");
    assert_eq!(
        peers(&config),
        ["Data fd00::2 hb [fd00::2]:9002 repl [fd00::2]:9001", "Witness fd00::3 hb [fd00::3]:9002 repl -"]
    );
}

#[test]
fn a_port_equal_to_heartbeat_port_makes_it_a_heartbeat_address() {
    let text = with("peer_addrs = [\"10.0.0.2:9001\"]", "peer_addrs = [\"10.0.0.2:7000\"]")
        .replace("enabled = true", "enabled = true\n    heartbeat_port = 7000")
        .replace("10.0.0.1:9001", "10.0.0.1:7001");
    assert_eq!(peers(&load(&text).config)[0], "Data 10.0.0.2 hb 10.0.0.2:7000 repl 10.0.0.2:7001");
}

#[test]
fn what_works_at_a_price_is_a_warning() {
    for (text, expected) in [
        (with("    enabled = true", "    enabled = false"), "nothing fails over by itself"),
        (
            with("secret_key = \"correct horse battery staple\"", "secret_key = \"shortish\""),
            "shorter than 12 bytes",
        ),
        (with("  node_id = \"a\"", "  encryption = false"), "always encrypted"),
        (
            with("[\"10.0.0.3:9002\"]", "[\"10.0.0.3:9002\", \"10.0.0.4:9002\"]"),
            "4 voters survive no more failures than 3 would",
        ),
        (with("  peer_addrs = [\"10.0.0.2:9001\"]\n", ""), "all peers are witnesses"),
        (with("    enabled = true", "    two_node = \"manual\""), "`two_node` is not used: 3 voters"),
        (with("    enabled = true", "    gate = \"none\""), "keeps the address for up to its whole"),
        (
            with("  root_access_key = \"admin\"\n  root_secret_key = \"change-me-please\"\n", ""),
            "no credentials",
        ),
        (format!("{GOOD}api {{ listen = \"10.0.0.1:8080\" }}\n"), "has no token"),
        (
            with("  node_id = \"a\"", "  previous_secret_keys = [\"correct horse battery staple\"]"),
            "a former secret is the current one",
        ),
    ] {
        let loaded = load(&text);
        let said = messages(&loaded);
        assert!(said.iter().any(|message| message.contains(expected)), "{expected:?} is not in {said:?}");
        assert!(explain(&loaded).contains(&said[0]), "the explanation shows every warning");
    }
}

#[test]
fn links_and_gateways_are_watched_with_any_number_of_voters() {
    let monitors = "    monitor_links = [\"eth1\"]\n    monitor_gateways = [\"10.0.0.254\"]";
    let three = load(&with("    enabled = true", monitors));
    assert_eq!(three.config.voters(), 3);
    assert!(three.warnings.is_empty(), "{:?}", messages(&three));
}

#[test]
fn the_explanation_is_honest_about_the_policy() {
    let three = explain(&load(GOOD));
    assert!(three.contains("Voters: 3, quorum 2: 1 may be lost"), "{three}");
    assert!(three.contains("Any one failure of a member"), "{three}");
    assert!(three.contains("Loss of 2 voters at once stops the service"), "{three}");

    let probe = explain(&load(&with("  witness_addrs = [\"10.0.0.3:9002\"]\n", "")));
    assert!(probe.contains("Then both serve, each to the clients on its side"), "{probe}");
    assert!(probe.contains("set aside in an archive"), "{probe}");
    assert!(probe.contains("No `monitor_gateways`"), "{probe}");

    let manual = with("  witness_addrs = [\"10.0.0.3:9002\"]\n", "")
        .replace("enabled = true", "enabled = true\n    two_node = \"manual\"");
    let manual = explain(&load(&manual));
    assert!(manual.contains("no member takes over by itself"), "{manual}");

    let alone = with("  peer_addrs = [\"10.0.0.2:9001\"]\n  witness_addrs = [\"10.0.0.3:9002\"]\n", "");
    assert!(explain(&load(&alone)).contains("this member is alone"));
}

#[test]
fn connections_are_carried_over_where_the_block_says_so() {
    let of = |block: &str| load(&with("    enabled = true", &format!("    enabled = true\n{block}")));
    assert_eq!(load(GOOD).config.ha.conntrack_sync, None);
    assert_eq!(of("    conntrack_sync { enabled = false }").config.ha.conntrack_sync, None);
    let bare = of("    conntrack_sync {\n    }").config.ha.conntrack_sync.unwrap();
    assert_eq!((bare.interface, bare.sync_interval, bare.max_entries), (None, seconds(5), 100_000));
    let refused = |block: &str| {
        let text = with("    enabled = true", &format!("    enabled = true\n{block}"));
        holdfast_config::Config::parse("x.hcl", &text).unwrap_err().to_string()
    };
    assert!(refused("    conntrack_sync { sync_interval = \"20ms\" }").contains("write at least \"1s\""));
    assert!(refused("    conntrack_sync { max_entries = 0 }").contains("max_entries"));
    assert!(refused("    conntrack_sync { interface = \"no/such\" }").contains("cannot be the name"));
}

#[test]
fn a_check_needs_no_more_than_what_it_looks_at() {
    let loaded = load(&format!("{GOOD}check \"web\" {{ tcp = \"[::1]:80\" }}\n"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let check = &loaded.config.checks[0];
    assert_eq!((check.interval, check.timeout), (seconds(1), seconds(1)));
    assert_eq!((check.rise, check.fall, check.weight), (2, 3, None));
    assert_eq!(loaded.config.store.as_ref().unwrap().disk_timeout, seconds(5));
    let text = explain(&loaded);
    assert!(
        text.contains("web: [::1]:80 takes a connection, every 1s within 1s, down after 3, up after 2"),
        "{text}"
    );
    assert!(text.contains("not durable within 5s"), "{text}");
}
