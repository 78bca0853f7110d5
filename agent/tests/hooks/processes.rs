//! What hooks see, and what becomes of them at their limit.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_agent::node::event::Readiness;
use holdfast_agent::node::transition::Cause;
use holdfast_agent::runtime::hooks::keeper::Ended;
use holdfast_agent::runtime::hooks::{OUTPUT_BYTES, Order};
use holdfast_config::HookEvent;
use holdfast_heartbeat::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{LIMIT, Stage, hook, script};

/// Reads a pid that a script writes, as soon as it stands there.
fn pid_in(path: &Path) -> i32 {
    let begin = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(pid) = text.strip_suffix('\n').and_then(|line| line.parse().ok()) {
            return pid;
        }
        assert!(begin.elapsed() < LIMIT, "{} was not written", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_gone(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_err()
}

#[test]
fn hooks_are_run_in_order_and_told_who_what_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let all = [HookEvent::PrePrimary, HookEvent::Primary, HookEvent::PreStandby, HookEvent::Standby];
    let told = script(dir.path(), "told", "env | sort | grep ^HOLDFAST_ >> $DIR/seen; echo . >> $DIR/seen");
    let second = script(dir.path(), "second", "echo second $HOLDFAST_EVENT >> $DIR/seen");
    let hooks = vec![
        hook("told", &all, told, LIMIT, true),
        hook("second", &[HookEvent::Primary], second, LIMIT, false),
    ];
    let stage = Stage::new(dir, hooks, Vec::new(), None);
    assert_eq!(stage.prepare(7), Readiness::Ready);
    stage.change(Role::Promoting, Cause::StepsDone, Role::Primary, 7);
    stage.change(Role::Primary, Cause::OperatorOrder, Role::HandingOver, 7);
    stage.retire(7, true);
    stage.change(Role::HandingOver, Cause::HandedOver, Role::Standby, 7);
    stage.order(Order::End);
    assert!(stage.ended.recv_timeout(LIMIT).is_err());
    let seen = std::fs::read_to_string(stage.path("seen")).unwrap();
    let runs: Vec<&str> = seen.split(".\n").collect();
    assert_eq!(
        runs[0],
        "HOLDFAST_API=http://127.0.0.1:8080\nHOLDFAST_CAUSE=primary_silent\nHOLDFAST_EPOCH=7\n\
         HOLDFAST_EVENT=pre_primary\nHOLDFAST_FROM=standby\nHOLDFAST_HOOK=told\nHOLDFAST_NODE=a\n\
         HOLDFAST_PEER=b\nHOLDFAST_PRIMARY=\n\
         HOLDFAST_REASON=the primary was silent on every path for the detection time; asking for votes\n\
         HOLDFAST_TO=primary\nHOLDFAST_VIPS=10.0.0.100/24 fd00::100/64\n"
    );
    let says = |run: usize, lines: &[&str]| {
        lines.iter().for_each(|line| assert!(runs[run].contains(line), "{line:?} is not in {:?}", runs[run]));
    };
    says(1, &["EVENT=primary\n", "FROM=standby\n", "TO=primary\n", "PRIMARY=a\n"]);
    says(2, &["second primary\n", "EVENT=pre_standby\n", "FROM=primary\n", "TO=standby\n", "PRIMARY=a\n"]);
    assert!(runs[2].starts_with("second primary\n"), "{seen}");
    says(3, &["EVENT=standby\n", "FROM=primary\n", "CAUSE=handed_over\n", "PRIMARY=b\n"]);
    assert_eq!(runs.len(), 5, "{seen}");
}

#[test]
fn a_hook_inherits_nothing_of_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let body = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo; ls /proc/self/fd | tr '\\n' ' '; echo\n\
                readlink /proc/self/fd/0; grep -E '^Sig(Blk|Ign)' /proc/self/status; pwd\n\
                cut -d' ' -f41 /proc/self/stat; grep VmLck /proc/self/status";
    let hooks = vec![hook("x", &[HookEvent::PrePrimary], script(dir.path(), "x", body), LIMIT, true)];
    let stage = Stage::new(dir, hooks, Vec::new(), None);
    assert_eq!(stage.prepare(1), Readiness::Ready);
    let (_, _, output) = stage.hook_report();
    let lines: Vec<&str> = output.lines().collect();
    let ours = ["LANG", "OLDPWD", "PATH", "PWD", "SHLVL", "_"];
    let foreign: Vec<_> = lines[0]
        .split(' ')
        .filter(|key| !key.is_empty() && !key.starts_with("HOLDFAST_") && !ours.contains(key))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    // The fourth is the directory that `ls` reads.
    assert_eq!(lines[1].trim(), "0 1 2 3", "{output}");
    assert_eq!(lines[2], "/dev/null");
    assert!(lines[3].ends_with("0000000000000000"), "{output}");
    // Whatever started this test may have it ignore signals (nohup does), and signals from 32 on are the C library's.
    let set = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = set(own.lines().find(|line| line.starts_with("SigIgn")).unwrap());
    assert_eq!(set(lines[4]) & !own & 0x7fff_ffff, 0, "{output}");
    assert_eq!(lines[5], "/");
    assert_eq!((lines[6], lines[7].split_whitespace().nth(1)), ("0", Some("0")), "{output}");
}

#[test]
fn a_hook_that_hangs_is_killed_with_grandchildren_that_left_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let body = "echo begun\n\
        setsid sh -c 'trap \"\" TERM; echo $$ > $DIR/daemon; while :; do sleep 1; done' &\n\
        sh -c 'echo $$ > $DIR/child; exec sleep 1000' &\n\
        trap '' TERM; while :; do sleep 1; done";
    let limit = Duration::from_millis(1500);
    let hooks = vec![hook("x", &[HookEvent::PrePrimary], script(dir.path(), "x", body), limit, true)];
    let stage = Stage::new(dir, hooks, Vec::new(), None);
    let outcome = stage.prepare(1);
    assert_eq!(outcome, Readiness::Vetoed { why: "hook x vetoes it".to_owned() });
    let (message, failed, output) = stage.hook_report();
    let wanted = "hook x (pre_primary) was killed with all that it had started: it took longer than 1.5 s";
    assert_eq!((message.as_str(), failed, output.as_str()), (wanted, true, "begun"));
    for name in ["daemon", "child"] {
        assert!(is_gone(pid_in(&stage.path(name))), "{name} lives");
    }
}

#[test]
fn a_daemon_that_keeps_the_output_open_does_not_hold_up_the_runner_and_may_stay() {
    let dir = tempfile::tempdir().unwrap();
    let body = "setsid sh -c 'echo $$ > $DIR/daemon; exec sleep 1000' &\n\
        while [ ! -s $DIR/daemon ]; do sleep 0.01; done; echo done";
    let hooks = vec![hook("x", &[HookEvent::PrePrimary], script(dir.path(), "x", body), LIMIT * 10, true)];
    let stage = Stage::new(dir, hooks, Vec::new(), None);
    assert_eq!(stage.prepare(1), Readiness::Ready);
    let (_, failed, output) = stage.hook_report();
    assert_eq!((failed, output.as_str()), (false, "done"));
    let daemon = pid_in(&stage.path("daemon"));
    assert!(!is_gone(daemon), "a hook that ended well may leave a daemon behind");
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
}

#[test]
fn a_veto_ends_the_preparation_and_a_failure_without_veto_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let fails = script(dir.path(), "fails", "echo no; exit 3");
    let never = script(dir.path(), "never", "touch $DIR/never-run");
    let on = [HookEvent::PrePrimary];
    let hooks = vec![
        hook("lenient", &on, fails.clone(), LIMIT, false),
        hook("missing", &on, vec!["/nowhere/hook".to_owned()], LIMIT, false),
        hook("strict", &on, fails, LIMIT, true),
        hook("never", &on, never, LIMIT, false),
    ];
    let stage = Stage::new(dir, hooks, Vec::new(), None);
    assert_eq!(stage.prepare(3), Readiness::Vetoed { why: "hook strict vetoes it".to_owned() });
    let (message, failed, output) = stage.hook_report();
    assert!(message.starts_with("hook lenient (pre_primary) failed after "), "{message}");
    assert!(message.ends_with(": exit status 3") && failed, "{message}");
    assert_eq!(output, "no");
    let (message, failed, _) = stage.hook_report();
    assert!(failed && message.contains("could not be run: No such file or directory"), "{message}");
    assert!(!stage.path("never-run").exists());
}

#[test]
fn a_pre_hook_of_a_reign_that_is_over_is_killed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let hooks = vec![
        hook(
            "slow",
            &[HookEvent::PrePrimary],
            script(dir.path(), "slow", "echo $$ > $DIR/slow-pid; sleep 1000"),
            LIMIT * 10,
            true,
        ),
        hook("after", &[HookEvent::Standby], script(dir.path(), "after", "echo after"), LIMIT, false),
    ];
    let stage = Stage::new(dir, hooks, Vec::new(), None);
    stage.change(Role::Standby, Cause::PrimarySilent, Role::Candidate, 5);
    stage.order(Order::Prepare { epoch: holdfast_heartbeat::Epoch(5), round: 1 });
    let pid = pid_in(&stage.path("slow-pid"));
    stage.change(Role::Promoting, Cause::LeaseLapsed, Role::Standby, 5);
    assert!(matches!(stage.prepared(), Readiness::Failed { .. }));
    assert!(is_gone(pid));
    let (message, failed, _) = stage.hook_report();
    assert!(failed && message.contains("the reign that it was run for is over"), "{message}");
    // What was begun is undone.
    stage.retire(5, false);
    let (message, _, output) = stage.hook_report();
    assert!(message.starts_with("hook after (standby) ended well"), "{message}");
    assert_eq!(output, "after");
}

#[test]
fn of_endless_output_the_end_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let body = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let hooks = vec![hook("x", &[HookEvent::PrePrimary], script(dir.path(), "x", body), LIMIT, false)];
    let stage = Stage::new(dir, hooks, Vec::new(), None);
    stage.prepare(1);
    let (_, failed, output) = stage.hook_report();
    assert!(!failed && output.ends_with("line 19999"), "{output}");
    assert!(output.len() <= OUTPUT_BYTES + 8, "{}", output.len());
}

#[test]
fn a_hook_dies_with_its_agent_and_the_next_life_says_so_and_does_not_run_it() {
    // The agent's death closes the keeper's stdin, whatever killed it.
    let dir = tempfile::tempdir().unwrap();
    let slow = script(dir.path(), "slow", "echo $$ > $DIR/slow-pid; echo begun; sleep 1000");
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["hook-keeper", "--limit-ms", "600000", "--"])
        .args(&slow)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    let pid = pid_in(&dir.path().join("slow-pid"));
    drop(keeper.stdin.take());
    let mut verdict = String::new();
    keeper.stderr.take().unwrap().read_to_string(&mut verdict).unwrap();
    assert!(keeper.wait().unwrap().success());
    assert_eq!(serde_json::from_str::<Ended>(&verdict).unwrap(), Ended::CalledOff { survivors: 0 });
    assert!(is_gone(pid));

    let left = r#"{"hook":"slow","event":"primary","epoch":9,"since":"2026-01-01T00:00:00Z"}"#;
    std::fs::write(dir.path().join("hook-running.json"), left).unwrap();
    let hooks = vec![hook("slow", &[HookEvent::Primary], slow, LIMIT, false)];
    let stage = Stage::new(dir, hooks, Vec::new(), None);
    let warning = stage.warning();
    assert!(warning.contains("hook slow ran for primary in epoch 9"), "{warning}");
    assert!(warning.contains("is not run again"), "{warning}");
    stage.order(Order::End);
    assert!(stage.ended.recv_timeout(LIMIT).is_err());
    assert!(stage.reports.try_iter().next().is_none(), "nothing was run");
}
