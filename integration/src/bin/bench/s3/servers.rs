//! The servers that are compared, each on the same simulated host, one at a time.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::{ACCESS_KEY, SECRET_KEY, lan_address};
use holdfast_integration::stage::LIMIT;

use super::load::Server;
use crate::usage::Usage;

/// The bucket of every server.
pub(super) const BUCKET: &str = "bench";
/// The host that peers run on.
const HOST: &str = "a";
/// The port of peers.
const PORT: u16 = 9000;

/// A server that runs, and what it runs as.
pub(crate) struct Running<'a> {
    pub server: Server,
    /// Its processes: host and number there.
    pids: Vec<(&'a str, i32)>,
    cluster: &'a Cluster,
}

impl Running<'_> {
    /// What all its processes have used.
    pub(super) fn usage(&self) -> Result<Usage> {
        let mut sum = Usage::default();
        for (host, pid) in &self.pids {
            sum = sum.and(Usage::of(self.cluster.world().machine(host)?, *pid)?);
        }
        Ok(sum)
    }

    /// The number that its first process has outside of its host, for a profiler.
    pub(super) fn outer_pid(&self) -> Result<u32> {
        let (host, inner) = self.pids.first().context("it has no process")?;
        let namespace =
            fs::read_link(format!("/proc/{}/ns/net", self.cluster.world().machine(host)?.init_pid()?))?;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let here = fs::read_link(entry.path().join("ns/net")).is_ok_and(|found| found == namespace);
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            if here && numbers.split_whitespace().last() == Some(&inner.to_string()) {
                return Ok(pid);
            }
        }
        bail!("process {inner} of {host} was not found")
    }
}

/// Holdfast as it stands in the cluster; the bucket is made.
pub(crate) fn holdfast(cluster: &Cluster) -> Result<Running<'_>> {
    let pair = cluster.spec().data().len() > 1;
    let primary = if pair { cluster.wait_in_sync(LIMIT)? } else { cluster.wait_for_primary(LIMIT)? };
    let target = cluster.target(BUCKET);
    target.create_bucket(&cluster.client()?, LIMIT)?;
    let mut hosts: Vec<&str> = cluster.spec().data().to_vec();
    hosts.sort_by_key(|host| *host != primary);
    let pids = hosts.iter().map(|host| Ok((*host, cluster.status(host)?.pid)));
    Ok(Running {
        server: Server {
            address: cluster.probe_target().address,
            region: "us-east-1",
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            bucket: BUCKET,
        },
        pids: pids.collect::<Result<_>>()?,
        cluster,
    })
}

/// Where a program is: in `PATH`, or where `variable` says.
fn program(variable: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain(["/usr/sbin".into()]).map(|dir| dir.join(name));
    named.into_iter().chain(found).find(|path| path.is_file())
}

/// Whether there is a Garage to compare with.
pub(super) fn garage_program() -> Option<PathBuf> {
    program("HOLDFAST_GARAGE", "garage")
}

/// Whether there is an nginx to compare with.
pub(super) fn nginx_program() -> Option<PathBuf> {
    program("HOLDFAST_NGINX", "nginx")
}

/// Garage, alone, with or without waiting for the disk (its default is not to).
pub(super) fn garage<'a>(cluster: &'a Cluster, program: &Path, fsync: bool) -> Result<Running<'a>> {
    let machine = cluster.world().machine(HOST)?;
    let dir = machine.dir().join(format!("garage-{fsync}"));
    fs::create_dir_all(&dir)?;
    let address = SocketAddr::new(lan_address(HOST), PORT);
    let config = dir.join("garage.toml");
    let secret = "0".repeat(64);
    fs::write(
        &config,
        format!(
            "metadata_dir = \"{dir}/meta\"\ndata_dir = \"{dir}/data\"\ndb_engine = \"lmdb\"\nreplication_factor = 1\n\
             metadata_fsync = {fsync}\ndata_fsync = {fsync}\nrpc_bind_addr = \"127.0.0.1:3901\"\nrpc_secret = \"{secret}\"\n\
             [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"{address}\"\n",
            dir = dir.display()
        ),
    )?;
    let (access_key, secret_key) = (format!("GK{}", "1".repeat(24)), "2".repeat(64));
    let argv = [
        &program.display().to_string(),
        "-c",
        &config.display().to_string(),
        "server",
        "--single-node",
        "--default-bucket",
    ];
    let env = [
        ("GARAGE_DEFAULT_ACCESS_KEY", access_key.clone()),
        ("GARAGE_DEFAULT_SECRET_KEY", secret_key.clone()),
        ("GARAGE_DEFAULT_BUCKET", BUCKET.to_owned()),
        ("RUST_LOG", "garage=warn".to_owned()),
    ];
    let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
    let env: Vec<_> = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let pid = machine.start_process(&argv, &env, "garage.log")?;
    reachable(cluster, address)?;
    // Its bucket is made a moment after it listens.
    sleep(Duration::from_secs(1));
    let server = Server { address, region: "garage", access_key, secret_key, bucket: BUCKET };
    Ok(Running { server, pids: vec![(HOST, pid)], cluster })
}

/// nginx over a directory of files of these sizes, as many as given.
pub(super) fn nginx<'a>(cluster: &'a Cluster, program: &Path, files: &[(usize, u64)]) -> Result<Running<'a>> {
    let machine = cluster.world().machine(HOST)?;
    let dir = machine.dir().join("nginx");
    let root = dir.join(BUCKET);
    fs::create_dir_all(&root)?;
    for (size, count) in files {
        for n in 0..*count {
            fs::write(root.join(format!("{size}-{n:08}")), vec![7; *size])?;
        }
    }
    let address = SocketAddr::new(lan_address(HOST), PORT);
    let config = dir.join("nginx.conf");
    fs::write(
        &config,
        format!(
            "user root;\ndaemon off;\nmaster_process off;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
             events {{ worker_connections 512; }}\nhttp {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n  \
             keepalive_requests 100000000;\n  client_body_temp_path {dir}/body;\n  proxy_temp_path {dir}/proxy;\n  \
             fastcgi_temp_path {dir}/fastcgi;\n  uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n  \
             open_file_cache max=20000;\n  server {{ listen {address}; root {dir}; }}\n}}\n",
            dir = dir.display()
        ),
    )?;
    let argv: Vec<String> =
        [program.display().to_string(), "-c".to_owned(), config.display().to_string()].into();
    let pid = machine.start_process(&argv, &[], "nginx.log")?;
    reachable(cluster, address)?;
    let server = Server {
        address,
        region: "none",
        access_key: String::new(),
        secret_key: String::new(),
        bucket: BUCKET,
    };
    Ok(Running { server, pids: vec![(HOST, pid)], cluster })
}

fn reachable(cluster: &Cluster, address: SocketAddr) -> Result<()> {
    let client = cluster.client()?;
    let begun = Instant::now();
    while !client.run(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())? {
        if begun.elapsed() > LIMIT {
            bail!("{address} was not reachable within {LIMIT:?}\n{}", cluster.log_tails());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
