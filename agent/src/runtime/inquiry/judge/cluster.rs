//! The members: can they hear each other, do they agree, and who would take over from whom?

use std::time::Duration;

use holdfast_config::TwoNode;
use holdfast_heartbeat::{Facts, Loss};

use super::super::Finding;
use super::Evidence;
use crate::runtime::status::{PathStatus, PeerStatus};

pub(super) fn judge(evidence: &Evidence<'_>, out: &mut Vec<Finding>) {
    for peer in &evidence.status.peers {
        paths(peer, out);
    }
    deafness(evidence, out);
    out.push(quorum(evidence));
    out.push(in_sync(evidence));
    if let Some(exposure) = &evidence.status.exposure {
        out.push(
            Finding::warn("policy", &evidence.status.policy)
                .means(format!("what it cannot protect against: {exposure}"))
                .advice("a witness on any third machine: witness_addrs in the configuration"),
        );
    }
    succession(evidence, out);
    out.push(agreement(evidence));
    out.push(keys(evidence));
}

fn loss(loss: Option<Loss>) -> String {
    match loss {
        Some(loss) => format!("{} of {} lost ({:.1} %)", loss.lost, loss.sent, loss.percent()),
        None => "not measured yet".to_owned(),
    }
}

fn paths(peer: &PeerStatus, out: &mut Vec<Finding>) {
    if !peer.alive {
        let hears_not = peer.paths.iter().any(|path| path.unproven > path.received);
        let how =
            if hears_not { "its packets arrive here, ours do not arrive there" } else { "nothing arrives" };
        let addresses: Vec<_> = peer.paths.iter().map(|path| path.address.clone()).collect();
        out.push(
            Finding::fail(format!("path to {}", peer.id), format!("{} is not heard: {how}", peer.id)).advice(
                format!(
                    "on {}: systemctl status holdfast; heartbeats are UDP to {}",
                    peer.id,
                    addresses.join(", ")
                ),
            ),
        );
        return;
    }
    for path in &peer.paths {
        out.push(one_path(peer, path));
    }
}

fn one_path(peer: &PeerStatus, path: &PathStatus) -> Finding {
    let name = format!("path {} to {}", path.name, peer.id);
    let carry_on = "the other paths carry on; no role changes for this";
    let advice =
        format!("check the cable, the switch, firewalls and routes between here and {}", path.address);
    match (path.alive, path.reaches) {
        (true, Some(true) | None) => {
            let trip = match (path.rtt_us, path.rtt_longest_us) {
                (Some(us), Some(longest)) => {
                    format!("; round trip {:.1} ms, at most {:.1} ms", us as f64 / 1e3, longest as f64 / 1e3)
                }
                _ => String::new(),
            };
            let seen = format!(
                "from {0} to here {1}, from here to {0} {2}{trip}",
                peer.id,
                loss(path.lost_here),
                loss(path.lost_there)
            );
            let lossy = |loss: Option<Loss>| loss.is_some_and(|loss| loss.lost >= 5 && loss.percent() >= 5.0);
            if lossy(path.lost_here) || lossy(path.lost_there) {
                Finding::warn(name, seen).means("losses in a row look like a failure").advice(advice)
            } else {
                Finding::ok(name, seen)
            }
        }
        (true, Some(false)) => Finding::warn(
            name,
            format!("one way: what {0} sends arrives here, nothing from here arrives at {0}", peer.id),
        )
        .means(carry_on)
        .advice(advice),
        (false, Some(true)) => Finding::warn(
            name,
            format!("one way: what is sent from here arrives at {0}, nothing of {0} arrives here", peer.id),
        )
        .means(carry_on)
        .advice(advice),
        (false, _) => {
            Finding::warn(name, "nothing arrives, in either direction").means(carry_on).advice(advice)
        }
    }
}

/// Who of the others does not hear whom.
fn deafness(evidence: &Evidence<'_>, out: &mut Vec<Finding>) {
    for peer in evidence.status.peers.iter().filter(|peer| peer.alive) {
        for hearing in peer.hears.iter().filter(|hearing| hearing.by.is_empty()) {
            // Whom nobody hears is told of above.
            let known = evidence.status.peers.iter().find(|other| other.id == hearing.member);
            if known.is_some_and(|other| other.alive) {
                out.push(
                    Finding::warn(
                        format!("{} hears {}", peer.id, hearing.member),
                        format!("{} does not hear {}", peer.id, hearing.member),
                    )
                    .means("this member hears both: a part of the network is cut, and a vote may be missing")
                    .advice("holdfast ha cluster, on each member"),
                );
            }
        }
    }
}

fn quorum(evidence: &Evidence<'_>) -> Finding {
    let status = evidence.status;
    let alive = usize::from(status.vote) + status.peers.iter().filter(|peer| peer.alive && peer.vote).count();
    let (voters, quorum) = (status.votes, status.quorum);
    let primary =
        status.primary.as_ref().map_or_else(|| "no primary".to_owned(), |who| format!("{who} is primary"));
    let seen = format!("{alive} of {voters} members are heard, {quorum} decide; {primary}");
    match (&status.primary, alive >= quorum || evidence.status.pair) {
        (Some(_), true) => Finding::ok("quorum", seen),
        (None, _) => {
            let finding = Finding::fail("quorum", seen);
            match &status.waiting_for {
                Some(why) => finding.means(why),
                None => finding.advice("holdfast ha history, on each member"),
            }
        }
        (Some(_), false) => {
            Finding::fail("quorum", seen).means("this side of the cluster can decide nothing")
        }
    }
}

fn in_sync(evidence: &Evidence<'_>) -> Finding {
    let status = evidence.status;
    let mut seen = format!("{} every acknowledged byte", hold(&status.in_sync));
    if let Some(log) = evidence.log.filter(|_| status.role == "primary") {
        for peer in &log.peers {
            seen.push_str(&format!("; {} is {} bytes behind", peer.member, peer.lag_bytes));
        }
    }
    let others = evidence.status.peers.iter().filter(|peer| peer.kind == "data").count();
    let data = others + usize::from(evidence.is_data());
    if status.in_sync.len() == data {
        Finding::ok("in sync", seen)
    } else {
        Finding::fail("in sync", seen)
            .means("a member that is not in sync is never elected by itself")
            .advice("holdfast replication status, on the primary")
    }
}

/// Who they are, and what they do.
fn hold(names: &[String]) -> String {
    match names {
        [] => "it is not known who holds".to_owned(),
        [one] => format!("{one} alone holds"),
        several => format!("{} hold", several.join(" and ")),
    }
}

/// A voter, as far as its end concerns others.
struct Voter<'v> {
    id: &'v str,
    data: bool,
    alive: bool,
    /// Could be elected.
    fit: bool,
    in_sync: bool,
    rank: (u32, u32),
}

/// What happens if one of the members dies now.
fn succession(evidence: &Evidence<'_>, out: &mut Vec<Finding>) {
    let status = evidence.status;
    let own_fit = status.links_failed.is_none()
        && !status.drained
        && status.disk.as_ref().is_none_or(|disk| disk.good)
        && evidence.is_data();
    let me = Voter {
        id: &status.node,
        data: evidence.is_data(),
        alive: true,
        fit: own_fit,
        in_sync: status.in_sync.contains(&status.node),
        rank: (status.penalty, status.priority),
    };
    let peers = status.peers.iter().filter(|peer| peer.vote).map(|peer| Voter {
        id: &peer.id,
        data: peer.kind == "data",
        alive: peer.alive,
        fit: peer.electable && !peer.disk_stalled,
        in_sync: peer.in_sync,
        rank: (peer.penalty, peer.priority.unwrap_or(u32::MAX)),
    });
    let voters: Vec<Voter<'_>> = std::iter::once(me).chain(peers).collect();
    let Some(primary) = &status.primary else { return };
    for voter in voters.iter().filter(|voter| voter.alive) {
        out.push(if voter.id == primary {
            if_primary_dies(evidence, &voters, voter)
        } else {
            if_other_dies(evidence, &voters, voter, primary)
        });
    }
}

fn if_primary_dies(evidence: &Evidence<'_>, voters: &[Voter<'_>], dead: &Voter<'_>) -> Finding {
    let name = format!("if {} dies now", dead.id);
    let status = evidence.status;
    let resume = "holdfast ha resume";
    if status.paused.is_some() {
        return Finding::warn(name, "nobody takes over by itself: the cluster is paused").advice(resume);
    }
    if !evidence.config.ha.enabled {
        return Finding::warn(name, "nobody takes over by itself: ha.enabled is false")
            .advice("holdfast ha promote, then");
    }
    let left: Vec<_> = voters.iter().filter(|voter| voter.alive && voter.id != dead.id).collect();
    let pair = evidence.status.pair;
    if !pair && left.len() < evidence.status.quorum {
        return Finding::fail(
            name,
            format!(
                "nobody takes over: {} of {} members would be left, and {} decide",
                left.len(),
                voters.len(),
                evidence.status.quorum
            ),
        )
        .means("the data is safe, and nobody serves until a majority is back")
        .advice("bring the missing members back; add a witness");
    }
    if pair && evidence.config.ha.two_node == TwoNode::Manual {
        return Finding::warn(name, "nobody takes over by itself: two_node = \"manual\"")
            .advice("holdfast ha promote, on the other one, then");
    }
    let candidates = || left.iter().filter(|voter| voter.data && voter.in_sync);
    let Some(next) = candidates().filter(|voter| voter.fit).min_by_key(|voter| voter.rank) else {
        let why = match candidates().next() {
            Some(unfit) => {
                format!("{} is drained, or its host is not fit (holdfast ha status on it)", unfit.id)
            }
            None => "no other member that is heard holds every acknowledged byte".to_owned(),
        };
        return Finding::fail(name, format!("nobody takes over: {why}"))
            .means("nobody serves until it is back")
            .advice("holdfast replication status, on the primary");
    };
    let parts = evidence.derived.outage.iter();
    let (typical, worst) = parts.fold((Duration::ZERO, Duration::ZERO), |(typical, worst), part| {
        (typical + part.typical, worst + part.worst)
    });
    let finding = Finding::ok(
        name,
        format!(
            "{} takes over, usually within {} ms, within {} ms by the timers",
            next.id,
            typical.as_millis(),
            worst.as_millis()
        ),
    );
    if pair {
        return finding.means("if its own links are good, and nobody answers for the virtual address");
    }
    finding
}

fn if_other_dies(evidence: &Evidence<'_>, voters: &[Voter<'_>], dead: &Voter<'_>, primary: &str) -> Finding {
    let name = format!("if {} dies now", dead.id);
    let left = voters.iter().filter(|voter| voter.alive && voter.id != dead.id).count();
    if !evidence.status.pair && left < evidence.status.quorum {
        return Finding::fail(
            name,
            format!(
                "{primary} stops serving: {left} of {} members would be left, and {} decide",
                voters.len(),
                evidence.status.quorum
            ),
        )
        .means("the data is safe, and nobody serves until a majority is back")
        .advice("bring the missing members back");
    }
    let seen = if dead.data && dead.in_sync {
        let others =
            voters.iter().filter(|voter| voter.alive && voter.in_sync && voter.id != dead.id).count();
        let then = if others > 1 { "" } else { ", solo: nobody else could take over then" };
        format!(
            "{primary} serves on; writes wait for up to {} ms, then it goes on without {}{then}",
            evidence.config.ha.standby_timeout.as_millis(),
            dead.id
        )
    } else {
        format!("{primary} serves on, and nothing waits")
    };
    Finding::ok(name, seen)
}

/// What the members must agree on.
fn agreement(evidence: &Evidence<'_>) -> Finding {
    let mine = &evidence.facts;
    let mut differ = Vec::new();
    let (mut asked, mut silent) = (0, Vec::new());
    for (peer, told) in evidence.status.peers.iter().zip(&evidence.told) {
        match told {
            Some(told) => {
                asked += 1;
                differ.extend(differences(evidence, &peer.id, &told.testimony.facts));
                differ.extend(addresses(evidence, &peer.id, told));
            }
            None if peer.alive => silent.push(peer.id.clone()),
            None => {}
        }
    }
    if !differ.is_empty() {
        return Finding::fail("agreement", differ.join("; "))
            .means("members with different timers or addresses wait for each other too long, or not long enough")
            .advice("compare: holdfast config check FILE, on each member; then systemctl restart holdfast, the standby first");
    }
    if !silent.is_empty() {
        return Finding::fail(
            "agreement",
            format!("{} did not say what is configured there", silent.join(", ")),
        )
        .means("its agent is of a version without `ha check`, or an answer was lost four times in a row")
        .advice("holdfast ha status, there: version");
    }
    Finding::ok(
        "agreement",
        format!(
            "{} members, version {}, heartbeats each {} ms, detection {} ms, lease {} ms: {asked} peers say the same",
            mine.voters,
            mine.version,
            mine.interval_ns / 1_000_000,
            mine.detect_ns / 1_000_000,
            mine.lease_ns / 1_000_000
        ),
    )
}

fn differences(evidence: &Evidence<'_>, peer: &str, theirs: &Facts) -> Vec<String> {
    let mine = &evidence.facts;
    let ms = |ns: u64| format!("{} ms", ns / 1_000_000);
    let mut out = Vec::new();
    let mut compare = |what: &str, here: String, there: String| {
        if here != there {
            out.push(format!("{what}: {here} here, {there} on {peer}"));
        }
    };
    compare("version", mine.version.to_string(), theirs.version.to_string());
    compare("heartbeat_interval", ms(mine.interval_ns), ms(theirs.interval_ns));
    compare("detection time", ms(mine.detect_ns), ms(theirs.detect_ns));
    compare("lease", ms(mine.lease_ns), ms(theirs.lease_ns));
    compare("number of members", mine.voters.to_string(), theirs.voters.to_string());
    if mine.kind == theirs.kind {
        compare("two_node", mine.two_node.to_string(), theirs.two_node.to_string());
        compare("ha.enabled", mine.enabled.to_string(), theirs.enabled.to_string());
        let port =
            |facts: &Facts| facts.service_port.map_or_else(|| "none".to_owned(), |port| port.to_string());
        compare("S3 port", port(mine), port(theirs));
        compare("kernel gate", mine.gate.to_string(), theirs.gate.to_string());
    }
    out
}

/// Whether the virtual addresses of another data member are the same.
fn addresses(evidence: &Evidence<'_>, peer: &str, told: &super::Told) -> Option<String> {
    use holdfast_heartbeat::inquiry::MAX_ADDRESSES;
    if told.testimony.facts.kind != evidence.facts.kind || !evidence.is_data() {
        return None;
    }
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    let here = evidence.own.iter().take(MAX_ADDRESSES).map(|seen| seen.spec.address.to_string());
    let there = told.testimony.addresses.iter().map(|seen| format!("{}/{}", seen.address, seen.prefix));
    let (here, there) = (sorted(here.collect()), sorted(there.collect()));
    (here != there).then(|| format!("virtual_ip: {} here, {} on {peer}", here.join(" "), there.join(" ")))
}

fn keys(evidence: &Evidence<'_>) -> Finding {
    let mine = &evidence.facts.keys;
    let other: Vec<_> =
        evidence.testimonies().filter(|(_, told)| told.testimony.facts.keys != *mine).collect();
    if other.is_empty() {
        return Finding::ok("keys", format!("all that answered have the same: {}", mine.join(", ")));
    }
    let list =
        other.iter().map(|(peer, told)| format!("{peer} has {}", told.testimony.facts.keys.join(", ")));
    Finding::warn("keys", format!("here {}; {}", mine.join(", "), list.collect::<Vec<_>>().join("; ")))
        .means("right in the middle of a change of the secret, and at no other time")
        .advice("finish it: `Changing the shared secret` in operations.md")
}
