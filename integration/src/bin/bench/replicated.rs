//! What the standby costs a write: the rate of small PUTs with each member on processors of its own, and the latency of
//! one client with where it goes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::{ClusterSpec, lan_address};
use holdfast_integration::stage::LIMIT;

use super::bare;
use super::cpu_share::{CpuShare, processes_of};
use super::s3::load::{Done, Work, run};
use super::s3::servers;
use super::with_cluster;

pub(super) const OBJECT: usize = 4 << 10;
const CLIENTS: usize = 32;
/// How long each line is measured.
const SPAN: Duration = Duration::from_secs(6);
/// Before it: connections, caches, the first segment.
const WARM_UP: Duration = Duration::from_secs(1);
/// What a data member has for itself, in processors.
const MEMBER: f64 = 0.6;
/// What the clients have.
const LOADER: f64 = 0.7;

/// Where the round trip is measured.
const ECHO_PORT: u16 = 9990;

/// What was seen of one cluster.
struct Seen {
    /// PUTs in a second, with processors divided.
    rate: f64,
    /// Of one client, with the machine to itself.
    latency: Latency,
    /// Of the same exchange with nobody doing anything but that; of a pair.
    bare: Option<Latency>,
}

/// Means, in milliseconds.
#[derive(Clone, Copy, Default)]
pub(super) struct Latency {
    pub whole: f64,
    pub sync_here: f64,
    /// After the own sync.
    pub standby_wait: f64,
    pub sync_there: f64,
    pub round_trip: f64,
}

impl Latency {
    /// What nobody can be below: the own disk, or the way to the other one's and back.
    fn floor(&self) -> f64 {
        self.sync_here.max(self.round_trip + self.sync_there)
    }
}

/// Measures solo and pair in turn, so often.
pub(super) fn all(binary: &Path, rounds: usize) -> Result<()> {
    println!(
        "PUT {} KiB: {CLIENTS} clients with {MEMBER} of a processor for each data member and {LOADER} for the clients; one client with the machine to itself",
        OBJECT >> 10
    );
    let (mut ratios, mut over, mut bare_over) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let alone = ClusterSpec { data_members: 1, ..ClusterSpec::default() };
        let solo = with_cluster(binary, alone, measure)?;
        let pair = with_cluster(binary, ClusterSpec::default(), measure)?;
        println!("  round {round}");
        for (name, seen) in [("solo", &solo), ("pair", &pair)] {
            let Latency { whole, sync_here, standby_wait, sync_there, round_trip } = seen.latency;
            let rest = whole - sync_here - standby_wait;
            println!(
                "    {name}: {:>6.0} PUT/s; one client {whole:.2} ms = sync here {sync_here:.2} + wait for the standby {standby_wait:.2} + request, index and answer {rest:.2}; sync there {sync_there:.2}, round trip {round_trip:.2}",
                seen.rate
            );
        }
        if let Some(bare) = pair.bare {
            println!(
                "    bare: one client {:.2} ms; sync here {:.2}, sync there {:.2}",
                bare.whole, bare.sync_here, bare.sync_there
            );
            bare_over.push(bare.whole / bare.floor());
        }
        ratios.push(pair.rate / solo.rate);
        over.push(pair.latency.whole / pair.latency.floor());
    }
    println!("  rate of the pair: {:.0} % of solo's (median; goal 70)", median(ratios) * 100.0);
    println!(
        "  latency of the pair: {:.2} of max(sync here, round trip + sync there) (median; goal 1.2)",
        median(over)
    );
    println!("  latency of the same exchange without a store: {:.2} of that (median)", median(bare_over));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure(cluster: &Cluster) -> Result<Seen> {
    let (client, running) = (cluster.client()?, servers::holdfast(cluster)?);
    let put = |clients: usize, span: Duration| -> Result<Done> {
        run(&client, &running.server, Work::Put(OBJECT), clients, span)
    };
    let primary = cluster.wait_for_primary(LIMIT)?;
    let data = cluster.spec().data().to_vec();
    let standby = data.iter().copied().find(|host| *host != primary);

    put(1, WARM_UP)?;
    let before = Times::of(cluster, &primary, standby)?;
    let one = put(1, SPAN)?;
    let after = Times::of(cluster, &primary, standby)?;
    let latency = Latency {
        whole: one.took.as_secs_f64() * 1e3 / one.requests as f64,
        round_trip: standby.map_or(Ok(0.0), |standby| round_trip(cluster, &primary, standby))?,
        ..after.since(&before)
    };

    let bare =
        standby.map(|standby| bare::latency(cluster, &primary, standby, latency.round_trip)).transpose()?;

    let loader = CpuShare::new("clients", LOADER)?;
    loader.admit(std::process::id())?;
    let mut shares = Vec::new();
    for host in data {
        let share = CpuShare::new(host, MEMBER)?;
        for pid in processes_of(cluster.world().machine(host)?.init_pid()?)? {
            share.admit(pid)?;
        }
        shares.push(share);
    }
    put(CLIENTS, WARM_UP)?;
    let many = put(CLIENTS, SPAN)?;
    Ok(Seen { rate: many.per_second(), latency, bare })
}

/// The median time, in milliseconds, in which an object and back an acknowledgement cross the network between two hosts
/// over TCP, with nobody doing anything but that.
fn round_trip(cluster: &Cluster, from: &str, to: &str) -> Result<f64> {
    const EXCHANGES: usize = 500;
    let at = (lan_address(to), ECHO_PORT);
    let listener = cluster.netns(to)?.run(|| TcpListener::bind(at))??;
    let answering = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut object = [0; OBJECT];
        (0..EXCHANGES).try_for_each(|_| {
            stream.read_exact(&mut object)?;
            stream.write_all(&[1])
        })
    });
    let mut stream = cluster.netns(from)?.run(|| TcpStream::connect(at))??;
    stream.set_nodelay(true)?;
    let mut took = Vec::with_capacity(EXCHANGES);
    for _ in 0..EXCHANGES {
        let began = Instant::now();
        stream.write_all(&[7; OBJECT])?;
        stream.read_exact(&mut [0])?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    answering.join().map_err(|_| anyhow::anyhow!("the answering thread died"))??;
    Ok(median(took))
}

/// Sum in seconds, and count.
type Summed = (f64, f64);

/// What the members counted until now.
pub(super) struct Times {
    sync_here: Summed,
    standby_wait: Summed,
    sync_there: Summed,
}

impl Times {
    pub(super) fn of(cluster: &Cluster, primary: &str, standby: Option<&str>) -> Result<Times> {
        let here = Metrics::of(cluster, primary)?;
        let there = standby.map(|host| Metrics::of(cluster, host)).transpose()?;
        Ok(Times {
            sync_here: here.summed("holdfast_log_sync_seconds")?,
            standby_wait: here.summed("holdfast_log_standby_wait_seconds")?,
            sync_there: match there {
                Some(there) => there.summed("holdfast_log_sync_seconds")?,
                None => (0.0, 0.0),
            },
        })
    }

    /// What it was in between; without what only the client can tell.
    pub(super) fn since(&self, before: &Times) -> Latency {
        let mean_ms = |now: Summed, before: Summed| match now.1 - before.1 {
            0.0 => 0.0,
            count => (now.0 - before.0) / count * 1e3,
        };
        Latency {
            whole: 0.0,
            sync_here: mean_ms(self.sync_here, before.sync_here),
            standby_wait: mean_ms(self.standby_wait, before.standby_wait),
            sync_there: mean_ms(self.sync_there, before.sync_there),
            round_trip: 0.0,
        }
    }
}

struct Metrics(String);

impl Metrics {
    fn of(cluster: &Cluster, host: &str) -> Result<Metrics> {
        Ok(Metrics(agent_api::text(&cluster.netns(host)?, "/metrics")?))
    }

    /// The number in the first line that begins with `name` and has `with` in it.
    fn value(&self, name: &str, with: &str) -> Result<f64> {
        let mut lines = self.0.lines();
        let line = lines.find(|line| line.starts_with(name) && line.contains(with));
        let line = line.with_context(|| format!("no {name} with {with}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }

    fn summed(&self, histogram: &str) -> Result<Summed> {
        Ok((self.value(&format!("{histogram}_sum"), "")?, self.value(&format!("{histogram}_count"), "")?))
    }
}
