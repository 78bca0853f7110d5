//! `holdfast ha check`: what it proves on real hosts, and what it says where the network is not as it should be.

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::{CABLE, ClusterSpec, LAN, VIP, VIP6};
use holdfast_agent::lab::world::Plug;
use holdfast_agent::runtime::inquiry::{CheckReport, Finding, Outcome};
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary};

fn spec() -> ClusterSpec {
    ClusterSpec { cable: true, ipv6: true, ..ClusterSpec::default() }
}

fn check(cluster: &Cluster, host: &str) -> Result<CheckReport> {
    let answer = cluster.post(host, "/api/ha/check", Some(serde_json::json!({})))?;
    serde_json::from_str(&answer).with_context(|| format!("the findings of {host}: {answer}"))
}

fn finding(report: &CheckReport, name: &str) -> Result<Finding> {
    let found = report.findings.iter().find(|finding| finding.name == name).cloned();
    found.with_context(|| format!("{} has no finding {name:?}: {report:#?}", report.node))
}

fn says(report: &CheckReport, name: &str, outcome: Outcome, words: &str) -> Result<()> {
    let found = finding(report, name)?;
    println!("{}: {found:?}", report.node);
    ensure(found.outcome == outcome && found.seen.contains(words), || {
        format!("{} should say {outcome:?} {words:?} of {name:?}: {found:?}", report.node)
    })
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// The program on a host: its exit status and what it said.
fn by_hand(cluster: &Cluster, host: &str) -> Result<(i32, String)> {
    let binary = holdfast_binary()?.display().to_string();
    let done = cluster.world().machine(host)?.execute(&[&binary, "ha", "check"], LIMIT)?;
    Ok((done.status, done.stdout))
}

#[test]
fn the_others_learn_an_announcement_and_every_member_can_prove_it() {
    promise(spec(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        let holder = mac(cluster.world().machine(&primary)?.mac(LAN).context("a hardware address")?);
        for host in [primary.as_str(), standby] {
            let report = check(cluster, host)?;
            let failed: Vec<_> = report.findings.iter().filter(|f| f.outcome == Outcome::Fail).collect();
            ensure(failed.is_empty(), || format!("{host}: {failed:#?}"))?;
            for vip in [VIP.to_string(), VIP6.to_string()] {
                says(&report, &format!("announcement of {vip} to {standby}"), Outcome::Ok, &holder)?;
                says(&report, &format!("holder of {vip}"), Outcome::Ok, &format!("{primary}: {holder}"))?;
            }
            says(&report, &format!("S3 at {VIP}"), Outcome::Ok, "takes a connection")?;
            says(&report, &format!("S3 at {VIP6}"), Outcome::Warn, "where no client")?;
            says(&report, &format!("if {primary} dies now"), Outcome::Ok, &format!("{standby} takes over"))?;
            says(&report, "if w dies now", Outcome::Ok, "serves on")?;
            says(&report, "agreement", Outcome::Ok, "2 peers say the same")?;
            let other = if host == primary { standby } else { primary.as_str() };
            says(&report, &format!("path cable to {other}"), Outcome::Ok, "from here to")?;
        }
        let witness = check(cluster, "w")?;
        says(&witness, "agreement", Outcome::Ok, "2 peers say the same")?;
        let changes = cluster.history(&primary)?.len();
        let (status, said) = by_hand(cluster, &primary)?;
        println!("{said}");
        ensure(said.contains("ok    announcement of") && said.contains("things looked at"), || said.clone())?;
        ensure(status == 0 || said.contains("See also: holdfast ha status"), || format!("{status}: {said}"))?;
        ensure(cluster.history(&primary)?.len() == changes, || "a check changed something".to_owned())
    });
}

#[test]
fn a_switch_that_stops_announcements_is_found_out() {
    promise(spec(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        let name = format!("announcement of {VIP} to {standby}");
        // The last of the first rounds, a second after the claim, must not be taken for the one of the check.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        cluster.world().plug(standby, Some(LAN), Plug::Muffled)?;
        let report = check(cluster, &primary)?;
        let words = format!(
            "{standby} heard no announcement of {primary}, though {primary} answers when {standby} asks"
        );
        says(&report, &name, Outcome::Fail, &words)?;
        ensure(!report.healthy, || "a failure, and healthy".to_owned())?;
        says(&check(cluster, standby)?, &name, Outcome::Fail, &words)?;
        let (status, said) = by_hand(cluster, &primary)?;
        ensure(status == 3 && said.contains("FAIL  announcement"), || format!("{status}: {said}"))?;
        // Another network altogether, while the heartbeats go on by the cable.
        cluster.world().plug(standby, Some(LAN), Plug::Island)?;
        let report = check(cluster, &primary)?;
        says(&report, &name, Outcome::Fail, &format!("nobody answered when {standby} asked who has {VIP}"))?;
        cluster.world().plug(standby, Some(LAN), Plug::In)?;
        cluster.wait_in_sync(LIMIT)?;
        says(&check(cluster, &primary)?, &name, Outcome::Ok, "was heard")
    });
}

#[test]
fn a_third_host_that_answers_for_the_address_is_named() {
    promise(spec(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        let third = cluster.world().tap(LAN, format!("{VIP}/24").parse()?)?;
        for host in [primary.as_str(), standby] {
            let report = check(cluster, host)?;
            says(&report, &format!("holder of {VIP}"), Outcome::Fail, "2 stations answer")?;
            says(
                &report,
                &format!("holder of {VIP}"),
                Outcome::Fail,
                &format!("{} (no member", mac(third.mac)),
            )?;
        }
        Ok(())
    });
}

#[test]
fn a_silent_member_and_a_one_way_path_are_found_out() {
    promise(spec(), |cluster| {
        let primary = cluster.wait_in_sync(LIMIT)?;
        let standby = cluster.other_than(&primary);
        cluster.world().deafen_where(&primary, standby, |network, _| network == CABLE)?;
        cluster.wait_until("the dead direction to be named", LIMIT, |all| {
            all.iter().any(|s| s.node == primary && s.warnings.iter().any(|w| w.contains("one way")))
        })?;
        let report = check(cluster, &primary)?;
        let path = format!("path cable to {standby}");
        says(&report, &path, Outcome::Warn, &format!("nothing from here arrives at {standby}"))?;
        cluster.world().mend()?;
        cluster.world().machine("w")?.power_off()?;
        cluster.wait_until("the witness to be missed", LIMIT, |all| {
            all.iter().any(|s| s.node == primary && s.peers.iter().any(|p| p.id == "w" && !p.alive))
        })?;
        let report = check(cluster, &primary)?;
        says(&report, "path to w", Outcome::Fail, "w is not heard")?;
        says(&report, &format!("if {primary} dies now"), Outcome::Fail, "2 decide")
    });
}
