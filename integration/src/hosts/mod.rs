//! Real hosts: machines that boot systemd, install the package with apt and start the units, on the networks of the lab.
//!
//! ```text
//!   World (agent/src/lab/world): switch, cables, the client   Host: systemd-nspawn in one machine of that world
//!   Cluster: status, primary, in sync, target, twins          Image: Debian by mmdebstrap, below an overlay per host
//! ```
//!
//! A host is a machine of the lab's world in which `systemd-nspawn` boots a root file system. So it has the same
//! bridge, the same cables that can be pulled, and the same power switch as a host of the lab; and everything that
//! measures a cluster of the lab measures this one. What differs is what runs in it: nothing that a test started, but
//! what systemd did.
//!
//! Everything ends with the test, however it ends: processes, mounts and networks by the namespaces of the world, the
//! control groups by [`Hosts`] and the next run. What stays is the image, in the target directory.

mod disk;
mod group;
mod host;
mod image;
mod package;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::ledger::Target;
use holdfast_agent::lab::privilege::{Standing, standing};
use holdfast_agent::lab::settings::{ClusterSpec, DATA, S3_PORT, VIP, WITNESS};

use self::disk::SharedDisk;
pub use self::group::{Group, Starved};
pub use self::host::{Host, Said};
pub use self::image::Image;
pub use self::package::{NOW, PREVIOUS};
use crate::stage::{failure_of, holdfast_binary, wait_for_turn};

/// For what takes as long as dpkg, a restart with its handover and a catch-up together, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a wait looks again.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Where this is set to `must`, a machine that cannot boot hosts fails the test, which is skipped else.
const DEMAND: &str = "HOLDFAST_HOSTS";
/// The disk that both data members of [`Image::Services`] reach.
pub const SHARED_DISK: &str = "/dev/shared";
/// The secret of the S3 root user, whose access key the examples call `admin`. It opens nothing outside of a test.
const ROOT_SECRET: &str = "root-secret-of-the-test";
/// What only root of a data member reads, and what the witness's group reads too.
const SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZXN0LCBnb29kIGZvciBub3RoaW5nIGVsc2U=";

/// Two machines and a witness, each with a systemd of its own, and a client beside them.
pub struct Hosts {
    // Dropped first: its hosts are gone then, and their groups can be removed.
    hosts: Vec<Host>,
    cluster: Cluster,
    binary: PathBuf,
    _shared: Option<SharedDisk>,
}

/// Runs `body` on three hosts that have just booted, with nothing installed, and panics with their journals if it fails.
/// Where this machine cannot boot such hosts, the test is skipped with a line that says why.
pub fn promise_on_hosts(image: Image, body: impl FnOnce(&Hosts) -> Result<()>) {
    let _turn = wait_for_turn().expect("a lock file in the directory for temporary files");
    if let Err(why) = can_boot() {
        assert!(std::env::var_os(DEMAND).is_none_or(|v| v != "must"), "no hosts can be booted here: {why}");
        // Not by `println!`, which the harness of a test that passes keeps to itself.
        let _ = writeln!(std::io::stderr(), "skipped: systemd-nspawn cannot boot here: {why}");
        return;
    }
    let dir = workplace().expect("a directory in the target directory");
    let hosts = match Hosts::boot(image, dir.path()) {
        Ok(hosts) => hosts,
        Err(error) => panic!("the hosts did not boot: {error:#}\nlogs are in {}", dir.keep().display()),
    };
    let Some(failure) = failure_of(|| body(&hosts)) else { return };
    let journals = hosts.journals();
    drop(hosts);
    panic!("{failure}\n\n{journals}\nconsole logs and disks are in {}", dir.keep().display());
}

/// Whether this machine boots a host: tried once in a run.
fn can_boot() -> Result<(), String> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    let attempt = || -> Result<()> {
        if standing() != Standing::Root {
            bail!("it takes root");
        }
        for tool in ["systemd-nspawn", "mmdebstrap", "nsenter", "dpkg-deb", "strip"] {
            let there = Command::new("sh").args(["-c", "command -v \"$0\"", tool]).output()?.status.success();
            if !there {
                bail!("there is no {tool} (apt-get install systemd-container mmdebstrap binutils)");
            }
        }
        let image = Image::Bare.prepare()?;
        let dir = workplace()?;
        let spec = ClusterSpec {
            data_members: 1,
            witness: false,
            idle: vec![DATA[0].into()],
            ..ClusterSpec::default()
        };
        let cluster = Cluster::start(spec, dir.path(), &holdfast_binary()?)?;
        let host = Host::new(cluster.world().machine(DATA[0])?.clone(), image);
        host.boot().with_context(|| format!("a trial boot failed; it said\n{}", host.console()))?;
        host.cut_power()
    };
    TRIED.get_or_init(|| attempt().map_err(|error| format!("{error:#}"))).clone()
}

/// Where the hosts of one test have their disks: on the file system of the image, since the one for temporary files may
/// itself be an overlay, on which there can be no other.
fn workplace() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("run-").tempdir_in(image::cache()?)?)
}

impl Hosts {
    fn boot(image: Image, dir: &Path) -> Result<Hosts> {
        let binary = holdfast_binary()?;
        let idle = [DATA[0], DATA[1], WITNESS].map(str::to_owned).to_vec();
        let cluster = Cluster::start(ClusterSpec { idle, ..ClusterSpec::default() }, dir, &binary)?;
        let shared = (image == Image::Services).then(|| SharedDisk::make(dir)).transpose()?;
        let layers = image.prepare()?;
        let mut hosts = Vec::new();
        for name in cluster.spec().members() {
            let host = Host::new(cluster.world().machine(name)?.clone(), layers.clone());
            hosts.push(match &shared {
                Some(disk) if name != WITNESS => host.sharing(disk.device(), SHARED_DISK),
                _ => host,
            });
        }
        let hosts = Hosts { hosts, cluster, binary, _shared: shared };
        hosts.boot_all()?;
        if !may_raise_limits()? {
            hosts.hosts.iter().try_for_each(grant_rights_instead)?;
        }
        Ok(hosts)
    }

    /// Boots those that are off, all at once, and waits until systemd says that they are up.
    pub fn boot_all(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let booting: Vec<_> = self.hosts.iter().map(|host| scope.spawn(|| host.boot())).collect();
            booting.into_iter().try_for_each(|thread| thread.join().expect("no panic while booting"))
        })
    }

    /// The host called `name`.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name() == name).with_context(|| format!("a host {name}"))
    }

    /// All hosts: the data members, then the witness.
    pub fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// What looks at the members from outside, and pulls their cables.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Where S3 clients go.
    pub fn target(&self, bucket: &str) -> Target {
        Target {
            endpoint: format!("http://{VIP}:{S3_PORT}"),
            bucket: bucket.to_owned(),
            access_key: "admin".to_owned(),
            secret_key: ROOT_SECRET.to_owned(),
        }
    }

    /// Puts the package of `version` onto `name`; the result is its path there.
    pub fn put_package(&self, name: &str, version: &str) -> Result<String> {
        self.host(name)?.copy_in(package::pack(&self.binary, version, &image::cache()?)?, "/root")
    }

    /// Has apt install the package of `version` on `name`, as an operator does.
    pub fn install(&self, name: &str, version: &str) -> Result<Said> {
        let (host, file) = (self.host(name)?, self.put_package(name, version)?);
        host.run(&format!("apt-get install -q -y --allow-downgrades {file}"))
    }

    /// Writes secrets and configuration of every member as docs/installation.md has it, from the examples in the
    /// installed package, with the addresses of the lab's network. `change` has the last word on the configuration of
    /// each data member.
    pub fn configure(&self, example: &str, change: impl Fn(&str, String) -> String) -> Result<()> {
        for host in &self.hosts {
            let examples = "/usr/share/doc/holdfast/examples";
            let (from, to) = match host.name() {
                WITNESS => (format!("{examples}/witness.hcl"), "/etc/holdfast/witness.hcl"),
                _ => (
                    format!("{examples}/{}", example.replace("{}", host.name())),
                    "/etc/holdfast/holdfast.hcl",
                ),
            };
            let text = host.read(&from)?.replace("10.0.0.", "10.77.0.");
            let (text, owner) = match host.name() {
                WITNESS => (text, "root:holdfast-witness"),
                name => (change(name, as_member(name, &text)), "root:root"),
            };
            host.write(to, &text)?;
            host.write("/etc/holdfast/secret", &format!("{SECRET}\n"))?;
            let mode = if host.name() == WITNESS { "640" } else { "600" };
            let mut files = vec![to, "/etc/holdfast/secret"];
            if host.name() != WITNESS {
                host.write("/etc/holdfast/root-secret", &format!("{ROOT_SECRET}\n"))?;
                files.push("/etc/holdfast/root-secret");
            }
            let files = files.join(" ");
            host.run(&format!(
                "chown {owner} {files} && chmod {mode} {files} && holdfast config check {to}"
            ))?;
        }
        Ok(())
    }

    /// Has apt install the package of `version` everywhere, at once.
    pub fn install_all(&self, version: &str) -> Result<()> {
        std::thread::scope(|scope| {
            let installing: Vec<_> =
                self.hosts.iter().map(|host| scope.spawn(|| self.install(host.name(), version))).collect();
            installing
                .into_iter()
                .try_for_each(|thread| thread.join().expect("no panic while installing").map(drop))
        })
    }

    /// Installs the package everywhere, configures from `example` and enables the units.
    pub fn set_up(
        &self,
        version: &str,
        example: &str,
        change: impl Fn(&str, String) -> String,
    ) -> Result<String> {
        self.install_all(version)?;
        self.configure(example, change)?;
        for host in self.hosts.iter().rev() {
            host.run(&format!("systemctl enable --now {}", unit_of(host.name())))?;
        }
        self.wait_well()
    }

    /// Waits until every member says `All is well`, with status 0, on hosts that are all on, and the address is on one
    /// host alone; the result is the primary.
    pub fn wait_well(&self) -> Result<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let unwell = self.hosts.iter().find_map(|host| self.complaint(host));
            let Some(unwell) = unwell else { break };
            if Instant::now() > end {
                bail!("not all is well within {} s: {unwell}", PATIENCE.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let primary = self.cluster.wait_in_sync(PATIENCE)?;
        let holders = self.holders()?;
        if holders != [primary.as_str()] {
            bail!("{primary} is primary, and {VIP} is on {holders:?}");
        }
        Ok(primary)
    }

    fn complaint(&self, host: &Host) -> Option<String> {
        match host.try_run("holdfast ha status") {
            Ok(said) if said.status == 0 && said.stdout.contains("All is well") => None,
            Ok(said) => Some(format!("{}: {said}", host.name())),
            Err(error) => Some(format!("{}: {error:#}", host.name())),
        }
    }

    /// The hosts that have the virtual address on an interface.
    pub fn holders(&self) -> Result<Vec<&str>> {
        let mut holders = Vec::new();
        for host in self.hosts.iter().filter(|host| host.is_on()) {
            if !host.run(&format!("ip -o address show to {VIP}"))?.stdout.is_empty() {
                holders.push(host.name());
            }
        }
        Ok(holders)
    }

    /// Waits until `done` of `name`; `what` says what for.
    pub fn wait(&self, name: &str, what: &str, done: impl Fn(&Host) -> Result<bool>) -> Result<()> {
        let (host, end) = (self.host(name)?, Instant::now() + PATIENCE);
        while !done(host)? {
            if Instant::now() > end {
                bail!("{what} on {name}: not within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// The ends of all journals and consoles, for a failure's report.
    fn journals(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            text += &format!("--- {}: ", host.name());
            text += &match host.is_on() {
                true => "its journal\n".to_owned() + &host.journal(),
                false => "off; its console\n".to_owned() + &host.console(),
            };
        }
        text
    }
}

/// Whether systemd in a host can give a unit more of a limit than this process has (CAP_SYS_RESOURCE).
fn may_raise_limits() -> Result<bool> {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").context("find out what this process may do")?;
    let rights = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("its rights")?;
    Ok(u64::from_str_radix(rights.trim(), 16)? >> SYS_RESOURCE & 1 == 1)
}

/// Where a test's own drop-ins are, on such a machine.
pub const DROP_INS: &str = "/etc/systemd/system/*holdfast*.service.d";

/// The units' `LimitRTPRIO=` and `LimitMEMLOCK=`, said by rights, for a machine on which nobody can raise a limit. Without
/// either a member would miss heartbeats whenever the machine is busy, and what hosts do in such a test is not what they
/// do.
const DROP_IN: &str = "[Service]\nCapabilityBoundingSet=CAP_SYS_NICE CAP_IPC_LOCK\n\
                       AmbientCapabilities=CAP_SYS_NICE CAP_IPC_LOCK\n";

fn grant_rights_instead(host: &Host) -> Result<()> {
    let dir = format!("/etc/systemd/system/{}.service.d", unit_of(host.name()));
    host.run(&format!("mkdir -p {dir}"))?;
    host.write(&format!("{dir}/limits.conf"), DROP_IN)
}

/// The unit of a member.
pub fn unit_of(name: &str) -> &'static str {
    if name == WITNESS { "holdfast-witness" } else { "holdfast" }
}

/// The example is member a's; the comments in it say how b's differs.
fn as_member(name: &str, example: &str) -> String {
    if name == DATA[0] || !example.contains("node_id         = \"a\"") {
        return example.to_owned();
    }
    example
        .replace("mode            = \"primary\"", "mode            = \"replica\"")
        .replace("node_id         = \"a\"", "node_id         = \"b\"")
        .replace("listen_addr     = \"10.77.0.1:9001\"", "listen_addr     = \"10.77.0.2:9001\"")
        .replace("peer_addrs      = [\"10.77.0.2:9001\"]", "peer_addrs      = [\"10.77.0.1:9001\"]")
        .replace("priority = 50", "priority = 100")
}
