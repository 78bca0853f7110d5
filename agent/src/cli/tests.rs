//! What people see, word for word.

use clap::CommandFactory;
use serde_json::json;

use super::args::Cli;
use super::client::shaped;
use super::paint::Paint;
use super::{
    archives_view, check_view, cluster_view, history_view, may_restart, replication_view, status_view,
};
use crate::api::tests::{leading, status};
use crate::api::{Cluster, ReplicationStats};
use crate::runtime::history::Entry;
use crate::runtime::inquiry::{CheckReport, Finding};
use crate::runtime::status::{Paused, PeerStatus, Status};

#[track_caller]
fn shows(got: &str, expected: &str) {
    assert!(got == expected, "--- got ---\n{got}\n--- expected ---\n{expected}");
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_healthy_primary_is_one_line_and_its_facts() {
    let mut status = status();
    status.peers[0].paths.truncate(1);
    shows(
        &status_view::render(&status, Paint::PLAIN),
        "\
All is well: a (this host) is primary and serves, epoch 7.

this member  a (data), primary for 3 h 12 min, priority 50
lease        212 ms left
in sync      a, b
virtual IP   10.0.0.100/24 on eth1: held here
S3           http://10.0.0.100:9000
gate         ebpf
real time    SCHED_FIFO 20, memory locked; at most 0.2 ms late lately
keys         signs with 5d1f0c2a and accepts no other
policy       majority of 3 members
failback     auto
log          end 4,096, durable 4,096, committed 4,096, applied 4,096
version      0.1.0

PEER  KIND     ROLE     EPOCH  IN SYNC  HEARD      PATHS
b     data     standby  7      yes      34 ms ago  main 130 us
w     witness  witness  7      -        34 ms ago  main 130 us
",
    );
}

#[test]
fn trouble_is_named_with_what_to_do() {
    let mut status = Status {
        healthy: false,
        solo: true,
        in_sync: vec!["a".into()],
        warnings: vec!["b is not heard".into(), "solo: only a holds every acknowledged byte".into()],
        gate: "nftables".into(),
        gate_fallback: Some("this kernel has no tcx".into()),
        failback_enabled: false,
        ..status()
    };
    status.peers[0].alive = false;
    status.peers[0].in_sync = false;
    status.peers[0].last_heard_ms = Some(75_000);
    status.peers[0].paths[0].alive = false;
    shows(&status_view::render(&status, Paint::PLAIN), "\
Needs attention: a (this host) is primary and serves, epoch 7.

this member  a (data), primary for 3 h 12 min, priority 50
lease        212 ms left
in sync      a (solo)
virtual IP   10.0.0.100/24 on eth1: held here
S3           http://10.0.0.100:9000
gate         nftables (this kernel has no tcx)
real time    SCHED_FIFO 20, memory locked; at most 0.2 ms late lately
keys         signs with 5d1f0c2a and accepts no other
policy       majority of 3 members
failback     auto, switched off until the agent restarts
log          end 4,096, durable 4,096, committed 4,096, applied 4,096
version      0.1.0

PEER  KIND     ROLE         EPOCH  IN SYNC  HEARD                  PATHS
b     data     was standby  7      no       SILENT for 1 min 15 s  main DEAD, cable DEAD
w     witness  witness      7      -        34 ms ago              main 130 us

Warnings
  ! b is not heard
  ! solo: only a holds every acknowledged byte

What to do
  > b: is the host up, and its agent (`systemctl status holdfast` there)? Heartbeats are UDP to 10.0.0.2:9002, 10.78.0.2:9002
  > a standby has to catch up before a can fail over; its progress: `holdfast replication status` on a
  > heartbeats signed with another key arrive: compare `secret_key` on the members
");
}

#[test]
fn a_preference_by_order_is_shown_with_the_configured_one() {
    let view = status_view::render(
        &Status { priority: 10, configured_priority: Some(50), ..status() },
        Paint::PLAIN,
    );
    let line = "this member  a (data), primary for 3 h 12 min, priority 10 until the agent restarts (configured: 50)\n";
    assert!(view.contains(line), "{view}");
}

fn a_pause() -> Option<Paused> {
    Some(Paused { since: "2026-11-21T10:58:01.250Z".into(), by: Some("w".into()) })
}

#[test]
fn a_pause_and_a_drain_are_said_at_the_top_with_what_ends_them() {
    let mut status =
        Status { healthy: false, paused: a_pause(), in_sync: vec!["a".into()], solo: true, ..status() };
    status.peers[0].drained = true;
    status.peers[0].in_sync = false;
    status.peers[0].paths.truncate(1);
    let shown = status_view::render(&status, Paint::PLAIN);
    let mut lines = shown.lines();
    assert_eq!(lines.next(), Some("Needs attention: a (this host) is primary and serves, epoch 7."));
    assert_eq!(
        lines.next(),
        Some("PAUSED since 2026-11-21 10:58:01.250Z, ordered on w: nobody takes over by itself.")
    );
    assert!(shown.contains("b     data     standby  7      no, drained  34 ms ago"), "{shown}");
    let steps: Vec<_> = shown.lines().skip_while(|line| *line != "What to do").skip(1).collect();
    assert_eq!(
        steps,
        [
            "  > when the work is done, on any member: `holdfast ha resume`",
            "  > when the work on b is done, on b: `holdfast ha resume`",
        ]
    );
}

#[test]
fn a_pause_without_a_primary_says_both_ways_on() {
    let status = Status {
        role: "standby".into(),
        primary: None,
        healthy: false,
        serving: false,
        drained: true,
        paused: a_pause(),
        ..status()
    };
    let shown = status_view::render(&status, Paint::PLAIN);
    for line in [
        "NO PRIMARY: nobody serves",
        "PAUSED since",
        "DRAINED: this member is taken out for maintenance.",
        "elect a primary, on any member: `holdfast ha resume`",
        "on a member that `in sync` lists: `holdfast ha promote`",
        "> when the work on this host is done, here: `holdfast ha resume`",
    ] {
        assert!(shown.contains(line), "{line:?} is missing in\n{shown}");
    }
}

#[test]
fn a_router_shows_the_connections_that_are_carried_over() {
    use crate::runtime::conntrack::ConntrackStatus;
    let shown = |state: &str, askers| {
        let connections = ConntrackStatus {
            state: state.into(),
            askers,
            entries: 1234,
            max_entries: 100_000,
            lag_ms: (askers > 0).then_some(3),
            ..ConntrackStatus::default()
        };
        status_view::render(&Status { conntrack: Some(connections), ..status() }, Paint::PLAIN)
    };
    for (state, askers, words) in [
        ("", 1, "told to a standby, the last changes 3 ms late"),
        ("", 0, "no standby is told of them"),
        ("hears 10.0.0.1:9001 over eth1", 0, "hears 10.0.0.1:9001 over eth1"),
    ] {
        let line = format!("\nconnections  1,234 of at most 100,000, {words}\n");
        let shown = shown(state, askers);
        assert!(shown.contains(&line), "{line:?} is missing in\n{shown}");
    }
}

#[test]
fn without_a_primary_the_reason_comes_first() {
    let status = Status {
        role: "standby".into(),
        primary: None,
        healthy: false,
        serving: false,
        lease_remaining_ms: None,
        waiting_for: Some("this member does not hold every acknowledged byte; waiting for b".into()),
        in_sync: vec!["b".into()],
        vips: vec![],
        peers: vec![],
        endpoint: None,
        exposure: Some("a cut between the two".into()),
        ..status()
    };
    shows(
        &status_view::render(&status, Paint::PLAIN),
        "\
NO PRIMARY: nobody serves, as far as this member knows.
Waiting: this member does not hold every acknowledged byte; waiting for b

this member  a (data), standby for 3 h 12 min, priority 50
in sync      b
gate         ebpf
real time    SCHED_FIFO 20, memory locked; at most 0.2 ms late lately
keys         signs with 5d1f0c2a and accepts no other
policy       majority of 3 members
failback     auto
log          end 4,096, durable 4,096, committed 4,096, applied 4,096
version      0.1.0

What this set-up cannot protect against: a cut between the two

What to do
  > what led here: `holdfast ha history`, on each member
",
    );
}

#[test]
fn a_witness_shows_only_what_a_witness_has() {
    let mut status = Status {
        node: "w".into(),
        kind: "witness".into(),
        role: "witness".into(),
        serving: false,
        lease_remaining_ms: None,
        vips: vec![],
        endpoint: None,
        gate: "none".into(),
        gate_fallback: Some("no address".into()),
        ..status()
    };
    status.peers.truncate(1);
    status.peers[0].paths[0].rtt_us = None;
    shows(
        &status_view::render(&status, Paint::PLAIN),
        "\
All is well: a is primary in epoch 7.

this member  w (witness), witness for 3 h 12 min
in sync      a, b
real time    SCHED_FIFO 20, memory locked; at most 0.2 ms late lately
keys         signs with 5d1f0c2a and accepts no other
policy       majority of 3 members
version      0.1.0

PEER  KIND  ROLE     EPOCH  IN SYNC  HEARD      PATHS
b     data  standby  7      yes      34 ms ago  main, cable DEAD

What to do
  > path cable to b: check the cable, the switch and the address 10.78.0.2:9002; the other paths carry on meanwhile
",
    );
}

#[test]
fn one_way_deafness_points_at_the_firewall() {
    let mut status = Status { healthy: false, ..status() };
    status.peers[0].alive = false;
    status.peers[0].paths[0].received = 3;
    status.peers[0].paths[0].unproven = 50;
    let view = status_view::render(&status, Paint::PLAIN);
    assert!(view.contains("b: its heartbeats arrive, ours do not; look for a firewall"), "{view}");
}

#[test]
fn the_cluster_is_a_table_of_members_and_one_of_paths() {
    shows(
        &cluster_view::render(&Cluster::from(status()), Paint::PLAIN),
        "\
primary a, epoch 7; in sync: a, b; majority of 3 members
as a sees it

MEMBER  KIND     ROLE     PRIORITY  EPOCH  IN SYNC  HEARD
a       data     primary  50        7      yes      this member
b       data     standby  150       7      yes      34 ms ago
w       witness  witness  -         7      -        34 ms ago

PATH   TO  ADDRESS         STATE  ROUND TRIP  LONGEST  LOST IN  LOST OUT  SENT   RECEIVED
main   b   10.0.0.2:9002   alive  130 us      950 us   0.5 %    0.0 %     1,000  990
cable  b   10.78.0.2:9002  DEAD   -           -        -        -         1,000  990
main   w   10.0.0.3:9002   alive  130 us      950 us   0.5 %    0.0 %     1,000  990

HEARS  a     b                w
a      -     main, not cable  main
b      main  -                ?
w      main  NO               -
",
    );
}

#[test]
fn one_member_is_a_line_and_its_paths() {
    let cluster = Cluster::from(status());
    shows(
        &cluster_view::member(&cluster.members[1], Paint::PLAIN),
        "\
MEMBER  KIND  VOTE  ROLE     PRIORITY  EPOCH  IN SYNC  HEARD
b       data  yes   standby  150       7      yes      34 ms ago

PATH   TO  ADDRESS         STATE  ROUND TRIP  LONGEST  LOST IN  LOST OUT  SENT   RECEIVED
main   b   10.0.0.2:9002   alive  130 us      950 us   0.5 %    0.0 %     1,000  990
cable  b   10.78.0.2:9002  DEAD   -           -        -        -         1,000  990
",
    );
    shows(
        &cluster_view::member(&cluster.members[0], Paint::PLAIN),
        "\
MEMBER  KIND  VOTE  ROLE     PRIORITY  EPOCH  IN SYNC  HEARD
a       data  yes   primary  50        7      yes      this member
",
    );
}

#[test]
fn findings_are_lines_and_what_is_not_well_has_two_more() {
    let findings = vec![
        Finding::ok("gate", "eBPF (tcx)"),
        Finding::warn("policy", "two members").means("no majority").advice("a witness"),
        Finding::fail("announcement of 10.0.0.100 to b", "b heard \u{1b}none"),
    ];
    let report = CheckReport::new("a", true, findings);
    shows(
        &check_view::render(&report, Paint::PLAIN),
        "\
ok    gate: eBPF (tcx)
warn  policy: two members
        no majority
      > a witness
FAIL  announcement of 10.0.0.100 to b: b heard \u{fffd}none

3 things looked at from a: 1 failed, 1 warnings.
",
    );
    let uneasy = CheckReport::new("a", false, vec![Finding::ok("gate", "eBPF (tcx)")]);
    assert!(
        check_view::render(&uneasy, Paint::PLAIN).ends_with("0 warnings. See also: holdfast ha status\n")
    );
}

#[test]
fn a_direction_that_is_dead_is_seen_in_status_and_cluster() {
    let mut status = status();
    status.peers[0].paths[1].alive = true;
    status.peers[0].paths[1].reaches = Some(false);
    let shown = status_view::render(&status, Paint::PLAIN);
    assert!(shown.contains("main 130 us, cable ONE WAY (to here)"), "{shown}");
    assert!(shown.contains("path cable to b: check the cable"), "{shown}");
    status.peers[0].paths[1].alive = false;
    status.peers[0].paths[1].reaches = Some(true);
    let shown = cluster_view::render(&Cluster::from(status), Paint::PLAIN);
    assert!(shown.contains("cable  b   10.78.0.2:9002  ONE WAY (from here)"), "{shown}");
}

#[test]
fn the_history_is_one_line_per_entry() {
    let entry = |from: Option<&str>, to: Option<&str>, cause: &str, reason: &str, peer: Option<&str>| Entry {
        at: "2026-11-21T08:24:12.123Z".into(),
        uptime_ms: 1,
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
        epoch: from.map(|_| 8),
        cause: cause.into(),
        reason: reason.into(),
        peer: peer.map(str::to_owned),
        output: None,
    };
    let entries = [
        entry(None, None, "note", "the agent started", None),
        entry(
            Some("standby"),
            Some("candidate"),
            "primary_silent",
            "the primary was silent; asking for votes",
            Some("b"),
        ),
        entry(Some("promoting"), Some("primary"), "steps_done", "every step is done", None),
        entry(None, None, "warning", "a line\nwith \u{1b}[2J in it", None),
    ];
    shows(
        &history_view::render(&entries, Paint::PLAIN),
        "\
2026-11-21 08:24:12.123Z  note                           the agent started
2026-11-21 08:24:12.123Z  standby -> candidate  epoch 8  the primary was silent; asking for votes (b)
2026-11-21 08:24:12.123Z  promoting -> primary  epoch 8  every step is done
2026-11-21 08:24:12.123Z  warning                        a line�with �[2J in it
",
    );
    shows(&history_view::render(&[], Paint::PLAIN), "nothing happened to this member yet\n");
}

#[test]
fn the_log_shows_its_streams_and_what_was_set_aside() {
    let mut answer = serde_json::to_value(leading()).unwrap();
    answer["set_aside"] = json!([{"name": "tail-6-4000", "cause": "divergent", "from": 4000, "to": 4100, "records": 2, "bytes": 2048, "reason": "b reigned meanwhile"}]);
    shows(&replication_view::status(&shaped(answer).unwrap(), Paint::PLAIN), "\
This member's log leads in epoch 7.

end        4,192
durable    4,192
committed  4,096
applied    4,096
log        00000000000000ff, 1 segment file(s)
waiting    3 writes
reigns     epoch 7 from 0
promised   epoch 7

STANDBY  STREAM  WAITED FOR  DURABLE  BEHIND
b        up      yes         4,096    96 B, 1.250 s

Set aside: cut from the log, kept as archives in its directory `set-aside`
  ! tail-6-4000: written by a former primary; acknowledged only if a promotion was forced or a pair had split, LSN 4,000 to 4,100, 2 records, 2.0 KiB; b reigned meanwhile
");
}

/// An object of an archive, as the API tells it.
fn archived(key: &str, cluster: &str) -> serde_json::Value {
    json!({"id": 4000, "bucket": "box", "key": key, "version": "0000000000000fa0", "size": 2048, "etag": "e",
        "origin": "put", "owner": "", "content_type": null, "metadata": [], "tags": [], "encryption": null,
        "condition": null, "missing": null, "cluster": cluster})
}

#[test]
fn an_archive_shows_what_it_holds_and_what_the_cluster_has() {
    let mut lost = archived("\u{1b}[2J", "no_bucket");
    lost["missing"] = json!("the archive lacks its bytes at LSN 7");
    let archives = json!([
        {"name": "6-4000-9000", "cause": "divergent", "from": 4000, "to": 9000, "records": 20, "bytes": 5000,
         "reason": "b leads epoch 7", "wall_ms": 1_700_000_000_000_u64, "restored_ms": null, "unreadable": null,
         "content": {"objects": 5, "object_bytes": 6144, "incomplete": 1, "deletions": 1, "other_changes": 2,
                     "users": 0, "unreadable_bytes": 0,
                     "first_objects": [archived("a", "same"), archived("b", "other"), archived("c", "none"), lost]}},
        {"name": "torn-0-9000-9010", "cause": "torn", "from": 9000, "to": 9010, "bytes": 10, "restored_ms": 1,
         "content": {"objects": 0, "unreadable_bytes": 10}},
        {"name": "hidden", "cause": "torn", "content": {"objects": 2, "object_bytes": 2}},
        {"name": "bad", "cause": "damaged", "unreadable": "Input/output error"},
    ]);
    shows(&archives_view::list(&shaped::<Vec<_>>(archives).unwrap(), Paint::PLAIN), "  ! 6-4000-9000: written by a former primary; acknowledged only if a promotion was forced or a pair had split, LSN 4,000 to 9,000, 20 records, 4.9 KiB; b leads epoch 7
      set aside 2023-11-14 22:13:20.000Z
      5 object(s), 6.0 KiB, 1 of them not to be read in full, 1 removal(s), 2 other change(s)
        box/a, 2.0 KiB: the cluster has it
        box/b, 2.0 KiB: the cluster has other content
        box/c, 2.0 KiB: the cluster has none
        box/\u{fffd}[2J, 2.0 KiB: the cluster has not even the bucket; not to be read in full: the archive lacks its bytes at LSN 7
        and 1 more: holdfast replication archives show 6-4000-9000
  + torn-0-9000-9010: an unfinished write at the end of the log, LSN 9,000 to 9,010, 0 records, 10 B
      restored 1970-01-01 00:00:00.001Z
      no objects, 10 B that are no whole record
  ! hidden: an unfinished write at the end of the log, LSN 0 to 0, 0 records, 0 B
      2 object(s), 2 B
        their names need the API token
  ! bad: from a damaged place to the end of the log, LSN 0 to 0, 0 records, 0 B
      what it holds cannot be told: Input/output error
");
    shows(&archives_view::list(&[], Paint::PLAIN), "nothing was set aside of this member's log\n");
}

#[test]
fn the_changes_of_an_archive_stand_one_a_line() {
    let at = |lsn: u64, mut change: serde_json::Value| {
        change["lsn"] = json!(lsn);
        change["epoch"] = json!(6);
        change["wall_ms"] = json!(1_700_000_000_000_u64);
        change
    };
    let mut stored = at(4000, archived("a", "none"));
    (stored["change"], stored["condition"]) = (json!("object"), json!("If-None-Match: *"));
    let keys = json!([{"key": "b", "version": null}, {"key": "c", "version": "null"}]);
    let mut removed = at(4100, json!({"change": "deleted", "bucket": "box", "keys": keys}));
    removed["behind_damage"] = json!(true);
    let user = at(4200, json!({"change": "user_stored", "user": "anna", "existed": false}));
    let changes: Vec<_> = shaped(json!([stored, removed, user])).unwrap();
    shows(&archives_view::changes(&changes, Paint::PLAIN), "\
4,000  2023-11-14 22:13:20.000Z  stored     box/a, 2.0 KiB: the cluster has none; only under the condition If-None-Match: * (version 0000000000000fa0)
4,100  2023-11-14 22:13:20.000Z  removed    box/b, box/c of version null; behind a damaged place
4,200  2023-11-14 22:13:20.000Z  user made  anna
");
    let refused = archives_view::would_be_lost("x", &changes);
    assert!(
        refused.contains("1 of its 1 objects are not in the cluster") && refused.contains("delete x --yes"),
        "{refused}"
    );
}

#[test]
fn a_restore_says_of_each_object_what_became_of_it() {
    let outcome = |key: &str, fate: &str, why: Option<&str>| json!({"bucket": "box", "key": key, "version": null, "bytes": 5, "fate": fate, "why": why});
    let outcomes: Vec<_> = shaped(json!([
        outcome("a", "restored", None),
        outcome("b", "already_there", None),
        outcome("c", "kept", Some("the cluster's has the entity tag 7")),
    ]))
    .unwrap();
    shows(
        &archives_view::outcomes(&outcomes, Paint::PLAIN),
        "\
box/a (5 B): restored
box/b (5 B): already there
box/c (5 B): left alone, since the cluster has other content: the cluster's has the entity tag 7
",
    );
    let progress =
        shaped(json!({"done": 3, "fates": {"restored": 1, "already_there": 1, "kept": 1}})).unwrap();
    shows(
        &archives_view::sum(&progress),
        "3 object(s): 1 restored; 1 already there; 1 left alone, since the cluster has other content\n",
    );
    shows(&archives_view::sum(&shaped(json!({})).unwrap()), "there was nothing to restore\n");
}

#[test]
fn replicated_files_are_listed_with_what_is_not_well() {
    let mut answer = serde_json::to_value(leading()).unwrap();
    answer["peers"] = json!([]);
    answer["files"] = json!({
        "state": "placing",
        "sets": [{
            "name": "dhcp", "files": 14, "bytes": 2048, "last_change": "2026-11-15T02:14:07.221Z", "behind": 1, "failed": 1,
            "failures": [{"path": "/etc/dhcp/a", "why": "Read-only file system"}], "kept_aside": 1,
            "kept": [{"path": "/etc/dhcp/b", "copy": "/s/1-1-b", "kept": "2026-11-15T01:00:00.000Z", "mode": 416, "uid": 0, "gid": 0, "bytes": 3}]
        }],
        "unnamed": ["old"]
    });
    let view = replication_view::status(&shaped(answer).unwrap(), Paint::PLAIN);
    let at = view.find("\nReplicated files").expect("the section");
    shows(
        &view[at..],
        "
Replicated files: the log's are put in their places here
SET   FILES  BYTES    LAST CHANGE               BEHIND  FAILED  LEFT OUT  KEPT ASIDE
dhcp  14     2.0 KiB  2026-11-15T02:14:07.221Z  1       1       0         1
  ! dhcp: not replicated: /etc/dhcp/a: Read-only file system
    kept aside 2026-11-15T01:00:00.000Z: /etc/dhcp/b as /s/1-1-b
  in the log, and not in this configuration: old
",
    );
}

#[test]
fn a_log_out_of_service_says_so_first() {
    let mut answer = serde_json::to_value(leading()).unwrap();
    answer["failure"] = json!("fsync: Input/output error");
    let view = replication_view::status(&shaped(answer).unwrap(), Paint::PLAIN);
    assert!(view.starts_with("OUT OF SERVICE: fsync: Input/output error."), "{view}");
}

#[test]
fn whoever_catches_up_is_shown_with_how_far_it_is_and_a_copy_that_begins_anew_with_the_old_one() {
    let catch_up = json!({
        "received_bytes": 3_u64 << 30, "remaining_bytes": 1 << 30, "percent": 75, "bytes_per_second": 32 << 20,
        "seconds_left": 32, "running_ms": 1, "limit_bytes_per_second": 32 << 20,
    });
    let mut answer = serde_json::to_value(leading()).unwrap();
    answer["peers"][0]["catch_up"] = catch_up;
    let view = replication_view::status(&shaped(answer.clone()).unwrap(), Paint::PLAIN);
    let line = "
Catching up
  b  [##################......] 75 %, 3.0 GiB of 4.0 GiB at 32.0 MiB/s (catch_up_rate 32.0 MiB/s, beyond what is written meanwhile), about 32.0 s left
";
    assert!(view.contains(line), "{view}");

    answer["peers"] = json!([]);
    answer["role"] = "following".into();
    answer["catch_up"] = json!({"received_bytes": 0, "remaining_bytes": 20 << 20, "percent": 0});
    answer["resync"] = json!({
        "under_way": {
            "phase": "copying", "ordered": "2026-11-23T05:00:00.000Z",
            "old_copy": "/data/log/before-resync-7", "fate": "deleted_when_in_sync",
        },
        "kept": [{"path": "/data/log/before-resync-5", "bytes": 4096}],
    });
    let view = replication_view::status(&shaped(answer).unwrap(), Paint::PLAIN);
    for line in [
        "  this member  [........................] 0 %, 0 B of 20.0 MiB at 0 B/s, nothing comes at the moment\n",
        "\nThis member's log is copied anew, as ordered at 2026-11-23T05:00:00.000Z; the old copy is in /data/log/before-resync-7 until the new one is in sync\n",
        "\na former copy of this log, 4.0 KiB, is kept in /data/log/before-resync-5: delete it when nobody needs it any more\n",
    ] {
        assert!(view.contains(line), "{view}");
    }
}

#[test]
fn the_numbers_of_replication_stand_one_a_line() {
    shows(
        &replication_view::stats(&ReplicationStats::from(leading())),
        "\
epoch            7
end_lsn          4192
durable_lsn      4192
committed_lsn    4096
applied_lsn      4096
apply_lag_bytes  0
segments         1
pending          3
streaming_peers  1
set_aside        0
set_aside_bytes  0
damaged          0
lag_bytes[b]     96
lag_ms[b]        1250
",
    );
}

#[test]
fn colours_change_nothing_but_colours() {
    let mut trouble = Status { healthy: false, solo: true, warnings: vec!["w".into()], ..status() };
    trouble.peers[1].alive = false;
    for status in [status(), trouble] {
        let coloured = status_view::render(&status, Paint::COLOURED);
        assert!(coloured.contains('\u{1b}'));
        let mut plain = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            plain.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        plain.push_str(rest);
        shows(&plain, &status_view::render(&status, Paint::PLAIN));
    }
}

#[test]
fn a_member_may_restart_where_somebody_takes_over_and_a_majority_is_left() {
    let refused = |status: &Status, why: &str| {
        let said = may_restart::obstacle(status).unwrap_or_else(|| panic!("allowed: {why}"));
        assert!(said.contains(why), "{said}");
    };
    assert_eq!(may_restart::obstacle(&status()), None);
    let ailments: [fn(&mut PeerStatus); 4] = [
        |peer| peer.in_sync = false,
        |peer| peer.electable = false,
        |peer| peer.drained = true,
        |peer| peer.disk_stalled = true,
    ];
    for unable in ailments {
        let mut primary = status();
        unable(&mut primary.peers[0]);
        refused(&primary, "no standby is in sync and able to take over (b)");
        // Of the standby itself nobody depends, and no more of a witness.
        for role in ["standby", "witness"] {
            assert_eq!(may_restart::obstacle(&Status { role: role.into(), ..primary.clone() }), None);
        }
    }
    refused(&Status { paused: a_pause(), ..status() }, "holdfast ha resume");

    let mut alone = Status { primary: Some("b".into()), role: "standby".into(), ..status() };
    alone.peers[1].alive = false;
    refused(
        &alone,
        "w is not heard: without a too, 1 of 3 votes are left and 2 must agree, so b would stop serving",
    );
    // Where nobody serves, nobody stops.
    assert_eq!(may_restart::obstacle(&Status { primary: None, ..alone.clone() }), None);
    // A half of a pair goes on by its policy.
    alone.peers.truncate(1);
    assert_eq!(may_restart::obstacle(&Status { votes: 2, pair: true, ..alone }), None);
}
