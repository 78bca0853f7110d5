//! What is decided and not yet on every host: `init/` beside the configuration of host one.
//!
//! It is there from the moment of the decision until every member has its files, so that an interrupted
//! `holdfast init` goes on where it stopped. The file `plan.json` is written last and makes the decision; without it
//! there is none, and what lies about is removed. The files of each member are below `members/NAME` until that member
//! said that it has them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::messages::File;
use super::place::{self, ROOT_SECRET, Readers, SECRET, config_name, file_names, remove, sync_dir};
use super::plan::{Member, Plan};

/// The directory, below that of the configuration.
const DIR: &str = "init";
const PLAN: &str = "plan.json";
const MEMBERS: &str = "members";
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// The secrets of a new cluster, each as one line of text.
pub(super) struct Secrets {
    shared: Zeroizing<String>,
    root: Zeroizing<String>,
}

impl Secrets {
    /// New ones.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn generate() -> Result<Secrets, getrandom::Error> {
        let one = || {
            let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
            getrandom::fill(&mut *bytes)?;
            Ok(Zeroizing::new(STANDARD.encode(*bytes) + "\n"))
        };
        Ok(Secrets { shared: one()?, root: one()? })
    }

    /// All files of `member`, in the order in which they are placed.
    pub(super) fn files(&self, plan: &Plan, member: &Member) -> Vec<File> {
        let text = |name: &str| match name {
            SECRET => self.shared.to_string(),
            ROOT_SECRET => self.root.to_string(),
            _ => plan.config(member),
        };
        let names = file_names(member.role).iter();
        names.map(|name| File { name: (*name).to_owned(), text: text(name) }).collect()
    }
}

/// A decision, on disk.
pub(super) struct Pending {
    dir: PathBuf,
    /// What was decided.
    pub plan: Plan,
}

impl Pending {
    /// Where it is, of the configuration in `config_dir`.
    pub(super) fn path(config_dir: &Path) -> PathBuf {
        config_dir.join(DIR)
    }

    /// Decides: writes all files of all members, has each configuration checked as it stands there, and then the plan.
    ///
    /// # Errors
    /// Something cannot be written, a configuration is not accepted, or another `holdfast init` has decided already.
    pub(super) fn decide(config_dir: &Path, plan: Plan, secrets: &Secrets) -> Result<Pending> {
        plan.check()?;
        make_config_dir(config_dir)?;
        let dir = Pending::path(config_dir);
        make(&dir)?;
        let pending = Pending { dir, plan };
        match pending.write(config_dir, secrets) {
            Ok(()) => Ok(pending),
            Err(error) => {
                // Nothing was decided, and nothing shall look like it. What cannot be removed is by the next run.
                let _ = remove(&pending.dir);
                Err(error)
            }
        }
    }

    fn write(&self, config_dir: &Path, secrets: &Secrets) -> Result<()> {
        let Pending { dir, plan } = self;
        let members = dir.join(MEMBERS);
        make(&members)?;
        for member in &plan.members {
            let own = members.join(&member.name);
            make(&own)?;
            for file in secrets.files(plan, member) {
                place::write(&own.join(&file.name), &file.text, Readers::Owner)?;
            }
            sync_dir(&own)?;
            place::load(&own.join(config_name(member.role)), member.role, &member.name)?;
        }
        sync_dir(&members)?;
        let text = serde_json::to_string_pretty(plan)?;
        place::replace(dir, PLAN, &text)?;
        sync_dir(config_dir)
    }

    /// The decision of an earlier run that was interrupted. What such a run left before it decided is removed.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn find(config_dir: &Path) -> Result<Option<Pending>> {
        let dir = Pending::path(config_dir);
        let path = dir.join(PLAN);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove(&dir)?;
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let plan = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} cannot be read: another version of Holdfast wrote it, or it is damaged. Go on with the version that wrote it; or, if nothing of this cluster runs yet, begin anew on every member that it names: rm -r {}, holdfast.hcl, witness.hcl, secret and root-secret",
                path.display(),
                dir.display()
            )
        })?;
        Ok(Some(Pending { dir, plan }))
    }

    fn of(&self, name: &str) -> PathBuf {
        self.dir.join(MEMBERS).join(name)
    }

    /// The files of `member`; none once it has them.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn files(&self, member: &Member) -> Result<Option<Vec<File>>> {
        let dir = self.of(&member.name);
        if !dir.try_exists().with_context(|| format!("look for {}", dir.display()))? {
            return Ok(None);
        }
        let read = |name: &&str| {
            let path = dir.join(name);
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(File { name: (*name).to_owned(), text })
        };
        file_names(member.role).iter().map(read).collect::<Result<_>>().map(Some)
    }

    /// The member has its files: they are wanted here no more.
    ///
    /// # Errors
    /// They cannot be removed.
    pub(super) fn placed(&self, name: &str) -> Result<()> {
        // By one step, so that an interruption leaves all of them or none; no member's name begins with a dot.
        let (from, to) = (self.of(name), self.of(&format!(".{name}")));
        remove(&to)?;
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => done.with_context(|| format!("remove {}", from.display()))?,
        }
        sync_dir(&self.dir.join(MEMBERS))?;
        remove(&to)
    }

    /// Everything is placed.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub(super) fn finish(self) -> Result<()> {
        // The plan goes last: what is left without it is cleared away.
        remove(&self.dir.join(MEMBERS))?;
        sync_dir(&self.dir)?;
        remove(&self.dir)?;
        self.dir.parent().map_or(Ok(()), sync_dir)
    }
}

/// Makes a directory that is not there yet, for root alone.
fn make(dir: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("make {}", dir.display()))
}

/// The directory of the configuration, which a package has made already: for root alone otherwise.
fn make_config_dir(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(dir);
    made.with_context(|| format!("make {}", dir.display()))?;
    dir.parent().map_or(Ok(()), sync_dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::setup::plan::tests::plan;

    fn decided(dir: &Path) -> Pending {
        Pending::decide(dir, plan(2, true), &Secrets::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_decision_is_found_again_with_what_is_left_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Pending::find(dir.path()).unwrap().is_none());
        let first = decided(dir.path());
        first.placed("a").unwrap();
        let again = Pending::find(dir.path()).unwrap().expect("it was decided");
        assert_eq!(again.plan, first.plan);
        let left: Vec<bool> =
            again.plan.members.iter().map(|member| again.files(member).unwrap().is_some()).collect();
        assert_eq!(left, [false, true, true]);
        let mode = fs::metadata(Pending::path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        for name in ["a", "b", "w", "w"] {
            again.placed(name).unwrap();
        }
        again.finish().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn all_members_share_one_secret_and_the_witness_has_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let pending = decided(dir.path());
        let of = |name: &str| pending.files(pending.plan.member(name).unwrap()).unwrap().unwrap();
        let (a, b, w) = (of("a"), of("b"), of("w"));
        assert_eq!((&a[0], &a[1]), (&b[0], &b[1]));
        assert_eq!((&a[0], w.len()), (&w[0], 2));
        assert_ne!(a[0].text, a[1].text);
        assert_ne!(
            a[0].text,
            Secrets::generate().unwrap().files(&pending.plan, &pending.plan.members[0])[0].text
        );
        assert_eq!(STANDARD.decode(a[0].text.trim()).unwrap().len(), SECRET_BYTES);
    }

    #[test]
    fn what_was_not_decided_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        decided(dir.path());
        fs::remove_file(Pending::path(dir.path()).join(PLAN)).unwrap();
        assert!(Pending::find(dir.path()).unwrap().is_none());
        assert!(!Pending::path(dir.path()).exists());
    }

    #[test]
    fn a_second_decision_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = decided(dir.path());
        let second = Pending::decide(dir.path(), plan(3, false), &Secrets::generate().unwrap());
        assert!(second.is_err());
        assert_eq!(Pending::find(dir.path()).unwrap().unwrap().plan, first.plan);
    }

    #[test]
    fn a_plan_that_nobody_can_read_is_not_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        decided(dir.path());
        let path = Pending::path(dir.path()).join(PLAN);
        fs::write(&path, "{").unwrap();
        assert!(Pending::find(dir.path()).is_err());
        assert!(path.exists());
    }
}
