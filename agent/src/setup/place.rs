//! Puts a member's files where the agent looks for them: all of them or, as far as the agent can tell, none.
//!
//! Written beside, synced, and checked there by the configuration's own reader; then each gets its name, the
//! configuration last. A file that is there already is never replaced: one with the same bytes is left as it is, one with
//! others ends it before anything was changed.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use holdfast_config::{Config, Loaded};

use super::discover::no_member_in;
use super::messages::File;
use super::plan::is_of;
use super::token::Role;

/// The file of the members' shared secret.
pub(super) const SECRET: &str = "secret";
/// The file of the S3 root user's key.
pub(super) const ROOT_SECRET: &str = "root-secret";
/// Where files are before they get their names.
const BESIDE: &str = ".holdfast-new";

/// The configuration's file.
pub(super) fn config_name(role: Role) -> &'static str {
    match role {
        Role::Data => "holdfast.hcl",
        Role::Witness => "witness.hcl",
    }
}

/// The files of a member, in the order in which they are placed.
pub(super) fn file_names(role: Role) -> &'static [&'static str] {
    match role {
        Role::Data => &[SECRET, ROOT_SECRET, "holdfast.hcl"],
        Role::Witness => &[SECRET, "witness.hcl"],
    }
}

/// Whether the agent of that role has a configuration here already.
pub(super) fn configured(dir: &Path, role: Role) -> Option<PathBuf> {
    let path = dir.join(config_name(role));
    path.try_exists().unwrap_or(true).then_some(path)
}

/// Who reads the files besides their owner: a group, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Nobody.
    Owner,
    /// The witness's group.
    Group(u32),
}

/// What placing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The files are there now.
    Placed,
    /// They were there, byte for byte.
    WereThere,
}

/// Places the files of the member `name` in `dir`.
///
/// # Errors
/// They are not what such a member has; this program does not accept the configuration; another one is here already; or
/// they cannot be written. No file that was there is changed in any case, and the configuration is not there unless all
/// of it is.
pub(super) fn place(dir: &Path, role: Role, name: &str, files: &[File], readers: Readers) -> Result<Outcome> {
    let named: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    if named != file_names(role) {
        bail!(
            "the other side sent other files than such a member has ({}); are both of the same version?",
            named.join(", ")
        );
    }
    let mut missing = Vec::new();
    for file in files {
        let path = dir.join(&file.name);
        match fs::read(&path) {
            Ok(bytes) if bytes == file.text.as_bytes() => {}
            Ok(_) => bail!(
                "{0} is there already and says something else. It was left as it is, and nothing else was changed. If this host is no member of any cluster: rm {0}",
                path.display()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(file),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    if missing.is_empty() {
        return Ok(Outcome::WereThere);
    }
    make_dir(dir, readers)?;
    let beside = dir.join(BESIDE);
    remove(&beside)?;
    DirBuilder::new().mode(0o700).create(&beside).with_context(|| format!("make {}", beside.display()))?;
    let outcome = place_beside(dir, &beside, role, name, files, &missing, readers);
    // What is left of it would only lie about.
    let cleared = remove(&beside).and_then(|()| sync_dir(dir));
    outcome.and(cleared).map(|()| Outcome::Placed)
}

fn place_beside(
    dir: &Path,
    beside: &Path,
    role: Role,
    name: &str,
    files: &[File],
    missing: &[&File],
    readers: Readers,
) -> Result<()> {
    for file in files {
        write(&beside.join(&file.name), &file.text, readers)?;
    }
    sync_dir(beside)?;
    let loaded = load(&beside.join(config_name(role)), role, name)?;
    let config = &loaded.config;
    no_member_in(&config.state_dir, config.store.as_ref().map(|store| store.data_dir.as_path()))?;
    for file in missing {
        let to = dir.join(&file.name);
        // Fails where a file of that name has come meanwhile.
        fs::hard_link(beside.join(&file.name), &to).with_context(|| format!("write {}", to.display()))?;
        sync_dir(dir)?;
    }
    Ok(())
}

/// Reads a configuration as the agent will, and sees that it is that of the member `name`.
pub(super) fn load(config: &Path, role: Role, name: &str) -> Result<Loaded> {
    let loaded = Config::load(config).map_err(|error| {
        anyhow!("this program does not accept the configuration, so nothing was placed:\n{error}")
    })?;
    if loaded.config.node_id != name || !is_of(role, loaded.config.mode) {
        bail!("the configuration is not that of {name}, so nothing was placed");
    }
    Ok(loaded)
}

/// Makes the directory of configuration and secrets where there is none.
fn make_dir(dir: &Path, readers: Readers) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let context = || format!("make {}", dir.display());
    DirBuilder::new().mode(0o700).recursive(true).create(dir).with_context(context)?;
    if let Readers::Group(group) = readers {
        chown(dir, None, Some(group)).with_context(context)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o750)).with_context(context)?;
    }
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Writes a file that is not there yet, durably, for its owner and `readers` alone.
pub(super) fn write(path: &Path, text: &str, readers: Readers) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        if let Readers::Group(group) = readers {
            chown(path, None, Some(group))?;
            file.set_permissions(fs::Permissions::from_mode(0o640))?;
        }
        file.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Replaces the file `name` in `dir`, durably, by one for its owner alone.
pub(super) fn replace(dir: &Path, name: &str, text: &str) -> Result<()> {
    let beside = dir.join(format!("{name}.new"));
    remove_file(&beside)?;
    write(&beside, text, Readers::Owner)?;
    let to = dir.join(name);
    fs::rename(&beside, &to).with_context(|| format!("write {}", to.display()))?;
    sync_dir(dir)
}

/// Removes a file, if it is there.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it, if it is there.
pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Makes durable which names a directory has.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    let sync = || fs::File::open(dir)?.sync_all();
    sync().with_context(|| format!("sync {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::plan::{Plan, tests::plan};

    /// The files of a member whose state is below `dir`.
    fn files(plan: &Plan, name: &str) -> Vec<File> {
        let member = plan.member(name).unwrap();
        let text = |file: &str| match file {
            SECRET => "a secret of the tests, long enough\n".to_owned(),
            ROOT_SECRET => "the root user's, long enough too\n".to_owned(),
            _ => plan.config(member),
        };
        file_names(member.role)
            .iter()
            .map(|file| File { name: (*file).to_owned(), text: text(file) })
            .collect()
    }

    fn plan_below(dir: &Path) -> Plan {
        let mut plan = plan(2, true);
        for member in &mut plan.members {
            member.state_dir = dir.join("state").join(&member.name);
            member.data_dir = member.data_dir.as_ref().map(|_| dir.join("data").join(&member.name));
        }
        plan
    }

    /// All that is below `dir`, by name.
    fn there(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_placed_once_and_for_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan_below(dir.path());
        let etc = dir.path().join("etc/holdfast");
        let files = files(&plan, "b");
        assert_eq!(configured(&etc, Role::Data), None);
        assert_eq!(place(&etc, Role::Data, "b", &files, Readers::Owner).unwrap(), Outcome::Placed);
        assert_eq!(there(&etc), ["holdfast.hcl", "root-secret", "secret"]);
        for file in &files {
            let path = etc.join(&file.name);
            assert_eq!(fs::read_to_string(&path).unwrap(), file.text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(configured(&etc, Role::Data), Some(etc.join("holdfast.hcl")));
        assert!(load(&etc.join("holdfast.hcl"), Role::Data, "b").unwrap().warnings.is_empty());
        assert_eq!(place(&etc, Role::Data, "b", &files, Readers::Owner).unwrap(), Outcome::WereThere);
    }

    #[test]
    fn another_configuration_is_left_alone_whichever_file_differs() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan_below(dir.path());
        let files = files(&plan, "b");
        for differs in file_names(Role::Data) {
            let etc = dir.path().join(format!("etc-{differs}"));
            fs::create_dir(&etc).unwrap();
            fs::write(etc.join(differs), "of another cluster").unwrap();
            let error = place(&etc, Role::Data, "b", &files, Readers::Owner).unwrap_err().to_string();
            assert!(error.contains("says something else") && error.contains(differs), "{error}");
            assert_eq!(there(&etc), [*differs]);
            assert_eq!(fs::read_to_string(etc.join(differs)).unwrap(), "of another cluster");
        }
    }

    #[test]
    fn what_was_interrupted_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan_below(dir.path());
        let files = files(&plan, "w");
        let etc = dir.path().join("etc");
        // As a kill leaves it: some files beside, one placed.
        fs::create_dir_all(etc.join(BESIDE)).unwrap();
        fs::write(etc.join(BESIDE).join("witness.hcl"), "half a fi").unwrap();
        fs::write(etc.join(SECRET), &files[0].text).unwrap();
        assert_eq!(place(&etc, Role::Witness, "w", &files, Readers::Owner).unwrap(), Outcome::Placed);
        assert_eq!(there(&etc), ["secret", "witness.hcl"]);
    }

    #[test]
    fn what_this_program_would_not_run_is_not_placed() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan_below(dir.path());
        let etc = dir.path().join("etc");
        let place = |name: &str, files: &[File]| {
            place(&etc, Role::Data, name, files, Readers::Owner).unwrap_err().to_string()
        };
        let mut unknown = files(&plan, "b");
        unknown[2].text = unknown[2].text.replace("priority", "prioritas");
        assert!(place("b", &unknown).contains("does not accept"));
        assert!(place("a", &files(&plan, "b")).contains("not that of a"));
        let mut short = files(&plan, "b");
        short.pop();
        assert!(place("b", &short).contains("other files"));
        let mut outside = files(&plan, "b");
        outside[0].name = "../secret".to_owned();
        assert!(place("b", &outside).contains("other files"));
        // A member's state from before.
        fs::create_dir_all(dir.path().join("state/b")).unwrap();
        fs::write(dir.path().join("state/b/member.json"), "{}").unwrap();
        assert!(place("b", &files(&plan, "b")).contains("left its state"));
        assert!(!etc.exists() || there(&etc).is_empty(), "{:?}", there(&etc));
        assert!(!dir.path().join("secret").exists());
    }
}
