//! What the disk gives at most, by fio.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Prints small writes that are synced one by one, and large ones.
pub(crate) fn print() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("holdfast-bench-").tempdir()?;
    for (name, block, jobs, mib) in [
        ("fio: write 4 KiB + fdatasync", "4k", 1, 64),
        ("fio: write 4 KiB + fdatasync, 32 writers", "4k", 32, 8),
        ("fio: write 16 MiB + fdatasync", "16m", 1, 4096),
    ] {
        let output = Command::new("fio")
            .args([
                "--name=raw",
                "--rw=write",
                "--fdatasync=1",
                "--runtime=5",
                "--time_based",
                "--group_reporting",
            ])
            .args(["--output-format=json", &format!("--bs={block}"), &format!("--numjobs={jobs}")])
            .arg(format!("--size={mib}m"))
            .arg(format!("--directory={}", dir.path().display()))
            .output();
        let Ok(output) = output else {
            println!("  fio is not installed: apt-get install fio");
            return Ok(());
        };
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let json: serde_json::Value =
            serde_json::from_str(text.get(text.find('{').unwrap_or(0)..).unwrap_or(""))
                .context("what fio printed")?;
        let write = &json["jobs"][0]["write"];
        let number = |key: &str| write[key].as_f64().unwrap_or(0.0);
        println!("  {name:<42} {:>7.0} /s {:>7.0} MB/s", number("iops"), number("bw_bytes") / 1e6);
        for file in std::fs::read_dir(dir.path())? {
            std::fs::remove_file(file?.path())?;
        }
    }
    Ok(())
}
