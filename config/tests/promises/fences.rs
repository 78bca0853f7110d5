//! Fence devices: what they default to, what is refused, how they are explained, and that no password shows.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use holdfast_config::{TwoNode, explain};

use crate::{GOOD, load, messages, refuse, with};

/// A pair without a witness, of which this is "a", with this policy and these lines behind it.
fn pair(policy: &str, lines: &str) -> String {
    let text = with("    enabled = true", &format!("    two_node = \"{policy}\""))
        .replace("  witness_addrs = [\"10.0.0.3:9002\"]\n", "");
    format!("{text}{lines}")
}

#[test]
fn a_device_has_defaults_and_its_agent_is_found_where_the_package_puts_it() {
    let loaded =
        load(&format!("{GOOD}fence \"x\" {{\n  agent = \"fence_of_no_package\"\n  member = \"b\"\n}}\n"));
    let [device] = loaded.config.fences.as_slice() else { panic!("one device") };
    assert_eq!(device.agent.to_str(), Some("/usr/sbin/fence_of_no_package"));
    assert_eq!((device.level, device.retries, device.verify, device.reboot), (1, 1, true, false));
    assert_eq!(device.timeout, Duration::from_secs(20));
    assert_eq!(device.monitor_interval, Duration::from_secs(60));
    assert!(loaded.config.ha.fencing_required);
    // Off, and the question whether it is, each twice, with what killing takes, and a pause.
    assert_eq!(loaded.config.fence_limit("b"), Duration::from_secs(4 * 22 + 1));
    assert!(messages(&loaded).iter().any(|m| m.contains("cannot look at /usr/sbin/fence_of_no_package")));
}

#[test]
fn levels_are_in_order_and_a_device_for_this_member_is_for_the_others() {
    let device = |name: &str, members: &str, level: u8| {
        format!(
            "fence \"{name}\" {{\n  agent = \"/bin/sh\"\n  members = [{members}]\n  level = {level}\n}}\n"
        )
    };
    let own = &load(GOOD).config.node_id;
    let own = format!("\"{own}\", \"b\"");
    let text =
        format!("{GOOD}{}{}{}", device("pdu", &own, 3), device("one", &own, 2), device("two", "\"b\"", 2));
    let loaded = load(&text);
    assert_eq!(loaded.config.fence_targets(), ["b"]);
    let levels: Vec<Vec<&str>> = loaded
        .config
        .fence_levels("b")
        .iter()
        .map(|level| level.iter().map(|device| device.name.as_str()).collect())
        .collect();
    assert_eq!(levels, [vec!["one", "two"], vec!["pdu"]]);
}

#[test]
fn a_password_comes_from_a_file_of_its_own_and_shows_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipmi");
    std::fs::write(&path, "hunter2-of-the-controller\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let loaded = load(&format!(
        "{GOOD}fence \"x\" {{\n  agent = \"/bin/sh\"\n  member = \"b\"\n  params {{\n    ip = \"10.0.9.1\"\n    lanplus = true\n    ipport = 623\n    identity_file = \"/etc/holdfast/id\"\n    password_file = \"{}\"\n  }}\n}}\n",
        path.display()
    ));
    let params: Vec<(&str, &str)> =
        loaded.config.fences[0].params.iter().map(|(key, value)| (key.as_str(), value.expose())).collect();
    assert_eq!(
        params,
        [
            ("ip", "10.0.9.1"),
            ("lanplus", "1"),
            ("ipport", "623"),
            ("identity_file", "/etc/holdfast/id"),
            ("password", "hunter2-of-the-controller"),
        ]
    );
    for shown in [format!("{:?}", loaded.config), explain(&loaded)] {
        assert!(!shown.contains("hunter2") && !shown.contains("10.0.9.1"), "{shown}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_mend() {
    let block = |lines: &str| format!("{GOOD}fence \"x\" {{\n{lines}\n}}\n");
    let agent = "  agent = \"/bin/sh\"\n";
    for (lines, what) in [
        ("  member = \"b\"".to_owned(), "says with `agent` what switches the member off"),
        (agent.to_owned(), "says with `member` whom it can switch off"),
        ("  agent = \"a b\"\n  member = \"b\"".to_owned(), "is not the name of a fence agent"),
        (format!("{agent}  member = \"b\"\n  members = [\"c\"]"), "are both given"),
        (format!("{agent}  members = [\"b\", \"c\"]\n  plugs = [\"1\"]"), "1 plugs for 2 members"),
        (format!("{agent}  members = [\"b\", \"b\"]"), "given twice"),
        (format!("{agent}  members = [\"b\"]\n  plug = \"1\""), "`plug` goes with `member`"),
        (format!("{agent}  member = \"b\"\n  level = 10"), "`level` is out of range"),
        (format!("{agent}  member = \"b\"\n  timeout = \"10ms\""), "cannot be used for a fence device"),
        (format!("{agent}  member = \"b\"\n  action = \"on\""), "`action` cannot be \"on\""),
        (format!("{agent}  member = \"b\"\n  pasword = \"hunter2\""), "unknown key `pasword`"),
        (format!("{agent}  member = \"b\"\n  params {{\n    action = \"on\"\n  }}"), "is not for `params`"),
        (
            format!("{agent}  member = \"b\"\n  params {{\n    password = \"hunter2\\nx=y\"\n  }}"),
            "more than one line",
        ),
    ] {
        let said = refuse(&block(&lines)).to_string();
        assert!(said.contains(what), "{what}\n{said}");
        assert!(said.contains("some.hcl") || said.contains(".hcl:"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_pair_that_fences_needs_a_device_for_the_other_half() {
    let said = refuse(&pair("fence", "")).to_string();
    assert!(said.contains("no `fence` block is for the other member"), "{said}");
    let own = &load(GOOD).config.node_id;
    let itself = format!("fence \"x\" {{\n  agent = \"/bin/sh\"\n  member = \"{own}\"\n}}\n");
    let said = refuse(&pair("fence", &itself)).to_string();
    assert!(said.contains("no `fence` block is for the other member"), "{said}");

    let other = "fence \"x\" {\n  agent = \"/bin/sh\"\n  member = \"b\"\n}\n";
    let loaded = load(&pair("fence", other));
    assert_eq!(loaded.config.ha.two_node, TwoNode::Fence);
    let text = explain(&loaded);
    assert!(text.contains("a standby waits 5s before it shoots"), "{text}");
    assert!(text.contains("added to the outage: what the device takes, 94s at most"), "{text}");
    assert!(text.contains("Two voters, policy fence"), "{text}");
}
