//! Debian's keepalived (VRRPv3, unicast) in the world in which our own outages are measured, with a small server in
//! the place of the service.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::{ClusterSpec, S3_PORT, lan_address};
use holdfast_agent::lab::twins::Twins;
use holdfast_agent::lab::world::{NetNs, Plug};
use holdfast_integration::measure::median;
use holdfast_integration::stage::LIMIT;
use nix::sys::signal::Signal;

use super::outages::{list, ms};
use super::with_cluster;

const PROGRAM: &str = "/usr/sbin/keepalived";
/// The two routers, the preferred one first.
const ROUTERS: [&str; 2] = ["a", "b"];
/// How long the address must have been served before a blow.
const STEADY: Duration = Duration::from_millis(500);
/// How long is watched after a blow for an end of the outage, or of two hosts that serve.
const WATCHED: Duration = Duration::from_secs(3);

/// What is done to the preferred router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    PowerOff,
    CablePull,
    Kill,
    Stop,
    Deletion,
    PlannedStop,
}

/// What came of the rounds.
pub(super) struct Seen {
    outages: Vec<Duration>,
    twins: Duration,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (middle, all) = (ms(median(self.outages.clone())), list(&self.outages));
        write!(f, "  {middle:>6}                    ({all})")?;
        match self.twins {
            Duration::ZERO => Ok(()),
            long if long + STEADY * 2 > WATCHED => write!(f, "; two hosts serve until the end of the watch"),
            some => write!(f, "; two hosts serve for up to {} ms", ms(some)),
        }
    }
}

/// What is installed, if it is.
pub(super) fn version() -> Option<String> {
    let output = Command::new(PROGRAM).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().next().map(str::to_owned)
}

/// Strikes `rounds` times, each in a world of its own.
pub(super) fn outages(binary: &Path, interval_ms: u64, blow: Blow, rounds: usize) -> Result<Seen> {
    let mut seen = Seen { outages: Vec::new(), twins: Duration::ZERO };
    for _ in 0..rounds {
        let spec = ClusterSpec::default();
        let idle = spec.members().iter().map(|&member| member.to_owned()).collect();
        let spec = ClusterSpec { idle, ..spec };
        let (outage, twins) = with_cluster(binary, spec, |world| strike(world, interval_ms, blow))?;
        seen.outages.push(outage);
        seen.twins = seen.twins.max(twins);
    }
    Ok(seen)
}

fn strike(world: &Cluster, interval_ms: u64, blow: Blow) -> Result<(Duration, Duration)> {
    let halt = Arc::new(AtomicBool::new(false));
    for (name, other) in [("a", "b"), ("b", "a")] {
        serve(&world.netns(name)?, &halt)?;
        start(world, name, other, interval_ms)?;
    }
    let prober = Prober::start(&world.client()?, world.probe_target());
    // The preferred router, that is; the other may have begun.
    prober.wait_served_after(Instant::now() + STEADY * 4, LIMIT)?;
    let twins = Twins::watch(world)?;
    prober.wait_served_after(Instant::now() + STEADY, LIMIT)?;
    let machine = world.world().machine(ROUTERS[0])?;
    match blow {
        Blow::PowerOff => machine.power_off()?,
        Blow::CablePull => machine.plug(None, Plug::Pulled)?,
        Blow::Kill => machine.signal_everybody(Signal::SIGKILL)?,
        Blow::Stop => machine.signal_everybody(Signal::SIGSTOP)?,
        Blow::Deletion => machine.take_address(IpAddr::V4(world.spec().vip))?,
        Blow::PlannedStop => machine.signal_everybody(Signal::SIGTERM)?,
    }
    let struck = Instant::now();
    std::thread::sleep(WATCHED);
    // An address that is gone for good is an outage without an end.
    let last = prober.last_served().unwrap_or(struck);
    let open = struck.elapsed().saturating_sub(last.saturating_duration_since(struck));
    let outage = prober.stop()?.outage().context("nothing was served at all")?.max(open);
    let evidence = twins.stop()?;
    halt.store(true, Ordering::Relaxed);
    let both = evidence.twin_services(WATCHED).into_iter().map(|overlap| overlap.duration).max();
    Ok((outage, both.unwrap_or_default()))
}

fn start(world: &Cluster, name: &str, other: &str, interval_ms: u64) -> Result<()> {
    let machine = world.world().machine(name)?;
    let priority = if name == ROUTERS[0] { 150 } else { 100 };
    let text = format!(
        "global_defs {{\n  router_id {name}\n  vrrp_version 3\n}}\nvrrp_instance V {{\n  state BACKUP\n  interface eth0\n  \
         virtual_router_id 51\n  priority {priority}\n  advert_int {}\n  unicast_src_ip {}\n  unicast_peer {{\n    {}\n  }}\n  \
         virtual_ipaddress {{\n    {}/24 dev eth0\n  }}\n}}\n",
        interval_ms as f64 / 1000.0,
        lan_address(name),
        lan_address(other),
        world.spec().vip,
    );
    let at = |file: &str| machine.dir().join(file).display().to_string();
    std::fs::write(at("keepalived.conf"), text)?;
    let argv = [
        PROGRAM,
        "-n",
        "-l",
        "-P",
        "-f",
        &at("keepalived.conf"),
        "-p",
        &at("main.pid"),
        "-r",
        &at("vrrp.pid"),
    ];
    let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
    machine.start_process(&argv, &[], "keepalived.log").map(drop)
}

/// Answers every connection of `host` to the service's port with a "200 OK", until `halt`.
fn serve(host: &NetNs, halt: &Arc<AtomicBool>) -> Result<()> {
    let listener = host.run(|| TcpListener::bind(("0.0.0.0", S3_PORT)))??;
    listener.set_nonblocking(true)?;
    let halt = halt.clone();
    // Sockets stay in the namespace they were made in; the thread need not be there.
    std::thread::spawn(move || {
        while !halt.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
                    let _ = stream.read(&mut [0; 512]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
                Err(_) => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    });
    Ok(())
}
