//! What hosts boot: the Debian (or Ubuntu) of this machine by mmdebstrap, made once and kept in the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A root file system, from little to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// A host as an installer leaves it: systemd, and what everybody has.
    Bare,
    /// With software of Debian that Holdfast is to supervise: HAProxy and PostgreSQL.
    Services,
}

/// In every image. The program's own dependencies are not among them: apt has to find them there.
const BARE: &str = "apt,systemd,systemd-sysv,dbus,init-system-helpers,iproute2,iputils-ping,procps,util-linux,ca-certificates";
/// On top of it. Without curl: what a hook needs of it, it has to do without.
const SERVICES: &str = "haproxy postgresql postgresql-client openssl e2fsprogs";
/// Grows when images of before must be made anew.
const MAKE: u32 = 1;

/// The directories of an image, the top one first, as overlayfs takes them.
#[derive(Clone, Debug)]
pub struct Layers(pub(super) String);

/// Adds software to the image below, in a mount namespace of its own: lower, upper and work directory, where to mount,
/// packages.
const ADD: &str = r#"
set -e
lower=$1 upper=$2 work=$3 root=$4
shift 4
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
export DEBIAN_FRONTEND=noninteractive
chroot "$root" apt-get update -q
chroot "$root" apt-get install -q -y --no-install-recommends "$@"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root/etc/resolv.conf"
"#;

impl Image {
    /// Makes it where it is not there yet, which needs the network and some minutes.
    pub fn prepare(self) -> Result<Layers> {
        let dir = cache()?;
        let (suite, sources) = here()?;
        let bare = dir.join(format!("bare-{suite}-{MAKE}"));
        make_once(&bare, |new| {
            println!("making the image {} by mmdebstrap, once", bare.display());
            let mut command = Command::new("mmdebstrap");
            command.args(["--mode=root", "--format=directory", "--variant=essential", "--include", BARE]);
            // A journal that is still there after the power was cut, and the name that a host is booted with.
            command.arg("--customize-hook=mkdir -p \"$1/var/log/journal\" && rm -f \"$1/etc/hostname\"");
            finish(command.arg(&suite).arg(new).args(sources.iter()))
        })?;
        if self == Image::Bare {
            return Ok(Layers(bare.display().to_string()));
        }
        let services = dir.join(format!("services-{suite}-{MAKE}"));
        make_once(&services, |new| {
            println!("making the image {} by apt-get, once", services.display());
            let scratch = tempfile::tempdir_in(&dir)?;
            let (work, root) = (scratch.path().join("work"), scratch.path().join("root"));
            for made in [new, &work, &root] {
                fs::create_dir_all(made)?;
            }
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", ADD, "sh"]);
            command.args([&bare, new, &work, &root]).args(SERVICES.split(' '));
            finish(&mut command)
        })?;
        Ok(Layers(format!("{}:{}", services.display(), bare.display())))
    }
}

/// Beside what cargo built: `target/hosts`.
pub(super) fn cache() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running test")?;
    let target = own.ancestors().nth(3).context("a target directory")?;
    let dir = target.join("hosts");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// The suite of this machine, and where it comes from where that is not mmdebstrap's own idea. The program was linked
/// here, and an older system would not have its libc.
fn here() -> Result<(String, Vec<String>)> {
    let text = fs::read_to_string("/etc/os-release").context("find out what system this is")?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    let (id, suite) = (value("ID"), value("VERSION_CODENAME"));
    match id.as_str() {
        "debian" => Ok((suite, Vec::new())),
        "ubuntu" => {
            let main = format!("deb http://archive.ubuntu.com/ubuntu {suite} main universe");
            let updates = format!("deb http://archive.ubuntu.com/ubuntu {suite}-updates main universe");
            Ok((suite, vec![main, updates]))
        }
        _ => bail!("hosts are made of Debian or Ubuntu, and this is {id:?}"),
    }
}

/// Makes `path` by `make`, elsewhere first: what is there is whole.
fn make_once(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let new = path.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| new.display().to_string())?;
    }
    make(&new)?;
    fs::rename(&new, path).with_context(|| path.display().to_string())
}

fn finish(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = said.lines().rev().take(8).collect();
    ensure!(output.status.success(), "{program}: {}", tail.into_iter().rev().collect::<Vec<_>>().join("; "));
    Ok(())
}
