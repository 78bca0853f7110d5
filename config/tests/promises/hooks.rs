//! Hooks and services: what they default to, what is refused, and how they are explained.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use holdfast_config::{HookEvent, OnFailure, explain};

use crate::{GOOD, load, messages, refuse, with};

/// The good file with more in its `ha` block.
fn ha(lines: &str) -> String {
    with("    enabled = true", lines)
}

/// A script of its own with these permissions.
fn script(mode: u32) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hook.sh");
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn scripts_and_hooks_keep_their_order_and_their_limits() {
    let (_dir, path) = script(0o755);
    let loaded = load(&ha(&format!(
        r#"    post_failover_script = ["{path}", "after"]
    pre_failover_script = "{path}"
    pre_failover_veto = true
    hook_timeout = "2s"
    hook "lb" {{
      on = ["primary", "standby"]
      exec = ["{path}", "x y"]
      timeout = "750ms"
    }}"#
    )));
    assert!(loaded.warnings.is_empty(), "{:?}", messages(&loaded));
    let hooks = &loaded.config.ha.hooks;
    let names: Vec<_> = hooks.iter().map(|hook| hook.name.as_str()).collect();
    assert_eq!(names, ["pre_failover_script", "post_failover_script", "lb"]);
    assert_eq!((hooks[0].veto, hooks[0].timeout), (true, Duration::from_secs(2)));
    assert_eq!(hooks[1].command, [path.clone(), "after".to_owned()]);
    assert_eq!(hooks[2].on, [HookEvent::Primary, HookEvent::Standby]);
    assert_eq!((hooks[2].veto, hooks[2].timeout), (false, Duration::from_millis(750)));
    let text = explain(&loaded);
    assert!(text.contains("hook pre_failover_script  at most 2s, may veto: "), "{text}");
    assert!(text.contains("a takeover waits for them 2s at most"), "{text}");
}

#[test]
fn a_service_has_limits_and_says_what_its_failure_means() {
    let loaded = load(&format!(
        "{GOOD}service \"web\" {{\n  unit = \"nginx.service\"\n}}\nservice \"db\" {{\n  unit = \"db@1.service\"\n  start_timeout = 3\n  on_failure = \"give_up\"\n}}\n"
    ));
    assert!(loaded.warnings.is_empty(), "{:?}", messages(&loaded));
    let [web, db] = loaded.config.services.as_slice() else { panic!("two services") };
    assert_eq!((web.unit.as_str(), web.on_failure), ("nginx.service", OnFailure::Ignore));
    assert_eq!(web.start_timeout, holdfast_config::DEFAULT_UNIT_TIMEOUT);
    assert_eq!((db.start_timeout, db.on_failure), (Duration::from_secs(3), OnFailure::GiveUp));
    let text = explain(&loaded);
    let (start, stop) = (text.find("start web").unwrap(), text.find("stop db").unwrap());
    assert!(start < text.find("start db").unwrap() && stop < text.find("stop web").unwrap(), "{text}");
}

#[test]
fn a_program_that_cannot_be_run_is_a_warning_and_with_a_veto_an_error() {
    let (_dir, path) = script(0o644);
    let wanted = format!("cannot be run (mode 644); run `chmod 755 {path}`");
    let said = messages(&load(&ha(&format!("    pre_failover_script = \"{path}\"")))).join("\n");
    assert!(said.contains(&wanted), "{said}");
    let error = refuse(&ha(&format!("    pre_failover_script = \"{path}\"\n    pre_failover_veto = true")));
    let fault = &error.faults()[0];
    assert!(fault.message.contains("every takeover would be vetoed"), "{fault}");
    assert_eq!((fault.position.line, fault.mend.as_str()), (9, format!("run `chmod 755 {path}`").as_str()));
}

#[test]
fn a_program_that_others_can_change_is_warned_about() {
    let (_dir, path) = script(0o775);
    let said = messages(&load(&ha(&format!("    post_failover_script = \"{path}\"")))).join("\n");
    assert!(said.contains(&format!("others can change {path} (mode 775)")), "{said}");
    assert!(said.contains(&format!("run `chmod go-w {path}`")), "{said}");
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_mend() {
    let hook = |lines: &str| ha(&format!("    hook \"x\" {{\n{lines}\n    }}"));
    let service = |lines: &str| format!("{GOOD}service \"x\" {{\n{lines}\n}}\n");
    let exec = "exec = [\"/bin/sh\"]";
    for (text, message, mend) in [
        (ha("    pre_failover_script = \"hook.sh\""), "must begin with an absolute path", "whole path"),
        (ha("    pre_failover_script = \"logger x\""), "must begin with an absolute path", "as a list"),
        (ha("    pre_failover_script = []"), "is empty", "whole path"),
        (ha("    pre_failover_script = 5"), "takes a list of texts, found a number", "[\"…\", \"…\"]"),
        (ha("    hook_timeout = 0"), "`hook_timeout` cannot be 0s", "between \"100ms\" and \"10m\""),
        (ha("    hook_timeout = \"1h\""), "`hook_timeout` cannot be 1h", "between"),
        (hook("on = [\"primary\"]"), "hook \"x\" has no `exec`", "write the program"),
        (hook(exec), "says with `on` when", "write `on = [\"primary\"]`"),
        (hook(&format!("{exec}\non = []")), "the hook is never run", "\"pre_standby\""),
        (hook(&format!("{exec}\non = [\"master\"]")), "no event \"master\"", "did you mean \"primary\"?"),
        (hook(&format!("{exec}\non = [\"standbye\"]")), "no event", "did you mean \"standby\"?"),
        (hook(&format!("{exec}\non = [\"stop\", \"stop\"]")), "given twice", "remove one"),
        (
            hook(&format!("{exec}\non = [\"primary\"]\nveto = true")),
            "only a hook on \"pre_primary\" can veto",
            "write `on = [\"pre_primary\"]`",
        ),
        (service("stop_timeout = 1"), "service \"x\" has no `unit`", "as `systemctl` shows it"),
        (service("unit = \"nginx\""), "not the whole name", "`unit = \"nginx.service\"`"),
        (service("unit = \"a b.service\""), "cannot be the name of a unit", "list-units"),
        (service("unit = \"holdfast.service\""), "is the agent itself", "remove the block"),
        (service("unit = \"a.service\"\non_failure = \"stop\""), "cannot be \"stop\"", "\"give_up\""),
        (
            format!("{}service \"y\" {{\n  unit = \"a.service\"\n}}\n", service("unit = \"a.service\"")),
            "service \"x\" has this unit already",
            "remove one",
        ),
    ] {
        let error = refuse(&text);
        let fault = error.faults().iter().find(|fault| fault.message.contains(message));
        let fault = fault.unwrap_or_else(|| panic!("{message:?} is not in {error}"));
        assert!(fault.mend.contains(mend), "{mend:?} is not in {fault}");
    }
}

#[test]
fn a_witness_is_told_that_nothing_follows_it() {
    let text = "replication {\n  mode = \"witness\"\n  node_id = \"w\"\n  listen_addr = \"10.0.0.3\"\n  peer_addrs = [\"10.0.0.1:9001\", \"10.0.0.2\"]\n  secret_key = \"correct horse battery staple\"\n}\nservice \"web\" {\n  unit = \"nginx.service\"\n}\n";
    let said = messages(&load(text)).join("\n");
    assert!(said.contains("a witness is never primary: its hooks and services"), "{said}");
}
