//! The example configurations that are shipped: each passes `holdfast config check`, without a warning.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What an operator puts beside the configuration: file name and a content of sufficient length.
const SECRETS: [(&str, &str); 4] = [
    ("secret", "a-secret-for-tests-and-good-for-nothing-else\n"),
    ("root-secret", "a-root-secret-for-tests-alone\n"),
    ("token", "a-token-for-tests-and-good-for-nothing-else\n"),
    ("ipmi", "a-password-of-controllers\n"),
];

fn examples() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples");
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// A directory as /etc/holdfast is to be: the configuration and its secrets, for one user alone, and the hooks.
fn installed(example: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in SECRETS {
        write_private(&dir.path().join(name), content);
    }
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/hooks");
    for hook in fs::read_dir(hooks).unwrap() {
        let hook = hook.unwrap();
        let place = dir.path().join(hook.file_name());
        fs::copy(hook.path(), &place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let config = dir.path().join("holdfast.hcl");
    let there = format!("{}/", dir.path().display());
    write_private(&config, &fs::read_to_string(example).unwrap().replace("/etc/holdfast/", &there));
    (dir, config)
}

fn write_private(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn check(config: &Path) -> Output {
    let config = config.to_str().unwrap();
    Command::new(env!("CARGO_BIN_EXE_holdfast")).args(["config", "check", config]).output().unwrap()
}

#[test]
fn every_example_passes_the_check_without_a_warning() {
    let mut names = BTreeSet::new();
    for example in examples() {
        let (_dir, config) = installed(&example);
        let output = check(&config);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {stderr}", example.display());
        // The package with the agents need not be on the machine that runs the tests.
        let agents =
            |line: &str| line.contains("fence_ipmilan") && line.contains("apt-get install fence-agents");
        let others = stderr.lines().filter(|line| !line.trim().is_empty() && !agents(line));
        assert_eq!(others.count(), 0, "{}: {stderr}", example.display());
        let installed = Path::new("/usr/sbin/fence_ipmilan").exists();
        let fences = fs::read_to_string(&example).unwrap().contains("fence_ipmilan");
        assert!(stdout.contains("No warnings.") || fences && !installed, "{}: {stdout}", example.display());
        names.insert(example.file_name().unwrap().to_str().unwrap().to_owned());
    }
    let promised = [
        "pair.hcl",
        "pair-with-dhcp.hcl",
        "pair-with-fencing.hcl",
        "pair-with-haproxy.hcl",
        "pair-with-postgresql.hcl",
        "pair-with-witness-a.hcl",
        "pair-with-witness-b.hcl",
        "three-members.hcl",
        "witness.hcl",
    ];
    assert_eq!(names, promised.map(str::to_owned).into());
}

#[test]
fn an_example_without_its_secret_is_refused() {
    for example in examples() {
        let (dir, config) = installed(&example);
        fs::remove_file(dir.path().join("secret")).unwrap();
        let output = check(&config);
        assert_eq!(output.status.code(), Some(1), "{}", example.display());
        assert!(String::from_utf8_lossy(&output.stderr).contains("secret_key_file"));
    }
}
