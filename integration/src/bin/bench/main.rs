//! Measures what a user would ask about, on this machine, in one run: outages, throughput, idle cost.
//!
//! Run it as `cargo build --release -p holdfast-agent && cargo run --release -p holdfast-integration --bin bench`.
//! Words after it choose parts (`outages`, `throughput`, `idle`) or lines of the outages by a part of their name
//! (`switchover`), a number the rounds. Where Debian's keepalived is
//! installed, its outages stand beside ours, in the same world at the same interval.
//!
//! `bench s3` is the store under load. After it, `solo`, `pair`, `garage`, `nginx` and `raw` choose what is measured,
//! `'only=GET 4 KiB'` lines by a part of their name, and `out=DIR` a directory for flame graphs of our own lines
//! (perf and inferno; `cargo build --profile profiling -p holdfast-agent`, and HOLDFAST_BINARY names that program).
//! Garage is found in PATH or by HOLDFAST_GARAGE. `bench many` is a bucket with ten million objects, or as many as a
//! number after it says.
//! `bench rejoin` brings back a standby that missed a hundredth of 10 GiB (or of the number after it), and a new one.
//! `bench replicated` is what the standby costs a small PUT: its rate with processors divided, and where the latency
//! goes, in three rounds (or as many as the number after it); and what the same exchange costs without any store.
//! `bench link` is a standby far away: 40 ms of round trip at 1,000 Mbit/s, or what two numbers after it say.
//! `bench lag` is the memory of both members while a standby that lacks 100 GiB (or the number after it) catches up.
//! Absolute figures are those of the machine, loader included; compare within one run only.

mod bare;
mod cpu_share;
mod idle;
mod keepalived;
mod lag;
mod long_link;
mod outages;
mod rejoin;
mod replicated;
mod s3;
mod throughput;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::stage::{LIMIT, holdfast_binary, wait_for_turn};

/// Rounds of each fault where no number is given.
const ROUNDS: usize = 10;
/// What can be chosen.
const PARTS: [&str; 3] = ["outages", "throughput", "idle"];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = words.split_first() {
        if first == "s3" {
            return store(rest);
        }
        if let Some(measure) = of_its_own(first, rest)? {
            let _turn = wait_for_turn()?;
            return measure(&holdfast_binary()?);
        }
    }
    let mut rounds = ROUNDS;
    let mut parts = Vec::new();
    let mut lines = Vec::new();
    for word in words {
        match word.parse() {
            Ok(number) => rounds = number,
            Err(_) if PARTS.contains(&word.as_str()) => parts.push(word),
            Err(_) if outages::is_line(&word) => lines.push(word),
            Err(_) => bail!(
                "{word:?} is no number of rounds, no part ({}), and in no line of the outages",
                PARTS.join(", ")
            ),
        }
    }
    let everything = parts.is_empty() && lines.is_empty();
    let wanted = |part: &str| everything || parts.iter().any(|chosen| chosen == part);
    let _turn = wait_for_turn()?;
    let binary = holdfast_binary()?;
    println!("program: {}", binary.display());
    if wanted("outages") || !lines.is_empty() {
        outages::all(&binary, rounds, &lines)?;
    }
    if wanted("throughput") {
        println!("\nthroughput over {} s", throughput::LOAD_FOR.as_secs());
        with_cluster(&binary, ClusterSpec::default(), |cluster| {
            cluster.wait_in_sync(LIMIT)?;
            throughput::throughput(cluster, "replicated")
        })?;
        let solo = ClusterSpec { data_members: 1, ..ClusterSpec::default() };
        with_cluster(&binary, solo, |cluster| {
            cluster.wait_for_primary(LIMIT)?;
            throughput::throughput(cluster, "solo")
        })?;
    }
    if wanted("idle") {
        println!("\nidle agents over {} s", idle::IDLE_FOR.as_secs());
        with_cluster(&binary, ClusterSpec::default(), idle::idle)?;
    }
    Ok(())
}

/// Measures something with a program.
type Measure = Box<dyn FnOnce(&Path) -> Result<()>>;

/// What is measured by itself, with the numbers after its name; `None` where `first` is no such thing.
fn of_its_own(first: &str, rest: &[String]) -> Result<Option<Measure>> {
    let number = |at: usize, otherwise: u64| rest.get(at).map_or(Ok(otherwise), |word| word.parse());
    Ok(Some(match first {
        "rejoin" => {
            let gib = number(0, 10)?;
            Box::new(move |binary| rejoin::all(binary, gib))
        }
        "replicated" => {
            let rounds = number(0, 3)?.try_into()?;
            Box::new(move |binary| replicated::all(binary, rounds))
        }
        "link" => {
            let (round_trip, mbit) = (Duration::from_millis(number(0, 40)?), number(1, 1000)?);
            Box::new(move |binary| long_link::all(binary, round_trip, mbit))
        }
        "lag" => {
            let gib = number(0, 100)?;
            Box::new(move |binary| lag::all(binary, gib))
        }
        "many" => {
            let count = number(0, 10_000_000)?;
            Box::new(move |binary| s3::many::all(binary, count))
        }
        _ => return Ok(None),
    }))
}

/// The store under load, as `words` choose.
fn store(words: &[String]) -> Result<()> {
    let (mut servers, mut only, mut out) = (Vec::new(), Vec::new(), None);
    for word in words {
        match word.split_once('=') {
            Some(("only", part)) => only.push(part.to_owned()),
            Some(("out", dir)) => out = Some(PathBuf::from(dir)),
            None if s3::SERVERS.contains(&word.as_str()) => servers.push(word.clone()),
            _ => bail!("{word:?} is none of {}, only=PART, out=DIR", s3::SERVERS.join(", ")),
        }
    }
    if let Some(out) = &out {
        std::fs::create_dir_all(out)?;
    }
    let _turn = wait_for_turn()?;
    let binary = holdfast_binary()?;
    println!("program: {}", binary.display());
    s3::all(&binary, &servers, &only, out.as_deref())
}

fn with_cluster<T>(binary: &Path, spec: ClusterSpec, body: impl FnOnce(&Cluster) -> Result<T>) -> Result<T> {
    let dir = tempfile::Builder::new().prefix("holdfast-bench-").tempdir()?;
    let cluster = Cluster::start(spec, dir.path(), binary)?;
    body(&cluster).inspect_err(|_| eprintln!("{}", cluster.log_tails()))
}
