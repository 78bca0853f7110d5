//! The guide's own example, as it stands.

use std::time::{Duration, Instant};

use holdfast_agent::lab::cluster::Fault;
use holdfast_agent::lab::ledger::{Load, LoadSpec};
use holdfast_agent::lab::prober::Prober;
use holdfast_integration::measure::all_there;
use holdfast_integration::promise;
use holdfast_integration::seed::two_nodes;
use holdfast_integration::stage::{LIMIT, ensure};

#[test]
fn the_two_node_example_without_a_witness_fails_over() {
    promise(two_nodes(), |cluster| {
        // Its timers are seconds: ten heartbeats of one second each.
        let patience = LIMIT * 2;
        let first = cluster.wait_in_sync(patience)?;
        let client = cluster.client()?;
        let target = cluster.target("guide");
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(100, LIMIT)?;
        let prober = Prober::start(&client, cluster.probe_target());
        prober.wait_served_after(Instant::now(), LIMIT)?;
        cluster.inflict(&first, Fault::PowerOff)?;
        prober.wait_served_after(Instant::now() + Duration::from_millis(1), patience)?;
        load.wait_for_more(100, LIMIT)?;
        let (ledger, seen) = (load.stop()?, prober.stop()?);
        println!("the client was not served for {:?}", seen.outage());
        all_there(cluster, &target, &ledger)?;
        let second = cluster.wait_for_primary(LIMIT)?;
        ensure(second != first, || format!("{first} is off and called primary"))?;
        cluster.inflict(&first, Fault::Heal)?;
        cluster.wait_in_sync(patience)?;
        all_there(cluster, &target, &ledger)
    });
}
