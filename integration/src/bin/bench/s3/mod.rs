//! The store under load, alone and as a pair, beside Garage where that is installed, and beside what the machine
//! gives at most: fio for the disk, nginx for reads.
//!
//! Everything runs on one machine, one server at a time, with the same generator; absolute figures are that machine's.

pub(super) mod load;
pub(super) mod many;
pub(super) mod raw;
pub(super) mod servers;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::ClusterSpec;

use self::load::{Done, Work, run};
use self::servers::Running;
use super::with_cluster;

/// What can be chosen.
pub(super) const SERVERS: [&str; 5] = ["raw", "nginx", "garage", "solo", "pair"];

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// How long each line is measured.
const SPAN: Duration = Duration::from_secs(6);
/// How long it may take to store what reads choose from; a slow server gets less.
const STOCK_WITHIN: Duration = Duration::from_secs(90);
/// What reads have to choose from: size and count.
const SMALL: (usize, u64) = (4 * KIB, 10_000);
const MIDDLE: (usize, u64) = (64 * KIB, 2_000);
const LARGE: (usize, u64) = (16 * MIB, 16);
/// What is listed: so many objects, of one byte each.
const LISTED: (usize, u64) = (1, 100_000);

/// A line of the table: what is done by how many clients, and whether it is counted in bytes.
struct Line {
    name: &'static str,
    work: Work,
    clients: usize,
    in_bytes: bool,
}

const fn line(name: &'static str, work: Work, clients: usize, in_bytes: bool) -> Line {
    Line { name, work, clients, in_bytes }
}

const LINES: [Line; 14] = [
    line("PUT 4 KiB, 32 clients", Work::Put(4 * KIB), 32, false),
    line("PUT 4 KiB, 1 client", Work::Put(4 * KIB), 1, false),
    line("GET 4 KiB, 32 clients", Work::Get(SMALL.0, SMALL.1), 32, false),
    line("GET 4 KiB, 1 client", Work::Get(SMALL.0, SMALL.1), 1, false),
    line("PUT 64 KiB, 32 clients", Work::Put(64 * KIB), 32, false),
    line("PUT 64 KiB, 1 client", Work::Put(64 * KIB), 1, false),
    line("GET 64 KiB, 32 clients", Work::Get(MIDDLE.0, MIDDLE.1), 32, false),
    line("GET 64 KiB, 1 client", Work::Get(MIDDLE.0, MIDDLE.1), 1, false),
    line("PUT 16 MiB, 4 clients", Work::Put(16 * MIB), 4, true),
    line("PUT 16 MiB, 1 client", Work::Put(16 * MIB), 1, true),
    line("GET 16 MiB, 4 clients", Work::Get(LARGE.0, LARGE.1), 4, true),
    line("GET 16 MiB, 1 client", Work::Get(LARGE.0, LARGE.1), 1, true),
    line("mixed 4 KiB, 32 clients", Work::Mixed(SMALL.0, SMALL.1), 32, false),
    line("LIST pages of 1,000", Work::List(LISTED.0), 1, false),
];

/// What was measured of one server.
struct Column {
    name: String,
    cells: Vec<Option<Cell>>,
    rss_mib: f64,
    peak_mib: f64,
}

struct Cell {
    done: Done,
    cpu_us: f64,
}

/// Measures what `words` choose of the servers (`solo`, `pair`, `garage`, `nginx`, `raw`), or all; of the lines those
/// that `only` names a part of, or all. Profiles of ours go to `out`.
pub(super) fn all(binary: &Path, servers: &[String], only: &[String], out: Option<&Path>) -> Result<()> {
    let wanted = |name: &str| servers.is_empty() || servers.iter().any(|word| word == name);
    let lines: Vec<&Line> = LINES
        .iter()
        .filter(|line| only.is_empty() || only.iter().any(|word| line.name.contains(word.as_str())))
        .collect();
    println!("\nthe store under load: {} s a line; CPU is that of the server's processes", SPAN.as_secs());
    if wanted("raw") {
        raw::print()?;
    }
    let mut columns = Vec::new();
    let alone = ClusterSpec { data_members: 1, ..ClusterSpec::default() };
    let empty = || {
        let spec = ClusterSpec::default();
        ClusterSpec { idle: spec.members().iter().map(|&m| m.to_owned()).collect(), ..spec }
    };
    if let (true, Some(nginx)) = (wanted("nginx"), servers::nginx_program()) {
        let files = [SMALL, MIDDLE, LARGE];
        columns.push(with_cluster(binary, empty(), |cluster| {
            measure("nginx", cluster, &servers::nginx(cluster, &nginx, &files)?, &lines, false, None)
        })?);
    }
    if let (true, Some(garage)) = (wanted("garage"), servers::garage_program()) {
        for (name, fsync) in [("Garage", false), ("Garage, fsync", true)] {
            columns.push(with_cluster(binary, empty(), |cluster| {
                measure(name, cluster, &servers::garage(cluster, &garage, fsync)?, &lines, true, None)
            })?);
        }
    } else if wanted("garage") {
        println!("  Garage is not installed: `cargo install garage`, or name it in HOLDFAST_GARAGE");
    }
    if wanted("solo") {
        columns.push(with_cluster(binary, alone, |cluster| {
            measure("solo", cluster, &servers::holdfast(cluster)?, &lines, true, out)
        })?);
    }
    if wanted("pair") {
        columns.push(with_cluster(binary, ClusterSpec::default(), |cluster| {
            measure("pair", cluster, &servers::holdfast(cluster)?, &lines, true, None)
        })?);
    }
    print(&lines, &columns);
    Ok(())
}

fn measure(
    name: &str,
    cluster: &Cluster,
    running: &Running<'_>,
    lines: &[&Line],
    writes: bool,
    out: Option<&Path>,
) -> Result<Column> {
    let client = cluster.client()?;
    let mut stocks = Vec::new();
    if writes {
        for stock in [SMALL, MIDDLE, LARGE, LISTED] {
            let needs = |line: &&&Line| match line.work {
                Work::Get(size, _) | Work::Mixed(size, _) | Work::List(size) => size == stock.0,
                Work::Put(_) | Work::Fill(..) | Work::FillZeros(..) | Work::Page(..) => false,
            };
            if lines.iter().any(|line| needs(&line)) {
                let clients = if stock.0 >= MIB { 4 } else { 32 };
                let done =
                    run(&client, &running.server, Work::Fill(stock.0, stock.1), clients, STOCK_WITHIN)?;
                eprintln!("  {name}: {} objects of {}", done.requests, size(stock.0));
                stocks.push((stock.0, done.requests));
            }
        }
    }
    let mut cells = Vec::new();
    for line in lines {
        if !writes && !matches!(line.work, Work::Get(..)) {
            cells.push(None);
            continue;
        }
        let profile = out.map(|out| Profile::start(running, out, line.name)).transpose()?;
        let before = running.usage()?;
        let there = |size| stocks.iter().find(|(of, _)| *of == size).map(|(_, count)| *count);
        let work = match line.work {
            Work::Get(size, count) => Work::Get(size, there(size).unwrap_or(count)),
            Work::Mixed(size, count) => Work::Mixed(size, there(size).unwrap_or(count)),
            other => other,
        };
        let done = run(&client, &running.server, work, line.clients, SPAN)
            .with_context(|| format!("{name}: {}", line.name))?;
        let cpu = running.usage()?.cpu_seconds - before.cpu_seconds;
        if let Some(profile) = profile {
            profile.finish()?;
        }
        eprintln!("  {name}: {}: {}", line.name, shown(line, &done));
        cells.push(Some(Cell { cpu_us: cpu * 1e6 / done.requests as f64, done }));
    }
    let usage = running.usage()?;
    Ok(Column { name: name.to_owned(), cells, rss_mib: usage.rss_mib, peak_mib: usage.peak_mib })
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} byte"),
        1024..1_048_576 => format!("{} KiB", bytes / KIB),
        _ => format!("{} MiB", bytes / MIB),
    }
}

fn shown(line: &Line, done: &Done) -> String {
    if line.in_bytes {
        format!("{:.0} MB/s", done.mb_per_second())
    } else {
        format!("{:.0}/s", done.per_second())
    }
}

fn print(lines: &[&Line], columns: &[Column]) {
    println!("\n  rate · p50 / p99 in ms · CPU in µs per request");
    print!("  {:<26}", "");
    for column in columns {
        print!(" {:>32}", column.name);
    }
    println!();
    for (i, line) in lines.iter().enumerate() {
        print!("  {:<26}", line.name);
        for column in columns {
            let cell = column.cells[i].as_ref().map_or_else(String::new, |cell| {
                let ms = |share| cell.done.quantile(share).as_secs_f64() * 1e3;
                format!("{} · {:.1} / {:.1} · {:.0}", shown(line, &cell.done), ms(0.5), ms(0.99), cell.cpu_us)
            });
            print!(" {cell:>32}");
        }
        println!();
    }
    print!("  {:<26}", "resident memory, peak, MiB");
    for column in columns {
        print!(" {:>32}", format!("{:.0}, {:.0}", column.rss_mib, column.peak_mib));
    }
    println!();
}

/// `perf` on the server's first process while a line is measured.
struct Profile {
    perf: std::process::Child,
    data: PathBuf,
}

impl Profile {
    fn start(running: &Running<'_>, out: &Path, line: &str) -> Result<Profile> {
        let name = line.replace([' ', ','], "-").replace("--", "-");
        let data = out.join(format!("{name}.perf"));
        let pid = running.outer_pid()?.to_string();
        let perf = Command::new("perf")
            .args(["record", "-q", "-F", "199", "-g", "--call-graph", "fp", "-p", &pid, "-o"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("profiles need perf: apt-get install linux-perf")?;
        Ok(Profile { perf, data })
    }

    /// Ends it, and leaves a flame graph beside the data where inferno is installed.
    fn finish(mut self) -> Result<()> {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.perf.id())?),
            nix::sys::signal::Signal::SIGINT,
        )?;
        self.perf.wait()?;
        let data = self.data.display();
        let draw = format!(
            "perf script -i '{data}' 2>/dev/null | inferno-collapse-perf | tee '{data}.folded' | inferno-flamegraph > '{}'",
            self.data.with_extension("svg").display()
        );
        let drawn = Command::new("sh").args(["-c", &draw]).stderr(Stdio::null()).status()?;
        if !drawn.success() {
            println!("  no flame graph of {data}: cargo install inferno");
        }
        Ok(())
    }
}
