//! Replicated files: what the blocks default to, and what is refused.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_config::explain;

use crate::{GOOD, load, messages, refuse, with};

fn block(name: &str, lines: &str) -> String {
    format!("sync_files \"{name}\" {{\n{lines}\n}}\n")
}

#[test]
fn a_block_has_limits_and_says_them() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap();
    let here = here.to_str().unwrap();
    let one = block("dhcp", &format!("paths = [\"{here}/a/\", \"{here}/b\"]\nexclude = [\"*.tmp\"]"));
    let other = block(
        "dns",
        &format!(
            "paths = [\"{here}/c\"]\non_change = \"/bin/true\"\non_takeover = [\"/bin/true\", \"x\"]\ntimeout = 3\nveto = true\nmax_file_size = \"1MiB\"\nmax_files = 9\nrescan_interval = \"5s\""
        ),
    );
    let loaded = load(&format!("{GOOD}{one}{other}"));
    assert!(loaded.warnings.is_empty(), "{:?}", messages(&loaded));
    let [dhcp, dns] = loaded.config.sync_files.as_slice() else { panic!("two blocks") };
    assert_eq!(dhcp.paths, [PathBuf::from(format!("{here}/a")), PathBuf::from(format!("{here}/b"))]);
    assert_eq!((dhcp.max_file_bytes, dhcp.max_files, dhcp.veto), (16 << 20, 4096, false));
    assert!(dhcp.names(&format!("{here}/a/x")) && !dhcp.names(&format!("{here}/a/x.tmp")));
    assert_eq!((dns.max_file_bytes, dns.max_files, dns.veto), (1 << 20, 9, true));
    assert_eq!((dns.timeout, dns.rescan_interval), (Duration::from_secs(3), Duration::from_secs(5)));
    let text = explain(&loaded);
    assert!(text.contains("at most 9 files of 1MiB each"), "{text}");
    assert!(text.contains("files dns                 at most 3s, may veto: /bin/true …"), "{text}");
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_line_and_the_mend() {
    let paths = |list: &str| block("x", &format!("paths = [{list}]"));
    let cases = [
        (block("x", ""), "has no `paths`", "paths = ["),
        (paths(""), "`paths` is empty", "name a file"),
        (paths("\"etc/x\""), "not an absolute path", "write the whole path"),
        (paths("\"/\""), "the whole host", "name the directories"),
        (paths("\"/srv/../etc\""), "`..`", "realpath"),
        (paths("\"/srv//x\""), "an empty part", "realpath"),
        (paths("\"/srv/./x\""), "`.`", "realpath"),
        (paths("\"/proc/sys\""), "is the kernel's", "on a disk"),
        (paths("\"/srv/a\", \"/srv/a/b\""), "overlap", "keep the one"),
        (
            paths("\"/srv/a\"") + &block("y", "paths = [\"/srv/a\"]"),
            "of sync_files \"x\" overlap",
            "keep the one",
        ),
        (paths("\"/var/lib\""), "own state", "of the service alone"),
        (paths("\"/var/lib/holdfast/store/log\""), "own state", "of the service alone"),
        (block("x", "paths = [\"/srv/a\"]\nexclude = [\"[\"]"), "is no pattern", "for any characters"),
        (block("x", "paths = [\"/srv/a\"]\nmax_file_size = \"1GiB\""), "`max_file_size`", "64MiB"),
        (block("x", "paths = [\"/srv/a\"]\nmax_files = 0"), "`max_files`", "from 1"),
        (block("x", "paths = [\"/srv/a\"]\nrescan_interval = 0.1"), "`rescan_interval` cannot be", "between"),
        (block("x", "paths = [\"/srv/a\"]\non_change = \"reload\""), "absolute path", "whole path"),
        (
            block("x", "paths = [\"/srv/a\"]\nveto = true\non_takeover = \"/srv/nothing\""),
            "every takeover",
            "chmod 755",
        ),
        (
            block("x", "paths = [\"/srv/a\"]\non_change = \"/srv/a/run\""),
            "could put any program there",
            "keep programs",
        ),
        (block("x", "path = [\"/srv/a\"]"), "`path`", "paths"),
        (block("..", "paths = [\"/srv/a\"]"), "cannot be the name", "begins with a letter"),
        (block("a b", "paths = [\"/srv/a\"]"), "cannot be the name", "1 to 63"),
    ];
    for (lines, message, mend) in cases {
        let fault = refuse(&format!("{GOOD}{lines}")).to_string();
        assert!(fault.contains(message) && fault.contains(mend), "{lines}\n{fault}");
    }
}

#[test]
fn a_link_on_the_way_and_secrets_in_reach_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap();
    std::os::unix::fs::symlink("/etc", here.join("link")).unwrap();
    let loaded = load(&format!("{GOOD}{}", block("x", &format!("paths = [\"{}/link/y\"]", here.display()))));
    assert!(messages(&loaded).join("\n").contains("link is a symbolic link"), "{:?}", messages(&loaded));

    let secret = here.join("secret");
    std::fs::write(&secret, "a long enough secret").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let line = "  node_id = \"a\"";
    let more = format!("{line}\n  previous_secret_key_files = [\"{}\"]", secret.display());
    let text = with(line, &more);
    let text = format!("{text}{}", block("x", &format!("paths = [\"{}\"]", here.display())));
    let fault = refuse(&text).to_string();
    assert!(fault.contains("own configuration and secrets"), "{fault}");
}
