//! Every fault of a primary under load: nothing acknowledged is lost, and nobody answers twice.

use holdfast_agent::lab::cluster::Fault;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::measure::survives;
use holdfast_integration::promise;

#[test]
fn acknowledged_objects_survive_the_power_off_of_the_primary() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::PowerOff));
}

#[test]
fn acknowledged_objects_survive_a_pulled_cable_of_the_primary() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::Cut));
}

#[test]
fn acknowledged_objects_survive_a_deaf_switch_port_of_the_primary() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::Deaf));
}

#[test]
fn acknowledged_objects_survive_a_primary_that_is_not_heard() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::Unheard));
}

#[test]
fn acknowledged_objects_survive_a_primary_that_hears_nobody() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::Unhearing));
}

#[test]
fn acknowledged_objects_survive_a_pulled_service_cable_where_a_second_path_lives() {
    let spec = ClusterSpec { cable: true, ..ClusterSpec::default() };
    promise(spec, |cluster| survives(cluster, Fault::CutService));
}

#[test]
fn acknowledged_objects_survive_sigkill_of_the_primary() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::Kill));
}

#[test]
fn acknowledged_objects_survive_sigkill_of_the_primary_and_its_supervisor() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::KillAll));
}

#[test]
fn acknowledged_objects_survive_sigstop_of_the_primary() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::Freeze));
}

#[test]
fn acknowledged_objects_survive_sigstop_of_the_agent_alone() {
    promise(ClusterSpec::default(), |cluster| survives(cluster, Fault::FreezeAgent));
}

/// Default timers, and this gate.
fn with_gate(gate: &str) -> ClusterSpec {
    let mut spec = ClusterSpec::default();
    for host in ["a", "b"] {
        spec.extra_ha.insert(host.to_owned(), format!("    gate = {gate:?}"));
    }
    spec
}

#[test]
fn acknowledged_objects_survive_sigstop_of_the_primary_without_the_kernel_gate() {
    promise(with_gate("none"), |cluster| survives(cluster, Fault::Freeze));
}

#[test]
fn acknowledged_objects_survive_sigstop_of_the_primary_with_the_nftables_gate() {
    promise(with_gate("nftables"), |cluster| survives(cluster, Fault::Freeze));
}

#[test]
fn acknowledged_objects_survive_sigkill_of_primary_and_supervisor_with_the_nftables_gate() {
    promise(with_gate("nftables"), |cluster| survives(cluster, Fault::KillAll));
}

#[test]
fn acknowledged_objects_survive_sigkill_of_the_primary_with_the_nftables_gate() {
    promise(with_gate("nftables"), |cluster| survives(cluster, Fault::Kill));
}
