//! `holdfast lab demo`: the whole story in under a minute, with a verdict.
//!
//! It proves nothing that it does not measure: the outage is what a client on a third host saw, "nothing lost"
//! is every acknowledged object read back, "never two" is what other hosts saw of the address.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::args::DemoArgs;
use super::cluster::{Cluster, Fault};
use super::ledger::{Ledger, Load, LoadSpec, Patience, Verdict, read_back};
use super::narrator::{Narrator, table};
use super::prober::Prober;
use super::run_dir::RunDir;
use super::twins::{Evidence, Twins};
use super::world::single_threaded;
use super::{binary, cluster_spec, ready_to_build};

/// Limit for each thing that the cluster should do in seconds.
const LIMIT: Duration = Duration::from_secs(20);
/// Objects that must be acknowledged after each change of the primary.
const AFTERWARDS: usize = 100;

/// What the demo measured.
struct Story {
    outage: Duration,
    pause: Duration,
    rejoin: Duration,
    written: Ledger,
    switched: Ledger,
    verdicts: [Verdict; 2],
    evidence: Evidence,
}

/// Runs the demo.
pub(super) fn run(args: &DemoArgs) -> Result<ExitCode> {
    let tell = Narrator::new();
    tell.say("Holdfast lab: a pair (a, b), a witness (w) and a client (c) on this machine\n");
    ready_to_build(&tell);
    let mut dir = RunDir::create()?;
    if args.keep {
        dir.keep();
    } else {
        clean_up_on_interrupt(dir.path().to_owned());
    }
    let spec = cluster_spec(&args.cluster);
    let step = tell.step("Starting the hosts and their agents");
    let cluster = Cluster::start(spec, dir.path(), &binary())?;
    step.done(format!("their disks and logs are in {}", dir.path().display()));
    match play(&tell, &cluster, args) {
        Ok(story) => Ok(conclude(&tell, &cluster, &story)),
        Err(error) => {
            dir.keep();
            tell.say(format!("\n{}", cluster.log_tails()));
            tell.say(format!("The logs stay in {} until the next lab starts.", dir.path().display()));
            tell.say(
                "To look around in the same set-up: `holdfast lab up`, then `holdfast lab exec a -- sh`.\n",
            );
            Err(error)
        }
    }
}

/// Makes Ctrl-C end the demo cleanly. The hosts end with the program in any case.
fn clean_up_on_interrupt(dir: PathBuf) {
    thread::spawn(move || {
        let interrupted = single_threaded().map(|runtime| runtime.block_on(tokio::signal::ctrl_c()));
        if matches!(interrupted, Ok(Ok(()))) {
            println!("\nInterrupted; taking the lab down.");
            let _ = fs::remove_dir_all(dir);
            std::process::exit(130);
        }
    });
}

fn play(tell: &Narrator, cluster: &Cluster, args: &DemoArgs) -> Result<Story> {
    let client = cluster.client()?;
    let target = cluster.target("demo");

    let step = tell.step("Electing a primary");
    let first = cluster.wait_for_primary(LIMIT)?;
    cluster.wait_in_sync(LIMIT)?;
    step.done(format!("{first} is primary, every data member is in sync"));

    let step = tell.step("Writing objects");
    target.create_bucket(&client, LIMIT)?;
    let twins = Twins::watch(cluster)?;
    let prober = Prober::start(&client, cluster.probe_target());
    let spec = LoadSpec { writers: args.writers, ..LoadSpec::default() };
    let load = Load::start(&client, &target, spec);
    while load.acknowledged() < args.objects {
        let share = args.objects.saturating_sub(load.acknowledged()).min(50);
        load.wait_for_more(share, LIMIT)?;
        step.progress(format!("{} acknowledged", load.acknowledged()));
    }
    step.done(format!("{} acknowledged, and {} writers keep writing", load.acknowledged(), args.writers));

    let step = tell.step(format!("Cutting the power of {first}"));
    let cut = Instant::now();
    cluster.inflict(&first, Fault::PowerOff)?;
    // The old primary is gone: whatever is served from now on comes from its successor.
    prober.wait_served_after(cut + Duration::from_millis(5), LIMIT)?;
    let second = cluster.wait_for_primary(LIMIT)?;
    load.wait_for_more(AFTERWARDS, LIMIT)?;
    let outage = prober.stop()?.outage().unwrap_or_default();
    let written = load.stop()?;
    step.done(format!("{second} took over; the client saw an outage of {} ms", outage.as_millis()));

    let step = tell.step("Reading everything back");
    let first_verdict = read_back(&client, &target, &written, LIMIT)?;
    step.done(first_verdict.to_string());

    let step = tell.step(format!("Switching {first} on again"));
    let on = Instant::now();
    cluster.inflict(&first, Fault::Heal)?;
    cluster.wait_in_sync(LIMIT)?;
    let rejoin = on.elapsed();
    step.done(format!("it caught up what it had missed, in {} ms from power-on", rejoin.as_millis()));

    let step = tell.step("Switching over under load");
    let prober = Prober::start(&client, cluster.probe_target());
    let spec =
        LoadSpec { writers: args.writers, seed: 2, patience: Patience::ORDINARY, ..LoadSpec::default() };
    let load = Load::start(&client, &target, spec);
    load.wait_for_more(AFTERWARDS, LIMIT)?;
    cluster.switch_over(LIMIT)?;
    load.wait_for_more(AFTERWARDS, LIMIT)?;
    let pause = prober.stop()?.outage().unwrap_or_default();
    let switched = load.stop()?;
    let evidence = twins.stop()?;
    step.done(format!("a pause of {} ms, {} failed requests", pause.as_millis(), switched.ambiguous.len()));

    let step = tell.step("Reading everything back once more");
    let mut last_verdict = read_back(&client, &target, &switched, LIMIT)?;
    let again = read_back(&client, &target, &written, LIMIT)?;
    last_verdict.checked += again.checked;
    last_verdict.lost.extend(again.lost);
    last_verdict.corrupt.extend(again.corrupt);
    last_verdict.unread.extend(again.unread);
    step.done(last_verdict.to_string());

    let verdicts = [first_verdict, last_verdict];
    Ok(Story { outage, pause, rejoin, written, switched, verdicts, evidence })
}

fn conclude(tell: &Narrator, cluster: &Cluster, story: &Story) -> ExitCode {
    let lease = cluster.spec().lease();
    let twins = story.evidence.twin_services(lease * 2);
    let kept = story.verdicts.iter().all(Verdict::is_good);
    let count = |of: fn(&Verdict) -> usize| story.verdicts.iter().map(of).sum::<usize>().to_string();
    let answered = if twins.is_empty() { "never".to_owned() } else { format!("{twins:?}") };
    tell.say("");
    tell.say(table(&[
        ("outage after power-off, as the client saw it", format!("{} ms", story.outage.as_millis())),
        ("pause of the planned switchover", format!("{} ms", story.pause.as_millis())),
        ("requests that failed in the switchover", story.switched.ambiguous.len().to_string()),
        ("from power-on to in sync", format!("{} ms", story.rejoin.as_millis())),
        (
            "writes acknowledged",
            (story.written.acknowledged.len() + story.switched.acknowledged.len()).to_string(),
        ),
        ("writes that ended in an error, unknown to the client", story.written.ambiguous.len().to_string()),
        ("acknowledged objects lost", count(|v| v.lost.len())),
        ("acknowledged objects corrupt", count(|v| v.corrupt.len())),
        ("acknowledged objects unreadable", count(|v| v.unread.len())),
        ("two hosts served on the address at once", answered),
    ]));
    for (reason, count) in &story.switched.reasons {
        tell.say(format!("  failed in the switchover, {count} times: {reason}"));
    }
    if kept && twins.is_empty() {
        tell.say("Nothing that was acknowledged is missing. Next: `holdfast lab up`, and break it yourself.");
        ExitCode::SUCCESS
    } else {
        tell.say("A promise was broken. Please keep the logs (run again with --keep) and report it.");
        ExitCode::FAILURE
    }
}
