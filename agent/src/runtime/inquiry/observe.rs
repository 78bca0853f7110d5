//! What this host sees: its addresses on the network, the service behind them, its disks and programs.
//!
//! Looks, and changes nothing: the questions that it asks of the network teach no neighbour anything.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_config::{CheckKind, Config};
use holdfast_vip::{Learned, Learner, LinkView, MacAddr, Prober, VipSpec, link_view};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// An announcement that was just made may take this long to be heard. What is heard later may be the answer to
/// a question of somebody.
const LISTEN_FIRST: Duration = Duration::from_millis(100);
/// How long others have to say that they have an address, and how often they are asked meanwhile.
const ASK_FOR: Duration = Duration::from_millis(300);
/// See [`ASK_FOR`].
const ASKS: u32 = 3;
/// The service on a host of the same network takes a connection within this time.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// One virtual address, as this host sees it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub spec: VipSpec,
    /// Its interface, where that exists.
    pub link: Option<LinkView>,
    /// It is on this host.
    pub here: bool,
    /// Who else answers for it, or why that could not be asked.
    pub holders: Result<Vec<MacAddr>, String>,
    /// Who announced it lately, the newest first.
    pub claims: Vec<Learned>,
    /// How long the service took to take a connection at the address, or why it took none.
    pub service: Option<Result<Duration, String>>,
}

/// Where the S3 service listens, where there is one.
pub(super) fn service(config: &Config) -> Option<SocketAddr> {
    config.store.as_ref().filter(|store| store.root.is_some()).map(|store| store.listen)
}

/// Whether a service that listens there can be reached at `ip`. The kernel takes IPv4 for `[::]` too.
fn covers(listen: SocketAddr, ip: IpAddr) -> bool {
    listen.is_ipv4() == ip.is_ipv4() || listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Looks at each of `specs`.
pub(super) async fn addresses(
    specs: &[VipSpec],
    here: bool,
    service: Option<SocketAddr>,
    learner: &Learner,
    prober: &Prober,
) -> Vec<Seen> {
    if specs.is_empty() {
        return Vec::new();
    }
    sleep(LISTEN_FIRST).await;
    let claims: Vec<_> = specs.iter().map(|spec| learner.learned(spec)).collect();
    let connecting = futures::future::join_all(specs.iter().map(|spec| async move {
        let listen = service.filter(|listen| covers(*listen, spec.ip()))?;
        Some(connect(spec, listen.port()).await)
    }));
    let (holders, services) = tokio::join!(prober.holders(specs, ASKS, ASK_FOR), connecting);
    let each = specs.iter().zip(claims).zip(holders).zip(services);
    each.map(|(((spec, claims), holders), service)| Seen {
        spec: spec.clone(),
        link: link_view(&spec.interface).ok(),
        here,
        holders: holders.map_err(|error| error.to_string()),
        claims,
        service,
    })
    .collect()
}

async fn connect(spec: &VipSpec, port: u16) -> Result<Duration, String> {
    let begun = Instant::now();
    match timeout(CONNECT_WITHIN, TcpStream::connect((spec.ip(), port))).await {
        Ok(Ok(_)) => Ok(begun.elapsed()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT_WITHIN.as_secs())),
    }
}

/// Bytes of a file system that are free, and all of them.
pub(super) type FreeAndAll = (u64, u64);

/// What was found on this host, beside the network.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenHost {
    /// File systems that hold what must not be lost: where, and free and all bytes, or why not.
    pub space: Vec<(PathBuf, Result<FreeAndAll, String>)>,
    /// Programs that the configuration names and that cannot be run: by whom, which, and why.
    pub missing: Vec<(String, String, String)>,
    /// How many programs it names.
    pub programs: usize,
    /// Of each set of replicated files, what keeps it from being read or placed.
    pub files: Vec<(String, Vec<String>)>,
    /// Started by systemd.
    pub systemd: bool,
    /// The clock that counts suspend is there.
    pub boottime: bool,
}

impl SeenHost {
    pub(super) fn look(config: &Config) -> SeenHost {
        let mut dirs = vec![config.state_dir.clone()];
        dirs.extend(config.store.as_ref().map(|store| store.data_dir.clone()));
        let space = |dir: PathBuf| {
            let found = statvfs(&dir).map_err(|error| error.to_string());
            let bytes = found.map(|found| {
                let block = found.fragment_size();
                (found.blocks_available() * block, found.blocks() * block)
            });
            (dir, bytes)
        };
        let programs = programs(config);
        let unfit = |(who, program): &(String, String)| {
            let why = executable(Path::new(program)).err()?;
            Some((who.clone(), program.clone(), why))
        };
        SeenHost {
            space: dirs.into_iter().map(space).collect(),
            missing: programs.iter().filter_map(unfit).collect(),
            programs: programs.len(),
            files: crate::runtime::files::look_for_obstacles(&config.sync_files),
            systemd: std::env::var_os("INVOCATION_ID").is_some(),
            boottime: nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).is_ok(),
        }
    }
}

/// Whom the configuration has run what.
fn programs(config: &Config) -> Vec<(String, String)> {
    let hooks = config.ha.hooks.iter().map(|hook| (format!("hook {:?}", hook.name), hook.command.first()));
    let checks = config.checks.iter().filter_map(|check| match &check.kind {
        CheckKind::Exec(words) => Some((format!("check {:?}", check.name), words.first())),
        _ => None,
    });
    let of_files = config.sync_files.iter().flat_map(|set| {
        let programs = [("on_change", &set.on_change), ("on_takeover", &set.on_takeover)];
        programs.map(|(key, command)| {
            (format!("{key} of sync_files {:?}", set.name), command.as_ref().and_then(|words| words.first()))
        })
    });
    hooks.chain(checks).chain(of_files).filter_map(|(who, program)| Some((who, program?.clone()))).collect()
}

fn executable(program: &Path) -> Result<(), String> {
    let found = std::fs::metadata(program).map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("is not a file".to_owned());
    }
    access(program, AccessFlags::X_OK).map_err(|_| "is not executable".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_listens_for_ipv4_alone_is_not_tried_at_an_ipv6_address() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.100".parse().unwrap(), "fd77::100".parse().unwrap());
        let listens = |text: &str, ip| covers(text.parse().unwrap(), ip);
        assert!(listens("0.0.0.0:9000", v4) && !listens("0.0.0.0:9000", v6));
        assert!(listens("[::]:9000", v4) && listens("[::]:9000", v6));
        assert!(!listens("[fd77::1]:9000", v4));
    }

    #[test]
    fn a_program_must_be_there_and_executable() {
        assert!(executable(Path::new("/bin/sh")).is_ok());
        assert!(executable(Path::new("/no/such/program")).is_err());
        assert_eq!(executable(Path::new("/tmp")), Err("is not a file".to_owned()));
        let plain = tempfile::NamedTempFile::new().expect("a temporary file");
        // Root may run nothing that has no bit for it either.
        assert_eq!(executable(plain.path()), Err("is not executable".to_owned()));
    }
}
