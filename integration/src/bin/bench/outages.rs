//! How long a client is not served after each fault, and for how long two hosts serve, beside keepalived.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::measure::{
    median, outage_after, outage_of_deletion, outage_of_switchover, restore,
};

use super::keepalived::{self, Blow};
use super::with_cluster;

/// What is done to the primary.
#[derive(Clone, Copy)]
enum Deed {
    Fault(Fault),
    Deletion,
    Switchover,
}

/// A line of the table: what is done, what is promised at 100 ms x 3, and what keepalived is put through.
struct Line {
    name: &'static str,
    deed: Deed,
    promised_ms: u64,
    blow: Option<Blow>,
}

const fn line(name: &'static str, deed: Deed, promised_ms: u64, blow: Option<Blow>) -> Line {
    Line { name, deed, promised_ms, blow }
}

const LINES: [Line; 9] = [
    line("power-off", Deed::Fault(Fault::PowerOff), 350, Some(Blow::PowerOff)),
    line("SIGKILL of the agent", Deed::Fault(Fault::Kill), 60, Some(Blow::Kill)),
    line("SIGKILL with the supervisor", Deed::Fault(Fault::KillAll), 450, Some(Blow::Kill)),
    line("SIGSTOP", Deed::Fault(Fault::Freeze), 450, Some(Blow::Stop)),
    line("carrier loss, second path alive", Deed::Fault(Fault::CutService), 60, Some(Blow::CablePull)),
    line("primary not heard", Deed::Fault(Fault::Unheard), 450, None),
    line("primary hears nobody", Deed::Fault(Fault::Unhearing), 450, None),
    line("address deleted by another program", Deed::Deletion, 20, Some(Blow::Deletion)),
    line("planned switchover", Deed::Switchover, 30, Some(Blow::PlannedStop)),
];

/// Whether there is a line with `word` in its name.
pub(super) fn is_line(word: &str) -> bool {
    LINES.iter().any(|line| line.name.contains(word))
}

/// Prints the table for both sets of timers: the lines with one of `words` in their name, all of them where there
/// is none.
pub(super) fn all(binary: &Path, rounds: usize, words: &[String]) -> Result<()> {
    let peer = keepalived::version();
    match &peer {
        Some(version) => println!("beside {version}"),
        None => println!("keepalived is not installed (apt-get install keepalived): nothing stands beside"),
    }
    for interval_ms in [100, 20] {
        println!("\noutage as a client sees it, {interval_ms} ms x 3: median of {rounds} in ms (all rounds)");
        // One world for each kind of cabling; every line begins with a whole cluster.
        let chosen = |line: &&Line| words.is_empty() || words.iter().any(|word| line.name.contains(word));
        for line in LINES.iter().filter(chosen) {
            let cable = matches!(line.deed, Deed::Fault(Fault::CutService));
            let spec = ClusterSpec { cable, ..ClusterSpec::with_timers(interval_ms, 3) };
            let ours = with_cluster(binary, spec, |cluster| ours(cluster, line.deed, rounds))?;
            let promised =
                if interval_ms == 100 { format!("{:>4}", line.promised_ms) } else { "   -".to_owned() };
            println!(
                "  {:<36} {:>6}  promised {promised}   ({})",
                line.name,
                ms(median(ours.clone())),
                list(&ours)
            );
            if let (Some(blow), Some(_)) = (line.blow, &peer) {
                let seen = keepalived::outages(binary, interval_ms, blow, rounds)?;
                println!("    keepalived                         {seen}");
            }
        }
    }
    Ok(())
}

fn ours(cluster: &Cluster, deed: Deed, rounds: usize) -> Result<Vec<Duration>> {
    let one = |_| match deed {
        Deed::Fault(fault) => {
            let outage = outage_after(cluster, fault)?;
            restore(cluster)?;
            Ok(outage)
        }
        Deed::Deletion => outage_of_deletion(cluster),
        Deed::Switchover => outage_of_switchover(cluster),
    };
    (0..rounds).map(one).collect()
}

/// Milliseconds, rounded.
pub(super) fn ms(duration: Duration) -> u128 {
    (duration.as_micros() + 500) / 1000
}

/// All of them, in milliseconds.
pub(super) fn list(all: &[Duration]) -> String {
    all.iter().map(|one| ms(*one).to_string()).collect::<Vec<_>>().join(" ")
}
