//! The systemd unit of a member: installed where no package did, fitted to this host's directories, enabled and started.
//!
//! Only for a configuration in its usual place, which is where the units look. Files that a package or an operator put
//! there are left as they are.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::place::{Readers, config_name};
use super::say;
use super::token::Role;

/// Where the units look for the configuration.
pub(crate) const CONFIG_DIR: &str = "/etc/holdfast";
/// Where units of the operator are.
const OWN_UNITS: &str = "/etc/systemd/system";
/// Where units may be besides.
const UNIT_DIRS: [&str; 4] =
    [OWN_UNITS, "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// Where the units expect the program.
const PROGRAM: &str = "/usr/bin/holdfast";
/// There while systemd runs the host.
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// The user and group of the witness.
const WITNESS: &str = "holdfast-witness";

const DATA_UNIT: &str = include_str!("../../../packaging/holdfast.service");
const WITNESS_UNIT: &str = include_str!("../../../packaging/holdfast-witness.service");
const SYSUSERS: &str = include_str!("../../../packaging/sysusers.d/holdfast.conf");
const TMPFILES: &str = include_str!("../../../packaging/tmpfiles.d/holdfast.conf");

/// The unit of a member of that role.
pub(super) fn unit_name(role: Role) -> &'static str {
    match role {
        Role::Data => "holdfast.service",
        Role::Witness => "holdfast-witness.service",
    }
}

/// Whether the units are for this configuration.
fn is_usual(config_dir: &Path) -> bool {
    config_dir == Path::new(CONFIG_DIR)
}

/// Whether systemd runs this host.
pub(super) fn systemd_runs() -> bool {
    Path::new(SYSTEMD_RUNS).is_dir()
}

/// Whether `holdfast init` and `holdfast join` can start the agent by themselves.
pub(super) fn can_start(config_dir: &Path) -> bool {
    is_usual(config_dir) && systemd_runs()
}

/// Makes sure that the witness's user is there, where its unit is to run; who reads the files of a member.
///
/// # Errors
/// The user cannot be made.
pub(super) fn readers(config_dir: &Path, role: Role) -> Result<Readers> {
    if role != Role::Witness || !is_usual(config_dir) {
        return Ok(Readers::Owner);
    }
    if let Some(group) = group()? {
        return Ok(Readers::Group(group));
    }
    install("/usr/lib/sysusers.d/holdfast.conf", "/etc/sysusers.d/holdfast.conf", SYSUSERS)?;
    install("/usr/lib/tmpfiles.d/holdfast.conf", "/etc/tmpfiles.d/holdfast.conf", TMPFILES)?;
    run("systemd-sysusers", &["holdfast.conf"])?;
    run("systemd-tmpfiles", &["--create", "holdfast.conf"])?;
    let group = group()?.context(
        "systemd-sysusers made no group holdfast-witness, as which the witness runs; install the package, or make the user and its group by hand",
    )?;
    Ok(Readers::Group(group))
}

fn group() -> Result<Option<u32>> {
    let group = nix::unistd::Group::from_name(WITNESS).context("look for the group holdfast-witness")?;
    Ok(group.map(|group| group.gid.as_raw()))
}

/// Writes a file unless it, or that of the package, is there.
fn install(of_package: &str, own: &str, text: &str) -> Result<()> {
    if Path::new(of_package).exists() || Path::new(own).exists() {
        return Ok(());
    }
    write(Path::new(own), text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let context = || format!("write {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(context)?;
    }
    fs::write(path, text).with_context(context)?;
    say(&format!("Wrote {}.", path.display()));
    Ok(())
}

/// The unit with another place of the program.
fn with_program(unit: &str, program: &Path) -> String {
    unit.replace(PROGRAM, &program.display().to_string())
}

/// What a unit needs beside its own text for directories outside of its own; none where it needs nothing.
fn drop_in(role: Role, dirs: &[PathBuf]) -> Option<String> {
    let own = match role {
        Role::Data => "/var/lib/holdfast",
        Role::Witness => "/var/lib/holdfast-witness",
    };
    let outside: Vec<&PathBuf> = dirs.iter().filter(|dir| !dir.starts_with(own)).collect();
    if outside.is_empty() {
        return None;
    }
    let mut text = String::from(
        "# Written by `holdfast init` or `holdfast join`: directories outside of the unit's own.\n[Service]\n",
    );
    for dir in &outside {
        // A blank ends a path there, and a per cent sign begins what systemd replaces.
        let path = dir.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
        text.push_str(&format!("ReadWritePaths=\"{path}\"\n"));
    }
    if outside.iter().any(|dir| ["/home", "/root"].iter().any(|home| dir.starts_with(home))) {
        text.push_str("ProtectHome=no\n");
    }
    Some(text)
}

/// Installs the unit of a member whose configuration and directories are these, where that is wanted and possible.
///
/// # Errors
/// Something cannot be written, or systemd does not read its units anew.
pub(super) fn install_unit(config_dir: &Path, role: Role, dirs: &[PathBuf]) -> Result<()> {
    if !is_usual(config_dir) {
        return Ok(());
    }
    let name = unit_name(role);
    let there = UNIT_DIRS.iter().any(|dir| Path::new(dir).join(name).exists());
    if !there {
        let text = match role {
            Role::Data => DATA_UNIT,
            Role::Witness => WITNESS_UNIT,
        };
        let program = std::env::current_exe().context("find this program")?;
        write(&Path::new(OWN_UNITS).join(name), &with_program(text, &program))?;
    }
    if let Some(text) = drop_in(role, dirs) {
        for dir in dirs {
            make_dir(dir, role)?;
        }
        write(&Path::new(OWN_UNITS).join(format!("{name}.d/directories.conf")), &text)?;
    }
    if systemd_runs() { run("systemctl", &["daemon-reload"]) } else { Ok(()) }
}

/// Makes a directory of the member's, where it is not there yet, for whom its unit runs as.
fn make_dir(dir: &Path, role: Role) -> Result<()> {
    let context = || format!("make {}", dir.display());
    if dir.exists() {
        return Ok(());
    }
    fs::DirBuilder::new().mode(0o700).recursive(true).create(dir).with_context(context)?;
    if role == Role::Witness
        && let Some(user) = nix::unistd::User::from_name(WITNESS).with_context(context)?
    {
        chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).with_context(context)?;
    }
    Ok(())
}

/// Enables the unit and starts it; returns when the agent is ready.
///
/// # Errors
/// systemd says so.
pub(super) fn start(role: Role) -> Result<()> {
    let name = unit_name(role);
    let started = run("systemctl", &["enable", "--now", name]);
    started.with_context(|| {
        format!("{name} did not start, and everything is in its place; see `systemctl status {name}` and `journalctl -u {name}`, then: systemctl enable --now {name}")
    })?;
    say(&format!("{name} is enabled and runs."));
    Ok(())
}

/// How a person starts the agent.
pub(super) fn how_to_start(config_dir: &Path, role: Role) -> String {
    if can_start(config_dir) {
        return format!("systemctl enable --now {}", unit_name(role));
    }
    format!("holdfast agent --config {}", config_dir.join(config_name(role)).display())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let shown = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {shown}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} failed ({}): {}", output.status, said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_are_those_of_the_package_with_the_place_of_the_program() {
        for (unit, config) in [(DATA_UNIT, "holdfast.hcl"), (WITNESS_UNIT, "witness.hcl")] {
            assert_eq!(with_program(unit, Path::new(PROGRAM)), unit);
            let elsewhere = with_program(unit, Path::new("/usr/local/bin/holdfast"));
            let start = format!("ExecStart=/usr/local/bin/holdfast agent --config {CONFIG_DIR}/{config}");
            assert!(elsewhere.contains(&start), "{elsewhere}");
            assert!(!elsewhere.contains("/usr/bin/holdfast"), "{elsewhere}");
        }
        assert!(SYSUSERS.contains(WITNESS) && TMPFILES.contains(CONFIG_DIR));
    }

    #[test]
    fn directories_elsewhere_are_opened_in_a_drop_in() {
        let of = |role, dirs: &[&str]| drop_in(role, &dirs.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(of(Role::Data, &["/var/lib/holdfast", "/var/lib/holdfast/store"]), None);
        assert_eq!(of(Role::Witness, &["/var/lib/holdfast-witness"]), None);
        let text = of(Role::Data, &["/var/lib/holdfast", "/srv/a b%"]).unwrap();
        assert!(
            text.contains("\nReadWritePaths=\"/srv/a b%%\"\n") && !text.contains("ProtectHome"),
            "{text}"
        );
        assert!(of(Role::Data, &["/home/h"]).unwrap().contains("ProtectHome=no"));
    }
}
