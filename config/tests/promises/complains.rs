//! What cannot be meant is refused, with the place, the line and the mend.

use crate::{GOOD, refuse, with};

/// The rendered fault shows `place` (line:column), the source line, a caret, the message and the mend.
#[track_caller]
fn complains(text: &str, place: &str, excerpt: &str, message: &str, mend: &str) {
    let error = refuse(text);
    let rendered = error.to_string();
    let at = format!("--> holdfast.hcl:{place}\n");
    let fault = error
        .faults()
        .iter()
        .map(ToString::to_string)
        .find(|fault| fault.contains(&at) && fault.contains(message))
        .unwrap_or_else(|| panic!("no fault at {place} says {message:?}:\n{rendered}"));
    assert!(fault.contains(excerpt), "the excerpt {excerpt:?} is missing:\n{fault}");
    assert!(fault.contains("^"), "no caret:\n{fault}");
    assert!(fault.contains("= help: "), "no mend:\n{fault}");
    assert!(fault.contains(mend), "the mend {mend:?} is missing:\n{fault}");
    assert!(rendered.contains(&fault), "the whole error shows each fault");
}

/// The place of `needle` in `text`, as line:column.
fn place(text: &str, needle: &str) -> String {
    let at = text.find(needle).unwrap_or_else(|| panic!("{needle:?} is not in the text"));
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    format!("{}:{}", text[..at].matches('\n').count() + 1, text[line_start..at].chars().count() + 1)
}

/// One line of [`GOOD`] replaced, and the complaint that points at `needle` in it.
#[track_caller]
fn spoilt(line: &str, instead: &str, needle: &str, message: &str, mend: &str) {
    let text = with(line, instead);
    let first = text.find(needle).map(|at| text[at..].lines().next().unwrap()).unwrap_or_default();
    // The value of a key that nobody knows is starred.
    let first = first.split('=').next().unwrap_or_default();
    complains(&text, &place(&text, needle), first, message, mend);
}

#[test]
fn a_complaint_looks_like_this() {
    let error = refuse(&with("    enabled = true", "    enabled = true\n    heartbeat_intervall = 1"));
    assert_eq!(
        error.to_string(),
        "error: unknown key `heartbeat_intervall` in block `replication.ha`\n  \
         --> holdfast.hcl:10:5\n   \
         |\n\
         10 |     heartbeat_intervall = 1\n   \
         |     ^^^^^^^^^^^^^^^^^^^\n  \
         = help: did you mean `heartbeat_interval`? write `heartbeat_interval` instead\n\n\
         one thing to change; nothing was started or altered"
    );
}

#[test]
fn all_that_is_wrong_is_said_in_one_run_and_in_order() {
    let text = with("  mode = \"primary\"", "  mode = \"primry\"")
        .replace("10.0.0.2:9001", "db2:9001")
        .replace("enabled = true", "enabled = 1")
        .replace("10.0.0.100/24", "10.0.0.1/24");
    let error = refuse(&text);
    let lines: Vec<usize> = error.faults().iter().map(|fault| fault.position.line).collect();
    assert_eq!(lines, [2, 5, 9], "{error}");
    let error = refuse(&text.replace("primry", "primary"));
    let lines: Vec<usize> = error.faults().iter().map(|fault| fault.position.line).collect();
    assert_eq!(lines, [5, 9, 11], "{error}");
}

#[test]
fn a_missing_secret_names_both_ways_to_give_one() {
    let text = with("  secret_key = \"correct horse battery staple\"\n", "");
    for mend in ["secret_key_file = \"/etc/holdfast/secret\"", "or `secret_key = "] {
        complains(&text, "1:1", "replication {", "there is no shared secret", mend);
    }
}

#[test]
fn unknown_keys_are_put_right() {
    let key = "  node_id = \"a\"";
    spoilt(key, "  nodeid = \"a\"", "nodeid", "unknown key `nodeid`", "did you mean `node_id`?");
    spoilt(
        key,
        "  priority = 5",
        "priority",
        "unknown key `priority`",
        "move `priority` to block `replication.ha`",
    );
    spoilt(
        key,
        "  prioritty = 5",
        "prioritty",
        "unknown key",
        "did you mean `priority`? it belongs in block `replication.ha`",
    );
    spoilt(
        key,
        "  colour = 5",
        "colour",
        "unknown key `colour`",
        "remove it; block `replication` knows ack, batch_size",
    );
    let text = format!("{GOOD}stor {{\n}}\n");
    complains(
        &text,
        &place(&text, "stor {"),
        "stor {",
        "unknown key `stor` in the file",
        "did you mean `store`?",
    );
    spoilt(
        "      interface = \"eth1\"",
        "      interface = \"eth1\"\n      vlan = 7",
        "vlan",
        "unknown key `vlan` in block `replication.ha.virtual_ip`",
        "knows address, arp_ping",
    );
}

#[test]
fn blocks_and_attributes_are_told_apart() {
    let text = with("    enabled = true", "    conntrack_sync = { enabled = true }");
    complains(
        &text,
        "9:5",
        "conntrack_sync",
        "`conntrack_sync` is a block, not an attribute",
        "write `conntrack_sync {`",
    );
    spoilt(
        "  node_id = \"a\"",
        "  node_id {\n  }",
        "node_id",
        "`node_id` is an attribute, not a block",
        "write `node_id = …`",
    );
    spoilt(
        "    virtual_ip {",
        "    virtual_ip \"main\" {",
        "virtual_ip",
        "block `virtual_ip` takes no name",
        "write `virtual_ip {`",
    );
    let text = format!("{GOOD}check {{\n}}\n");
    complains(
        &text,
        &place(&text, "check {"),
        "check {",
        "block `check` takes exactly one name",
        "write `check \"a-name\" {`",
    );
}

#[test]
fn what_is_given_twice_is_refused() {
    spoilt(
        "  node_id = \"a\"",
        "  node_id = \"a\"\n  mode = \"replica\"",
        "mode = \"replica\"",
        "`mode` is given twice in the same block",
        "keep one of the two lines",
    );
    let text = format!("{GOOD}store {{\n  max_connections = 5\n}}\n");
    complains(
        &text,
        "20:1",
        "store {",
        "block `store` is given twice",
        "move its lines into the first `store` block",
    );
    let text = format!("{GOOD}check \"x\" {{\n}}\ncheck \"x\" {{\n}}\n");
    complains(&text, "22:1", "check \"x\" {", "two `check` blocks have the name \"x\"", "another name");
}

#[test]
fn a_crowded_one_line_block_is_written_out() {
    let text = format!("{GOOD}api {{ listen = \"127.0.0.1:8080\" token_file = \"/etc/t\" }}\n");
    let written = "          api {\n            listen = \"127.0.0.1:8080\"\n            token_file = \"/etc/t\"\n          }";
    complains(&text, "20:5", "api { listen", "takes one attribute at most", written);
    let text = format!("{GOOD}api {{ listen = \"127.0.0.1:8080\", token_file = \"/etc/t\" }}\n");
    complains(&text, "20:5", "api { listen", "takes one attribute at most", written);
    let text = with(
        "    enabled = true",
        "    heartbeat_path \"x\" { listen = \"10.1.0.1\" peers = [\"10.1.0.2\", \"10.1.0.3\"] }",
    );
    complains(
        &text,
        "9:24",
        "heartbeat_path",
        "takes one attribute at most",
        "  peers = [\"10.1.0.2\", \"10.1.0.3\"]\n",
    );
    let text = "replication {\n  ha { virtual_ip { address = \"10.0.0.100/24\" } }\n}\n";
    complains(
        text,
        "2:6",
        "ha { virtual_ip",
        "takes one attribute at most",
        "          ha {\n            virtual_ip {\n",
    );
    // With a single attribute it is proper HCL.
    crate::load(&format!("{GOOD}api {{ listen = \"127.0.0.1:8080\" }}\n"));
}

#[test]
fn common_slips_of_syntax_are_explained() {
    complains(
        "replication {\n  mode: \"primary\"\n}\n",
        "2:7",
        "mode: \"primary\"",
        "this is not HCL",
        "write `mode = …`",
    );
    complains(
        "replication {\n  mode = \"primary\",\n}\n",
        "2:19",
        "mode = \"primary\",",
        "this is not HCL",
        "remove it: attributes stand on lines of their own",
    );
    complains(
        "replication {\n  listen_addr = 10.0.0.1:9001\n}\n",
        "2:25",
        "listen_addr",
        "this is not HCL",
        "write `listen_addr = \"10.0.0.1:9001\"`",
    );
    complains(
        "replication {\n  mode = \"primary\n}\n",
        "2:10",
        "mode = \"primary",
        "quotes opened here are not closed",
        "write the closing `\"`",
    );
    complains(
        "replication {\n  mode = \"primary\"\n",
        "2:19",
        "mode = \"primary\"",
        "this is not HCL",
        "close what is open",
    );
    complains("", "1:1", "", "there is no `replication` block", "write `replication {`");
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    spoilt(
        "  node_id = \"a\"",
        "  node_id = 7",
        "7\n",
        "`node_id` takes a text, found a number",
        "write `node_id = \"7\"`",
    );
    spoilt(
        "    enabled = true",
        "    enabled = \"yes\"",
        "\"yes\"",
        "`enabled` takes true or false, found a text",
        "write `enabled = true`",
    );
    spoilt(
        "    enabled = true",
        "    priority = \"high\"",
        "\"high\"",
        "`priority` takes a whole number",
        "write `priority = 0`",
    );
    spoilt(
        "    enabled = true",
        "    priority = -1",
        "-1",
        "`priority` is out of range",
        "from 0 to 4294967295",
    );
    spoilt("    enabled = true", "    heartbeat_port = 70000", "70000", "out of range", "from 1 to 65535");
    spoilt(
        "[\"10.0.0.2:9001\"]",
        "\"10.0.0.2:9001\"",
        "\"10.0.0.2:9001\"",
        "`peer_addrs` takes a list, found a text",
        "write `peer_addrs = [\"10.0.0.2:9001\"]`",
    );
    spoilt(
        "[\"10.0.0.2:9001\"]",
        "[10]",
        "10]",
        "`peer_addrs` takes a list of texts, found a number",
        "write `peer_addrs = [",
    );
    spoilt("\"10.0.0.1:9001\"", "own_address", "own_address", "found an expression", "write the plain value");
    spoilt("\"a\"", "\"${host}\"", "\"${host}\"", "found a template", "write `$${` for `${`");
    spoilt("\"a\"", "null", "null", "found null", "remove the line for the default");
    spoilt(
        "    enabled = true",
        "    lease = \"5 parsecs\"",
        "\"5 parsecs\"",
        "`lease` is not a duration: its unit is unknown",
        "\"250ms\"",
    );
    spoilt(
        "    enabled = true",
        "    lease = true",
        "true\n",
        "`lease` takes a duration",
        "write `lease = \"1s\"`",
    );
    spoilt("    enabled = true", "    lease = -3", "-3", "`lease` is not a duration", "write seconds");
    spoilt(
        "    enabled = true",
        "    failback_mode = \"automatic\"",
        "\"automatic\"",
        "`failback_mode` cannot be \"automatic\"",
        "write one of \"auto\", \"manual\", \"disabled\"",
    );
    spoilt(
        "  root_access_key = \"admin\"",
        "  root_access_key = \"admin\"\n  segment_size = \"1KiB\"",
        "\"1KiB\"",
        "`segment_size` is not a size",
        "from \"64KiB\" to \"4GiB\"",
    );
    spoilt(
        "  node_id = \"a\"",
        "  state_dir = \"state\"",
        "\"state\"",
        "`state_dir` must be an absolute path",
        "write the whole path",
    );
    spoilt("\"a\"", "\"a b\"", "\"a b\"", "cannot be the name of a member", "1 to 63 characters");
}

#[test]
fn impossible_timers_are_refused() {
    let line = "    enabled = true";
    spoilt(
        line,
        "    heartbeat_interval = 0",
        "0\n    virtual",
        "`heartbeat_interval` 0s is too short",
        "write at least \"5ms\"",
    );
    spoilt(
        line,
        "    heartbeat_interval = 0.004",
        "0.004",
        "`heartbeat_interval` 4ms is too short",
        "write at least \"5ms\"",
    );
    spoilt(
        line,
        "    failure_threshold = 1",
        "1\n    virtual",
        "makes one lost packet a failure",
        "write 2 or more",
    );
    spoilt(
        line,
        "    lease = \"199ms\"",
        "\"199ms\"",
        "`lease` 199ms is shorter than two heartbeat intervals of 100ms",
        "write at least \"200ms\"",
    );
    spoilt(
        line,
        "    failure_timeout = 0.1",
        "0.1\n",
        "`failure_timeout` 100ms is shorter than two",
        "write at least \"200ms\"",
    );
    spoilt(
        line,
        "    standby_timeout = 0",
        "0\n    virtual",
        "`standby_timeout` 0s is shorter than one",
        "write at least \"100ms\"",
    );
}

#[test]
fn a_watchdog_that_would_bite_a_healthy_host_is_refused() {
    let line = "    enabled = true";
    for (time, shown) in [("\"5s\"", "5s"), ("\"10.5s\"", "10.5s"), ("\"20m\"", "20m")] {
        spoilt(
            line,
            &format!("    watchdog = \"/dev/watchdog\"\n    watchdog_timeout = {time}"),
            time,
            &format!("`watchdog_timeout` {shown} is not possible"),
            "write whole seconds from \"10s\" to \"10m\"",
        );
    }
}

#[test]
fn members_that_cannot_be_meant_are_refused() {
    let peers = "peer_addrs = [\"10.0.0.2:9001\"]";
    spoilt(
        peers,
        "peer_addrs = [\"10.0.0.2:9001\", \"10.0.0.2:9002\"]",
        "\"10.0.0.2:9002\"",
        "10.0.0.2 is given twice among the peers",
        "remove one of the two",
    );
    spoilt(
        peers,
        "peer_addrs = [\"10.0.0.2:9001\", \"10.0.0.1:9001\"]",
        "\"10.0.0.1:9001\"]",
        "this member's own address",
        "remove it here",
    );
    spoilt(
        peers,
        "peer_addrs = [\"10.0.0.3:9001\"]",
        "\"10.0.0.3:9002\"",
        "both as a data peer and as a witness",
        "a member votes once",
    );
    spoilt(
        peers,
        "peer_addrs = [\"db2.lan:9001\"]",
        "\"db2.lan:9001\"",
        "names the host \"db2.lan\"",
        "names are not looked up",
    );
    spoilt(peers, "peer_addrs = [\"10.0.0.2:0\"]", "\"10.0.0.2:0\"", "port 0", "write \"10.0.0.2:9001\"");
    spoilt(
        peers,
        "peer_addrs = [\"0.0.0.0:9001\"]",
        "\"0.0.0.0:9001\"",
        "a peer cannot have the address 0.0.0.0",
        "the peer's own address",
    );
    spoilt(
        peers,
        "peer_addrs = [\"[fd00::2]:9001\"]",
        "\"[fd00::2]:9001\"",
        "one is IPv4, the other IPv6",
        "of the same kind",
    );
    spoilt(peers, "peer_addrs = [\"fe80::2\"]", "\"fe80::2\"", "link-local", "every member can route to");
    spoilt(
        peers,
        "peer_addr = \"10.0.0.2:9001\"\n  primary_addr = \"10.0.0.2:9111\"",
        "\"10.0.0.2:9111\"",
        "two replication addresses",
        "write \"10.0.0.2:9001\" here",
    );
    spoilt(
        "listen_addr = \"10.0.0.1:9001\"",
        "",
        "replication {",
        "`listen_addr` is missing",
        "write this member's own address",
    );
    spoilt("  mode = \"primary\"\n", "", "replication {", "`mode` is missing", "write `mode = \"primary\"`");
    let text = with("  node_id = \"a\"\n", "").replace("10.0.0.1:9001", "0.0.0.0:9001");
    complains(&text, "3:17", "0.0.0.0:9001", "gives this member no name", "add `node_id = ");
    let text = with("  mode = \"primary\"", "  mode = \"replica\"")
        .replace("  peer_addrs = [\"10.0.0.2:9001\"]\n  witness_addrs = [\"10.0.0.3:9002\"]\n", "");
    complains(&text, "2:10", "mode = \"replica\"", "a replica without any peer", "add `peer_addrs = ");
    let many: Vec<String> = (2..11).map(|n| format!("\"10.0.1.{n}\"")).collect();
    spoilt(
        peers,
        &format!("peer_addrs = [{}]", many.join(", ")),
        "\"10.0.1.10\"",
        "more than 9 members",
        "clusters of their own",
    );
}

#[test]
fn virtual_addresses_that_cannot_work_are_refused() {
    let line = "      address = \"10.0.0.100/24\"";
    spoilt(
        line,
        "      address = \"10.0.0.1/24\"",
        "\"10.0.0.1/24\"",
        "is this member's own",
        "an address that no host has",
    );
    spoilt(
        line,
        "      address = \"10.0.0.2/24\"",
        "\"10.0.0.2/24\"",
        "is the own address of peer 10.0.0.2",
        "an address that no host has",
    );
    spoilt(
        line,
        "      address = \"10.0.0.3/24\"",
        "\"10.0.0.3/24\"",
        "is the own address of witness",
        "an address that no host has",
    );
    spoilt(
        line,
        "      address = \"10.0.0.100\"",
        "\"10.0.0.100\"",
        "is not an address with the prefix",
        "write \"10.0.0.100/24\"",
    );
    spoilt(
        line,
        "      address = \"10.0.0.100/33\"",
        "\"10.0.0.100/33\"",
        "is not an address with the prefix",
        "write it like",
    );
    spoilt(
        line,
        "      address = \"10.0.0.255/24\"",
        "\"10.0.0.255/24\"",
        "cannot be the address of a host",
        "that clients use",
    );
    spoilt(line, "", "virtual_ip {", "`virtual_ip` has no `address`", "write `address = ");
    spoilt(
        "      interface = \"eth1\"\n",
        "",
        "virtual_ip {",
        "`virtual_ip` has no `interface`",
        "write the interface",
    );
    spoilt(
        "      interface = \"eth1\"",
        "      interface = \"an-interface-too-long\"",
        "\"an-interface",
        "cannot be the name of an interface",
        "as `ip link` shows it",
    );
    let twice = "    virtual_ip {\n      address = \"10.0.0.100/32\"\n      interface = \"eth2\"\n    }\n    virtual_ip {";
    spoilt(
        "    virtual_ip {",
        twice,
        "\"10.0.0.100/24\"",
        "10.0.0.100 is given twice",
        "remove one of the two",
    );
}

#[test]
fn a_witness_has_neither_store_nor_virtual_address() {
    let text = with("  mode = \"primary\"", "  mode = \"witness\"");
    complains(&text, "16:1", "store {", "a witness has no store", "remove the `store` block");
    complains(
        &text,
        "11:17",
        "10.0.0.100/24",
        "a witness never holds a virtual address",
        "remove the `virtual_ip` block",
    );
}

#[test]
fn heartbeat_paths_that_cannot_line_up_are_refused() {
    let path = |listen: &str, peers: &str| {
        format!("    heartbeat_path \"x\" {{\n      listen = {listen}\n      peers = {peers}\n    }}")
    };
    let line = "    enabled = true";
    spoilt(
        line,
        &path("\"10.1.0.1\"", "[]"),
        "[]",
        "names 0 peers, and there are 2",
        "in this order: 10.0.0.2, 10.0.0.3",
    );
    spoilt(
        line,
        &path("\"10.0.0.1\"", "[\"10.0.0.9\"]"),
        "\"10.0.0.1\"\n",
        "two heartbeat paths listen on 10.0.0.1:9002",
        "another network",
    );
    spoilt(
        line,
        &path("\"10.1.0.1\"", "[\"10.1.0.1\"]"),
        "\"10.1.0.1\"]",
        "is not the address of a peer",
        "the peer's address on this path",
    );
    spoilt(
        line,
        "    heartbeat_path \"x\" {\n    }",
        "heartbeat_path",
        "has no `listen`",
        "write this member's address",
    );
    spoilt(
        line,
        "    heartbeat_path \"x\" {\n    }",
        "heartbeat_path",
        "has no `peers`",
        "write the peers' addresses",
    );
}

#[test]
fn listeners_on_one_port_are_refused() {
    let text = format!("{GOOD}api {{ listen = \"127.0.0.1:9000\" }}\n");
    complains(&text, "20:16", "127.0.0.1:9000", "both listen on port 9000", "write another port");
}

#[test]
fn half_a_pair_of_credentials_is_refused() {
    spoilt(
        "  root_secret_key = \"change-me-please\"\n",
        "",
        "root_access_key",
        "given without its secret",
        "root_secret_key_file",
    );
    spoilt(
        "  root_access_key = \"admin\"\n",
        "",
        "root_secret_key",
        "without `root_access_key`",
        "add `root_access_key",
    );
    let text = with("  node_id = \"a\"", "  secret_key_file = \"/etc/holdfast/secret\"");
    complains(&text, "7:16", "  secret_key = \"***", "both given", "keep `secret_key_file`");
}

/// A check with these lines, and the complaint that points at `needle`.
#[track_caller]
fn bad_check(lines: &str, needle: &str, message: &str, mend: &str) {
    let text = format!("{GOOD}check \"web\" {{\n  {lines}\n}}\n");
    let at = text.rfind(needle).unwrap_or_else(|| panic!("{needle:?} is not in the text"));
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let place = format!("{}:{}", text[..at].matches('\n').count() + 1, at - line_start + 1);
    complains(&text, &place, needle.lines().next().unwrap(), message, mend);
}

#[test]
fn a_check_looks_at_exactly_one_thing() {
    bad_check(
        "interval = 1",
        "check \"web\"",
        "has nothing to look at",
        "exec = [\"/usr/local/bin/check-it\"",
    );
    bad_check(
        "tcp = \"a:1\"\n  unit = \"a.service\"",
        "unit",
        "`tcp` and `unit`",
        "a `check` block for each",
    );
    bad_check(
        "tcp = \"a:1\"\n  status = \"200\"",
        "status",
        "belongs to a check with `http`",
        "remove the line",
    );
    bad_check(
        "tcp = \"a:1\"\n  colour = \"blue\"",
        "colour",
        "unknown key `colour`",
        "remove it; block `check` knows",
    );
}

#[test]
fn what_a_check_cannot_look_at_is_refused() {
    bad_check("exec = [\"check-it\"]", "\"check-it\"", "absolute path of a program", "no shell in between");
    bad_check("exec = []", "[]", "`exec` is empty", "write the whole path");
    bad_check("tcp = \"127.0.0.1\"", "\"127.0.0.1\"", "is not a host with a port", "127.0.0.1:5432");
    bad_check("http = \"https://a/\"", "\"https", "speak plain http", "/usr/bin/curl");
    bad_check(
        "http = \"localhost\"",
        "\"localhost",
        "not a URL that can be asked for",
        "http://127.0.0.1:8081",
    );
    bad_check("http = \"http://a\"\n  status = \"2xx\"", "\"2xx\"", "is not a status", "\"200..399\"");
    bad_check("file = \"ready\"", "\"ready\"", "must be an absolute path", "write the whole path");
    bad_check("process = \"/usr/sbin/nginx\"", "\"/usr", "not the name of a process", "without its folder");
    bad_check("unit = \"nginx\"", "\"nginx\"", "not the name of a systemd unit", "nginx.service");
    bad_check("unit = \"-H.service\"", "\"-H", "not the name of a systemd unit", "nginx.service");
}

#[test]
fn the_user_and_password_of_a_url_are_not_repeated() {
    let text = format!("{GOOD}check \"web\" {{\n  http = \"http://u:hunter2@a/\"\n}}\n");
    let error = refuse(&text);
    let said = error.to_string();
    assert!(said.contains("is not a URL") && !said.contains("hunter2"), "{said}");
}

#[test]
fn the_times_and_counts_of_a_check_are_bounded() {
    let tcp = "tcp = \"a:1\"\n  ";
    bad_check(&format!("{tcp}interval = \"1ms\""), "\"1ms\"", "`interval` 1ms", "from \"100ms\" to \"1h\"");
    bad_check(&format!("{tcp}timeout = 11"), "11", "`timeout` 11s", "10 times the check's `interval`");
    bad_check(&format!("{tcp}fall = 0"), "0", "`fall` is out of range", "from 1 to 100");
    bad_check(&format!("{tcp}weight = 255"), "255", "`weight` is out of range", "from 1 to 254");
    spoilt(
        "  root_access_key = \"admin\"",
        "  root_access_key = \"admin\"\n  disk_timeout = \"10ms\"",
        "\"10ms\"",
        "cannot tell a stalled disk from a busy one",
        "\"5s\" is usual",
    );
}
