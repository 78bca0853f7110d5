//! What the configuration promises, one module a promise.

mod complains;
mod fences;
mod garbage;
mod hooks;
mod loads;
mod secrets;
mod sync_files;
mod timers;
mod virtual_ips;

use holdfast_config::{Config, ConfigError, Loaded};

/// A pair's primary with a witness: the smallest file without warnings. Each line is one to replace.
const GOOD: &str = r#"replication {
  mode = "primary"
  node_id = "a"
  listen_addr = "10.0.0.1:9001"
  peer_addrs = ["10.0.0.2:9001"]
  witness_addrs = ["10.0.0.3:9002"]
  secret_key = "correct horse battery staple"
  ha {
    enabled = true
    virtual_ip {
      address = "10.0.0.100/24"
      interface = "eth1"
    }
  }
}
store {
  root_access_key = "admin"
  root_secret_key = "change-me-please"
}
"#;

fn load(text: &str) -> Loaded {
    Config::parse("holdfast.hcl", text).unwrap_or_else(|error| panic!("{error}"))
}

fn refuse(text: &str) -> ConfigError {
    match Config::parse("holdfast.hcl", text) {
        Ok(loaded) => panic!("it loaded, with these warnings: {:#?}", loaded.warnings),
        Err(error) => error,
    }
}

/// [`GOOD`] with one line replaced by others.
fn with(line: &str, instead: &str) -> String {
    assert!(GOOD.contains(line), "{line:?} is not in the good file");
    GOOD.replacen(line, instead, 1)
}

fn messages(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(|warning| warning.to_string()).collect()
}
