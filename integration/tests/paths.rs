//! Two heartbeat paths: what one dead cable costs.

use std::time::Duration;

use holdfast_agent::lab::prober::Prober;
use holdfast_agent::lab::settings::{CABLE, ClusterSpec, LAN};
use holdfast_agent::lab::world::Plug;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

fn two_paths() -> ClusterSpec {
    ClusterSpec { cable: true, ..ClusterSpec::default() }
}

#[test]
fn a_dead_heartbeat_path_is_a_warning_and_never_a_failover() {
    promise(two_paths(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let changes = cluster.history(&primary)?.len();
        cluster.world().machine("a")?.plug(Some(CABLE), Plug::Pulled)?;
        cluster.wait_until("the dead path to be named", LIMIT, |all| {
            let named = |warning: &String| warning.contains("heartbeat path") && warning.contains("is dead");
            all.iter().filter(|status| status.kind == "data").all(|status| status.warnings.iter().any(named))
        })?;
        std::thread::sleep(cluster.spec().lease() * 5);
        let now = cluster.wait_in_sync(LIMIT)?;
        ensure(now == primary, || format!("{now} took over from {primary}"))?;
        let history = cluster.history(&primary)?;
        ensure(history.len() == changes, || format!("something changed: {history:#?}"))?;
        cluster.world().machine("a")?.plug(Some(CABLE), Plug::In)?;
        cluster.wait_until("the path to come back", LIMIT, |all| {
            all.iter().all(|status| status.warnings.is_empty())
        })?;
        Ok(())
    });
}

#[test]
fn a_primary_whose_service_link_is_pulled_hands_over_by_the_other_path() {
    promise(two_paths(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let prober = Prober::start(&cluster.client()?, cluster.probe_target());
        prober.wait_served_after(std::time::Instant::now(), LIMIT)?;
        cluster.world().machine(&primary)?.plug(Some(LAN), Plug::Pulled)?;
        cluster.wait_until("the other to take over", LIMIT, |all| {
            all.iter().any(|status| status.is_primary() && status.node != primary)
        })?;
        let outage = prober.stop()?.outage();
        println!("outage {outage:?}");
        ensure(outage.is_some_and(|outage| outage < Duration::from_secs(5)), || format!("{outage:?}"))
    });
}
