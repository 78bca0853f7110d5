//! The packages that are installed on hosts: the program under test, packed by the project's own packager.
//!
//! Nothing was released yet, so the previous package is the same program under a lower version: what is tested with it is
//! how package, units and members behave in an upgrade, not what two releases have in common.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};

/// The version before this one.
pub const PREVIOUS: &str = "0.0.9";
/// This one.
pub const NOW: &str = env!("CARGO_PKG_VERSION");

/// Packs `binary` as `version` into `dir`, once in a run of the tests; the result is the file.
pub(super) fn pack(binary: &Path, version: &str, dir: &Path) -> Result<&'static Path> {
    static PACKED: [OnceLock<Result<PathBuf, String>>; 2] = [const { OnceLock::new() }; 2];
    let place =
        [PREVIOUS, NOW].iter().position(|known| *known == version).context("a version that is packed")?;
    let packed =
        PACKED[place].get_or_init(|| build(binary, version, dir).map_err(|error| format!("{error:#}")));
    packed.as_deref().map_err(|error| anyhow!("{error}"))
}

fn build(binary: &Path, version: &str, dir: &Path) -> Result<PathBuf> {
    let packager = binary.with_file_name("holdfast-packaging");
    if !packager.is_file() {
        bail!("there is no {}: run `cargo build --workspace --bin holdfast-packaging`", packager.display());
    }
    // What a debugger wants is most of a build for tests, and would be compressed, copied and unpacked each time.
    let stripped = dir.join("holdfast");
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(binary).status().context("strip")?;
    ensure!(done.success(), "strip ended with {done}");
    let mut command = Command::new(&packager);
    command
        .args(["deb", "--for-tests", "--version", version, "--binary"])
        .arg(&stripped)
        .arg("--out")
        .arg(dir);
    let made = command.output().with_context(|| packager.display().to_string())?;
    ensure!(made.status.success(), "the packager said: {}", String::from_utf8_lossy(&made.stderr));
    Ok(PathBuf::from(String::from_utf8(made.stdout)?.trim()))
}
