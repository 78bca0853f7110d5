//! `cargo sim`: the simulator on the command line.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use holdfast_integration::sim::run::{Verdict, quiet_panics, run_seed};
use holdfast_integration::sim::scenario;
use holdfast_integration::sim::sweep::{Sweep, Tally};

/// A simulated world is many small things that come and go: a seventh of the time is the allocator's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds that found something once. A seed draws the same run only as long as nothing is drawn otherwise;
/// what it found is kept as a scenario or a test as well.
const KNOWN: &str = include_str!("../../seeds.txt");

#[derive(Parser)]
#[command(
    name = "cargo sim",
    about = "Runs the production core, log and store in a simulated world, from one seed each"
)]
struct Cli {
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Args)]
struct SweepArgs {
    /// Run this one seed and show what happened
    #[arg(long, conflicts_with_all = ["seeds", "minutes", "from"])]
    seed: Option<u64>,
    /// With --seed: write every event to this file, one line each
    #[arg(long, requires = "seed")]
    event_log: Option<PathBuf>,
    /// How many seeds to run [default: 200, or as many as fit into --minutes]
    #[arg(long)]
    seeds: Option<u64>,
    /// For how long to run, at most
    #[arg(long)]
    minutes: Option<f64>,
    /// The first seed: a number, or any text such as a commit, of which one is made
    #[arg(long)]
    from: Option<String>,
    /// On how many threads [default: one for each processor]
    #[arg(long)]
    jobs: Option<usize>,
    /// Run every seed twice and compare everything that happened
    #[arg(long)]
    twice: bool,
    /// Go on after a rule was broken
    #[arg(long)]
    keep_going: bool,
}

#[derive(Subcommand)]
enum What {
    /// Run every seed that ever found something
    Known,
    /// Play scenario files and compare the outcome with what they say
    Scenario {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show that each planted bug is caught, and after how many seeds (needs --features planted-bugs)
    Bugs {
        /// Only this one
        name: Option<String>,
        /// How many seeds to try for each
        #[arg(long, default_value_t = 3000)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        from: u64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let good = match cli.what {
        None => match cli.sweep.seed {
            Some(seed) => one(seed, cli.sweep.event_log.as_deref()),
            None => sweep(&cli.sweep),
        },
        Some(What::Known) => known(cli.sweep.twice),
        Some(What::Scenario { files }) => files.iter().filter(|file| !play(file)).count() == 0,
        Some(What::Bugs { name, seeds, from }) => bugs(name.as_deref(), from, seeds),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, event_log: Option<&Path>) -> bool {
    quiet_panics();
    let log: Option<Box<dyn Write>> = match event_log.map(File::create).transpose() {
        Ok(file) => file.map(|file| Box::new(BufWriter::new(file)) as Box<dyn Write>),
        Err(error) => {
            eprintln!("the event log cannot be written: {error}");
            return false;
        }
    };
    let verdict = run_seed(seed, log);
    println!("{}\n\n{}", verdict.plan, verdict.timeline);
    println!(
        "seed {seed}: {:.1} s, {} things happened, {} members became primary, {} requests were answered, space was won back {} times; digest {:016x}",
        verdict.simulated as f64 / 1e9,
        verdict.happened,
        verdict.reigns,
        verdict.answered,
        verdict.reclaims,
        verdict.digest
    );
    match &verdict.violation {
        None => println!("no rule was broken"),
        Some(violation) => {
            println!(
                "\n{} BROKEN at {:.3} ms:\n{}",
                violation.rule,
                violation.at as f64 / 1e6,
                violation.what
            )
        }
    }
    verdict.violation.is_none()
}

fn sweep(args: &SweepArgs) -> bool {
    let from = match args.from.as_deref().map(|text| text.parse().unwrap_or_else(|_| number_of(text))) {
        Some(from) => from,
        None => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs() << 20),
    };
    let sweep = Sweep {
        from,
        seeds: args.seeds.unwrap_or(if args.minutes.is_some() { u64::MAX } else { 200 }),
        within: args.minutes.map_or(Duration::MAX, |minutes| Duration::from_secs_f64(minutes * 60.0)),
        jobs: args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from)),
        twice: args.twice,
        keep_going: args.keep_going,
    };
    println!("seeds from {from} on, {} at a time", sweep.jobs);
    report(&sweep.run(progress))
}

fn known(twice: bool) -> bool {
    let mut good = true;
    for line in KNOWN.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(seed) = line.split_whitespace().next().and_then(|word| word.parse().ok()) else {
            eprintln!("integration/seeds.txt: {line:?} does not begin with a seed");
            return false;
        };
        let sweep = Sweep { from: seed, seeds: 1, within: Duration::MAX, jobs: 1, twice, keep_going: true };
        good &= report(&sweep.run(|_, _| {}));
    }
    good
}

/// A first seed that differs from commit to commit.
fn number_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }) >> 16
}

fn progress(verdict: &Verdict, tally: &Tally) {
    if let Some(violation) = &verdict.violation {
        println!("seed {}: {} broken: {}", verdict.seed, violation.rule, first_line(&violation.what));
    }
    if std::io::stdout().is_terminal() && tally.runs.is_multiple_of(20) {
        print!("\r{} runs, {:.0} simulated hours a minute ", tally.runs, tally.hours_per_minute());
        let _ = std::io::stdout().flush();
    }
}

fn report(tally: &Tally) -> bool {
    for verdict in tally.failed.iter().take(3) {
        let violation = verdict.violation.as_ref().expect("a failed run broke a rule");
        println!(
            "\n==== seed {}: {} broken at {:.3} ms",
            verdict.seed,
            violation.rule,
            violation.at as f64 / 1e6
        );
        println!("{}\n\n{}\n{}\n", verdict.plan, verdict.timeline, violation.what);
    }
    for verdict in &tally.failed {
        println!("repeat with: cargo sim --seed {}", verdict.seed);
    }
    for seed in &tally.differed {
        println!(
            "seed {seed} gave another event log the second time; compare: cargo sim --seed {seed} --event-log FILE"
        );
    }
    println!(
        "{} runs, {} broke a rule; {:.1} simulated hours, {} members became primary, {} requests answered, space won back {} times, {} questions undecided; {:.0} simulated hours a minute",
        tally.runs,
        tally.failed.len(),
        tally.simulated as f64 / 3.6e12,
        tally.reigns,
        tally.answered,
        tally.reclaims,
        tally.undecided,
        tally.hours_per_minute()
    );
    tally.is_clean()
}

fn play(file: &Path) -> bool {
    match scenario::run_file(file) {
        Ok(outcome) => {
            println!("{}", outcome.report());
            outcome.passed()
        }
        Err(error) => {
            eprintln!("{error}");
            false
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(not(feature = "planted-bugs"))]
fn bugs(_name: Option<&str>, _from: u64, _seeds: u64) -> bool {
    eprintln!("no bugs are planted in this build; run: cargo sim-bugs");
    false
}

#[cfg(feature = "planted-bugs")]
fn bugs(name: Option<&str>, from: u64, seeds: u64) -> bool {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use holdfast_integration::sim::bugs::{ALL, hunt};

    quiet_panics();
    let wanted: Vec<_> = ALL.iter().filter(|bug| name.is_none_or(|name| bug.name == name)).collect();
    if wanted.is_empty() {
        eprintln!("no planted bug has that name");
        return false;
    }
    let next = AtomicUsize::new(0);
    let escaped = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(bug) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match hunt(**bug, from, seeds) {
                        Some(caught) => println!(
                            "{:<40} caught by {:<16} after {:>5} seeds (seed {}): {}",
                            bug.name,
                            caught.rule,
                            caught.nth,
                            caught.seed,
                            first_line(&caught.what)
                        ),
                        None => {
                            println!("{:<40} ESCAPED {seeds} seeds: {}", bug.name, bug.what);
                            escaped.lock().expect("nobody panics with it in hand").push(bug.name);
                        }
                    }
                }
            });
        }
    });
    let escaped = escaped.into_inner().expect("nobody panics with it in hand");
    println!("{} of {} planted bugs caught", wanted.len() - escaped.len(), wanted.len());
    escaped.is_empty()
}
