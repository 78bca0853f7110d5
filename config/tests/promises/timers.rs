//! The derived timers keep the promises that they are made of.

use std::time::Duration;

use holdfast_config::timers::{Derived, GateInUse, valid_lft_seconds};

use crate::{load, with};

fn derived(line: &str, gate: GateInUse) -> Derived {
    Derived::new(&load(&with("    enabled = true", line)).config.ha, gate)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_voter_outwaits_the_lease_by_the_drift_margin() {
    let timers = derived("    lease = \"1s\"", GateInUse::Ebpf);
    assert_eq!(timers.lease, millis(1000));
    assert_eq!(timers.drift_margin, millis(11));
    assert_eq!(timers.voter_wait, millis(1011));
    assert_eq!(timers.restart_wait, timers.voter_wait);
}

#[test]
fn the_outage_is_the_sum_of_its_parts() {
    let timers = derived("", GateInUse::Ebpf);
    let names: Vec<&str> = timers.outage.iter().map(|part| part.name).collect();
    assert_eq!(names, ["detect", "remaining lease", "margin", "gate", "promote", "announce"]);
    assert_eq!(timers.worst_outage(), timers.outage.iter().map(|part| part.worst).sum());
    assert_eq!(timers.outage[0].worst, millis(300));
    assert_eq!(timers.outage[0].typical, millis(250));
    assert_eq!(timers.outage[1].worst, millis(0), "detection and lease run out together");
    assert!(timers.typical_outage() < timers.worst_outage());
}

#[test]
fn a_lease_longer_than_the_detection_shows_in_the_outage() {
    let timers = derived("    lease = \"1s\"", GateInUse::Ebpf);
    assert_eq!(timers.outage[1].worst, millis(700));
    // A shorter one runs out, margin and all, before the failure is noticed.
    let timers = derived("    failure_threshold = 10\n    lease = \"300ms\"", GateInUse::Ebpf);
    assert_eq!((timers.outage[1].worst, timers.outage[2].worst), (millis(0), millis(0)));
}

#[test]
fn the_gate_adds_what_it_cannot_promise() {
    assert_eq!(derived("", GateInUse::Ebpf).gate_extra, millis(0));
    assert_eq!(derived("", GateInUse::Nftables).gate_extra, millis(300));
    assert_eq!(derived("", GateInUse::None).gate_extra, millis(2250));
    assert_eq!(derived("    lease = \"2100ms\"", GateInUse::None).gate_extra, millis(3250));
    let (with, without) = (derived("", GateInUse::Ebpf), derived("", GateInUse::None));
    assert_eq!(without.worst_outage() - with.worst_outage(), millis(2250));
    assert_eq!([0, 1, 2000, 2001].map(|ms| valid_lft_seconds(millis(ms))), [2, 2, 2, 3]);
}

#[test]
fn the_probe_window_follows_the_interval_within_bounds() {
    for (interval, window) in [(5, 15), (20, 20), (100, 100), (1000, 150)] {
        let timers = derived(&format!("    heartbeat_interval = \"{interval}ms\""), GateInUse::Ebpf);
        assert_eq!(timers.probe_window, millis(window), "{interval}ms");
    }
}
