//! What is in a package, and where it goes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::manual;

/// A file of the package.
pub(crate) struct Entry {
    /// From the root, without the first slash.
    pub path: String,
    pub mode: u32,
    pub content: Vec<u8>,
}

/// Everything that is installed, and what runs around it.
pub(crate) struct Contents {
    /// By path.
    pub files: Vec<Entry>,
    /// Where the maintainer scripts are.
    pub scripts: std::path::PathBuf,
}

/// What the package is, in one line.
pub(crate) const SUMMARY: &str = "highly available S3 store, virtual address and log for paired servers";
/// In more lines; none of them empty.
pub(crate) const DESCRIPTION: &str = "One agent on each of two servers, and a witness: heartbeats, election with quorum and fencing, a virtual IP address\nbehind a kernel gate, and a log that every acknowledged write is in on both. It serves an S3 store from it, and moves\nother services with the role.";
/// Where the sources are.
pub(crate) const LICENSE: &str = "Apache-2.0";
/// Who packages it.
pub(crate) const MAINTAINER: &str = "Holdfast <packages@holdfast.invalid>";

/// Folders of `packaging/` whose files are installed as they are: folder, where to, mode.
const FOLDERS: [(&str, &str, u32); 9] = [
    ("examples", "usr/share/doc/holdfast/examples", 0o644),
    ("hooks", "usr/share/doc/holdfast/hooks", 0o755),
    ("prometheus", "usr/share/doc/holdfast/prometheus", 0o644),
    // Advice: whoever wants it copies it.
    ("sysctl.d", "usr/share/doc/holdfast/sysctl.d", 0o644),
    ("nftables", "usr/share/doc/holdfast/nftables", 0o644),
    ("ufw", "usr/share/doc/holdfast/ufw", 0o644),
    ("sysusers.d", "usr/lib/sysusers.d", 0o644),
    ("tmpfiles.d", "usr/lib/tmpfiles.d", 0o644),
    ("firewalld", "usr/lib/firewalld/services", 0o644),
];

/// What there is to read, in the places that it refers to itself by.
const DOCUMENTS: [&str; 7] = [
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "docs/installation.md",
    "docs/operations.md",
    "docs/safety.md",
    "docs/store.md",
];

impl Contents {
    /// Reads everything from `assets`, and the program; `sbom` says what that is made of.
    pub(crate) fn gather(assets: &Path, binary: &Path, sbom: Vec<u8>) -> Result<Contents> {
        let mut files = vec![Entry { path: "usr/bin/holdfast".into(), mode: 0o755, content: read(binary)? }];
        for unit in ["holdfast.service", "holdfast-witness.service"] {
            files.push(Entry {
                path: format!("usr/lib/systemd/system/{unit}"),
                mode: 0o644,
                content: read(&assets.join(unit))?,
            });
        }
        for (folder, to, mode) in FOLDERS {
            let dir = assets.join(folder);
            if !dir.is_dir() {
                continue;
            }
            for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    files.push(Entry { path: format!("{to}/{name}"), mode, content: read(&entry.path())? });
                }
            }
        }
        let root = assets.parent().context("the sources have no root")?;
        for document in DOCUMENTS {
            let path = format!("usr/share/doc/holdfast/{document}");
            files.push(Entry { path, mode: 0o644, content: read(&root.join(document))? });
        }
        let path = "usr/share/doc/holdfast/sbom.cdx.json".into();
        files.push(Entry { path, mode: 0o644, content: sbom });
        for (path, content) in manual::pages()? {
            let path = format!("usr/share/man/{path}.gz");
            files.push(Entry { path, mode: 0o644, content: manual::compressed(&content)? });
        }
        for (path, content) in manual::completions() {
            files.push(Entry { path: format!("usr/share/{path}"), mode: 0o644, content });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Contents { files, scripts: assets.to_owned() })
    }

    /// All directories above the files, parents first.
    pub(crate) fn directories(&self) -> Vec<String> {
        let above = |path: &str| -> Vec<String> {
            path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
        };
        let mut all: Vec<String> = self.files.iter().flat_map(|file| above(&file.path)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// A maintainer script.
    pub(crate) fn script(&self, path: &str) -> Result<String> {
        let file = self.scripts.join(path);
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}
