//! Files of this host that follow the primary, in types that cannot say anything else.
//!
//! [`SyncFiles::names`] is the only word on what may be looked at and written: whatever the log says, nothing else is
//! touched. Nothing here reads the disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use glob::Pattern;

/// Largest file where the block says nothing, in bytes.
pub(crate) const DEFAULT_MAX_FILE_BYTES: u64 = 16 << 20;

/// Largest file that can be allowed, in bytes: a file is in memory while it is read or written.
pub(crate) const MOST_FILE_BYTES: u64 = 64 << 20;

/// Most files of a set where the block says nothing, directories included.
pub(crate) const DEFAULT_MAX_FILES: u64 = 4096;

/// Most files that can be allowed.
pub(crate) const MOST_FILES: u64 = 65_536;

/// How often a set is looked through where the block says nothing, whatever the kernel tells of changes.
pub(crate) const DEFAULT_RESCAN_INTERVAL: Duration = Duration::from_secs(60);

/// How the names of files begin that are being written by the agent itself.
pub const TEMPORARY_PREFIX: &str = ".holdfast-new-";

/// Longest path, in bytes, as the kernel has it.
const MAX_PATH_BYTES: usize = 4095;

/// A `sync_files` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncFiles {
    /// The block's label: the members' blocks of one name belong together.
    pub name: String,
    /// Files and directories, absolute and without `.` or `..`. None lies in another one.
    pub paths: Vec<PathBuf>,
    /// What is left out of them.
    pub exclude: Vec<Pattern>,
    /// Is run on a standby after files were placed: the program, by its absolute path, and its arguments.
    pub on_change: Option<Vec<String>>,
    /// Is run when this member takes over, after everything of the log was placed.
    pub on_takeover: Option<Vec<String>>,
    /// After this time either program and all that it started are killed.
    pub timeout: Duration,
    /// A file that cannot be placed, or an `on_takeover` that fails, gives the takeover up.
    pub veto: bool,
    /// Larger files are left out, bytes.
    pub max_file_bytes: u64,
    /// Files beyond so many are left out, in the order of their paths.
    pub max_files: u64,
    /// How often everything is looked through, whatever the kernel tells of changes.
    pub rescan_interval: Duration,
}

impl SyncFiles {
    /// The one of `paths` that `path` is, or lies in; `None` where this block does not name it. A path is taken as it
    /// is written: one with `..`, `.`, an empty part or a character that does not print is never named.
    pub fn root_of(&self, path: &str) -> Option<&Path> {
        let plain = path.len() <= MAX_PATH_BYTES && !path.chars().any(char::is_control);
        let mut parts = path.split('/');
        let whole = parts.next() == Some("") && parts.all(|part| !matches!(part, "" | "." | ".."));
        if !plain || !whole {
            return None;
        }
        let root = self.paths.iter().find(|root| Path::new(path).starts_with(root))?;
        (!self.excludes(root, Path::new(path))).then_some(root)
    }

    /// Whether this block names it.
    pub fn names(&self, path: &str) -> bool {
        self.root_of(path).is_some()
    }

    /// Whether a pattern takes it out, or a directory that it lies in. Without a `/`, a pattern is for names.
    fn excludes(&self, root: &Path, path: &Path) -> bool {
        let below = path.ancestors().take_while(|ancestor| *ancestor != root);
        let hit = |ancestor: &Path| {
            let name = ancestor.file_name().unwrap_or_default().to_string_lossy();
            let whole = ancestor.to_string_lossy();
            name.starts_with(TEMPORARY_PREFIX)
                || self.exclude.iter().any(|pattern| match pattern.as_str().contains('/') {
                    true => pattern.matches(&whole),
                    false => pattern.matches(&name),
                })
        };
        below.into_iter().any(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &[&str], exclude: &[&str]) -> SyncFiles {
        SyncFiles {
            name: "dhcp".into(),
            paths: paths.iter().map(PathBuf::from).collect(),
            exclude: exclude.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect(),
            on_change: None,
            on_takeover: None,
            timeout: Duration::from_secs(5),
            veto: false,
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
            max_files: DEFAULT_MAX_FILES,
            rescan_interval: DEFAULT_RESCAN_INTERVAL,
        }
    }

    #[test]
    fn only_what_the_block_names_is_named_however_it_is_written() {
        let set = set(&["/etc/dhcp", "/var/lib/dhcp/dhcpd.leases"], &[]);
        for path in
            ["/etc/dhcp", "/etc/dhcp/a", "/etc/dhcp/a b/c", "/var/lib/dhcp/dhcpd.leases", "/etc/dhcp/..a"]
        {
            assert!(set.names(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/etc",
            "/etc/dhcp2",
            "/etc/dhcpx/a",
            "etc/dhcp/a",
            "/etc/dhcp/",
            "/etc/dhcp//a",
            "//etc/dhcp/a",
            "/etc/dhcp/../shadow",
            "/etc/dhcp/./a",
            "/etc/dhcp/a/..",
            "/etc/dhcp/a\nb",
            "/etc/dhcp/\0",
            "/etc/shadow",
            "/var/lib/dhcp/dhcpd.leases~",
            "../etc/dhcp/a",
            "/./etc/dhcp/a",
            "/etc/dhcp/.holdfast-new-1",
            "/etc/dhcp/.holdfast-new-1/a",
        ] {
            assert!(!set.names(path), "{path:?}");
        }
        let long = format!("/etc/dhcp/{}", "x/".repeat(4000));
        assert!(!set.names(&format!("{long}x")));
    }

    #[test]
    fn a_pattern_takes_out_names_or_paths_and_what_lies_below() {
        let set = set(&["/etc/app"], &["*.tmp", "/etc/app/cache*", "app"]);
        for path in
            ["/etc/app/x.tmp", "/etc/app/d/x.tmp", "/etc/app/y.tmp/z", "/etc/app/cache", "/etc/app/cache.d/x"]
        {
            assert!(!set.names(path), "{path}");
        }
        for path in ["/etc/app", "/etc/app/x.tmp2", "/etc/app/d/cache"] {
            assert!(set.names(path), "{path}");
        }
    }
}
