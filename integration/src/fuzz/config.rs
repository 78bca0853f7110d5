//! The configuration: any text loads or is refused with places inside it, and nothing that is printed depends
//! on a secret.

use holdfast_config::{Config, ConfigError, Loaded, Secret, explain};

use super::Target;

/// The target.
pub const TARGET: Target = Target { name: "config", run, seeds, max_len: 1024, memory_bytes: 64 << 20 };

/// Stands in the seeds where a secret stands. Where an input has it as the value of such a key, it is asked
/// whether the outcome shows it.
const MARKER: &str = "hunter2hunter2";
/// No directory: an input that names a file of a secret is not to find one.
const NAME: &str = "/nonexistent/holdfast.hcl";

fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let hidden = only_as_a_secret(text);
    let outcome = Config::parse(NAME, text);
    let accepted = outcome.is_ok();
    match outcome {
        Ok(loaded) => holds(text, &loaded, hidden),
        Err(error) => points_into(text, &error, hidden),
    }
    accepted
}

/// Whether the marker is in the text, and only where a secret is to stand: `secret_key = "MARKER"` alone on a line.
fn only_as_a_secret(text: &str) -> bool {
    let mut found = false;
    for line in text.lines().filter(|line| line.contains(MARKER)) {
        let Some((key, value)) = line.split_once('=') else { return false };
        let known = ["secret_key", "root_secret_key", "token"].contains(&key.trim());
        if !known || value.trim() != format!("\"{MARKER}\"") {
            return false;
        }
        found = true;
    }
    found
}

fn shows_no_marker(hidden: bool, shown: &str) {
    assert!(!hidden || !shown.contains(MARKER), "a secret is shown:\n{shown}");
}

/// What loads can be used without another check, and is printed alike whatever its secrets are.
fn holds(text: &str, loaded: &Loaded, hidden: bool) {
    let config = &loaded.config;
    assert!(!config.node_id.is_empty() && config.node_id.len() <= 63);
    assert!(!config.heartbeat_paths.is_empty() && config.heartbeat_paths.len() <= holdfast_config::MAX_PATHS);
    assert!(config.voters() <= holdfast_config::MAX_MEMBERS && config.quorum() * 2 > config.voters());
    assert!(config.keys.signing.len_bytes() >= holdfast_config::SHORTEST_SECRET_BYTES);
    assert!(config.ha.lease() >= config.ha.heartbeat_interval * 2);
    assert!(config.ha.failure_threshold >= 2 && !config.ha.heartbeat_interval.is_zero());
    assert!(config.state_dir.is_absolute());
    for warning in &loaded.warnings {
        inside(text, warning.position.line, warning.position.column);
        shows_no_marker(hidden, &warning.to_string());
    }
    let printed = (explain(loaded), format!("{loaded:?}"));
    shows_no_marker(hidden, &printed.0);
    shows_no_marker(hidden, &printed.1);
    let mut other = loaded.clone();
    exchange_secrets(&mut other.config);
    assert_eq!(printed, (explain(&other), format!("{other:?}")), "what is printed depends on a secret");
}

fn exchange_secrets(config: &mut Config) {
    let other = |secret: &mut Secret| {
        *secret = Secret::new(
            secret.expose().chars().map(|c| if c == 'x' { 'y' } else { 'x' }).collect::<String>(),
        );
    };
    other(&mut config.keys.signing);
    config.keys.previous.iter_mut().for_each(other);
    if let Some(root) = config.store.as_mut().and_then(|store| store.root.as_mut()) {
        other(&mut root.secret_key);
    }
    config.api.token.iter_mut().for_each(other);
}

/// Each fault has a place in the text, says something, and says what to do.
fn points_into(text: &str, error: &ConfigError, hidden: bool) {
    assert!(!error.faults().is_empty(), "refused without a reason");
    for fault in error.faults() {
        inside(text, fault.position.line, fault.position.column);
        assert!(!fault.message.is_empty() && !fault.mend.is_empty(), "{fault:?}");
    }
    shows_no_marker(hidden, &error.to_string());
    shows_no_marker(hidden, &format!("{error:?}"));
}

/// Lines and columns count from one; the end of a line, and of the text, are places too.
fn inside(text: &str, line: usize, column: usize) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let found = line.checked_sub(1).and_then(|line| text.split('\n').nth(line));
    let found = found.unwrap_or_else(|| panic!("line {line} is not in the text"));
    assert!((1..=found.chars().count() + 1).contains(&column), "column {column} is not in line {line}");
}

fn seeds() -> Vec<Vec<u8>> {
    let replication = |rest: &str| {
        format!(
            "replication {{\n  mode = \"primary\"\n  listen_addr = \"10.0.0.1:9001\"\n  peer_addr = \"10.0.0.2:9001\"\n  \
             secret_key = \"{MARKER}\"\n{rest}}}\n"
        )
    };
    let plain = replication("");
    let witness =
        replication("  witness_addrs = [\"10.0.0.3:9002\"]\n  state_dir = \"/s\"\n  node_id = \"a\"\n");
    let ha = |inside: &str| replication(&format!("  ha {{\n{inside}  }}\n"));
    let vip = "    virtual_ip {\n      address = \"10.0.0.100/24\"\n      interface = \"eth1\"\n    }\n";
    let mut seeds = vec![
        plain.clone(),
        witness,
        ha(vip),
        ha(
            "    priority = 5\n    failback_mode = \"manual\"\n    failback_delay = \"5m\"\n    failback_window = 60\n",
        ),
        ha(
            "    heartbeat_interval = 0.1\n    failure_threshold = 3\n    failure_timeout = \"300ms\"\n    lease = 0.3\n",
        ),
        ha(
            "    two_node = \"manual\"\n    gate = \"none\"\n    flight_recorder = false\n    realtime = true\n",
        ),
        ha(
            "    monitor_links = [\"eth0\"]\n    monitor_gateways = [\"10.0.0.254\"]\n    standby_timeout = 1\n",
        ),
        ha(
            "    heartbeat_path \"two\" {\n      listen = \"10.1.0.1\"\n      peers = [\"10.1.0.2\"]\n    }\n",
        ),
        ha(
            "    hook \"h\" {\n      on = [\"primary\"]\n      exec = [\"/bin/true\"]\n      timeout = 5\n    }\n",
        ),
        ha(
            "    pre_failover_script = \"/bin/true\"\n    post_failover_script = \"/bin/true\"\n    hook_timeout = 5\n",
        ),
    ];
    let beside = [
        format!("store {{\n  data_dir = \"/d\"\n  root_access_key = \"admin\"\n  root_secret_key = \"{MARKER}\"\n}}\n"),
        "store {\n  segment_size = \"4MiB\"\n  max_connections = 9\n  disk_timeout = 2\n}\n".to_owned(),
        format!("api {{\n  listen = \"127.0.0.1:8080\"\n  token = \"{MARKER}\"\n}}\n"),
        "api {\n  token_file = \"token\"\n}\n".to_owned(),
        "check \"disk\" {\n  exec = [\"/bin/true\"]\n  interval = 1\n  timeout = 1\n  rise = 2\n  fall = 2\n}\n".to_owned(),
        "check \"web\" {\n  http = \"http://127.0.0.1/\"\n  status = \"200..299\"\n  weight = 5\n}\n".to_owned(),
        "service \"s\" {\n  unit = \"nginx.service\"\n  start_timeout = 5\n  on_failure = \"demote\"\n}\n".to_owned(),
        "fence \"ipmi\" {\n}\nbackup {\n}\nsync_files \"f\" {\n}\n".to_owned(),
        "sync_files \"f\" {\n  paths = [\"/srv/x\", \"/srv/y\"]\n  exclude = [\"*.tmp\"]\n  on_change = \"/bin/true\"\n  max_files = 9\n}\n".to_owned(),
        "x = <<EOF\ntext\nEOF\ny = \"${a}%{if b}\"\n/* c */ z = [1, 2.5e3, -4, null, { a = 1 }]\n".to_owned(),
        "secret_key = \"".to_owned() + MARKER + "\"\n",
    ];
    seeds.extend(beside.iter().map(|block| format!("{plain}{block}")));
    seeds.into_iter().map(String::into_bytes).collect()
}
