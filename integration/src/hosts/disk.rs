//! A disk that several hosts reach, as of a SAN: a loop device of this machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Its size in bytes, of which the file takes what was written.
const SIZE: u64 = 512 << 20;

/// A block device over a file in a test's directory, gone with this value.
pub(super) struct SharedDisk {
    device: PathBuf,
}

impl SharedDisk {
    pub(super) fn make(dir: &Path) -> Result<SharedDisk> {
        let file = dir.join("shared.img");
        File::create(&file)?.set_len(SIZE)?;
        let output =
            Command::new("losetup").args(["--find", "--show"]).arg(&file).output().context("losetup")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no loop device can be had: {}", said.trim());
        Ok(SharedDisk { device: String::from_utf8(output.stdout)?.trim().into() })
    }

    pub(super) fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for SharedDisk {
    fn drop(&mut self) {
        // Where somebody still has it open, the kernel takes it away with the last of them.
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}
