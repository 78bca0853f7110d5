//! Each kind of check against real processes, sockets and files of this host.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use holdfast_config::{Check, CheckKind};

use super::*;

/// Longer than any machine takes, shorter than anybody waits.
const SOON: Duration = Duration::from_secs(60);

fn check(kind: CheckKind) -> Check {
    let interval = Duration::from_millis(100);
    Check { name: "it".into(), kind, interval, timeout: SOON, rise: 1, fall: 1, weight: None }
}

/// One run with a time limit.
fn run_within(kind: CheckKind, limit: Duration) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Runner::new(&check(kind)).run(limit))
}

fn run(kind: CheckKind) -> Outcome {
    run_within(kind, SOON)
}

fn script(dir: &Path, lines: &str) -> CheckKind {
    let path = dir.join("check.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    CheckKind::Exec(vec!["/bin/sh".into(), path.to_str().unwrap().into(), "word".into()])
}

fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn a_program_passes_by_its_exit_status_and_its_last_line_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(script(dir.path(), "echo one; echo two words; echo")), Outcome::passed("two words"));
    let failed = run(script(dir.path(), "echo all is well; echo disk is gone >&2; exit 3"));
    assert_eq!(failed, Outcome::failed("exit status: 3: disk is gone"));
    assert_eq!(run(script(dir.path(), "kill -9 $$")).words, "signal: 9 (SIGKILL)");
    let missing = run(CheckKind::Exec(vec!["/no/such/program".into()]));
    assert!(!missing.passed && missing.words.contains("/no/such/program cannot be started"), "{missing:?}");
}

#[test]
fn a_program_gets_its_words_and_nothing_of_the_agents_environment() {
    let dir = tempfile::tempdir().unwrap();
    // Cargo sets it for its tests.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let said = run(script(dir.path(), "echo \"$1 $HOLDFAST_CHECK [$CARGO_MANIFEST_DIR] $PWD\""));
    assert_eq!(said, Outcome::passed("word it [] /"));
    let waits = run(script(dir.path(), "read line || echo no input"));
    assert_eq!(waits, Outcome::passed("no input"));
}

#[test]
fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let lines = format!("trap '' TERM; sleep 600 & echo $$ $! > {}; wait", pids.display());
    let begun = Instant::now();
    let outcome = run_within(script(dir.path(), &lines), Duration::from_secs(2));
    assert_eq!(outcome, Outcome::failed("no result within 2s"));
    assert!(begun.elapsed() < SOON);
    let pids = std::fs::read_to_string(&pids).expect("it had begun");
    while pids.split_whitespace().any(lives) {
        assert!(begun.elapsed() < SOON, "{pids} live on");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_program_leaves_behind_is_ended_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let begun = Instant::now();
    let outcome = run(script(dir.path(), &format!("sleep 600 & echo $! > {}; echo done", pid.display())));
    assert_eq!(outcome, Outcome::passed("done"));
    let pid = std::fs::read_to_string(pid).unwrap();
    while lives(&pid) {
        assert!(begun.elapsed() < SOON, "{pid} lives on");
        std::thread::yield_now();
    }
}

#[test]
fn a_program_that_prints_without_end_is_only_kept_the_end_of() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "i=0; while [ $i -lt 20000 ]; do echo line $i of very many; i=$((i+1)); done";
    assert_eq!(run(script(dir.path(), lines)), Outcome::passed("line 19999 of very many"));
}

#[test]
fn a_port_passes_where_somebody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(run(CheckKind::Tcp(address.clone())), Outcome::passed("connected"));
    drop(listener);
    let refused = run(CheckKind::Tcp(address));
    assert!(!refused.passed && refused.words.contains("refused"), "{refused:?}");
}

/// Answers each request with the next of these heads, and returns where.
fn answering(heads: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for head in heads {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\n"));
            write!(stream, "HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    url
}

#[test]
fn a_page_passes_by_the_status_of_its_answer_and_a_redirection_is_not_followed() {
    let url =
        answering(&["200 OK", "503 Unavailable", "302 Found\r\nLocation: http://127.0.0.1:1/", "204 Empty"]);
    let get = |status| run(CheckKind::Http { url: url.clone(), status });
    assert_eq!(get(200..=399), Outcome::passed("status 200 OK"));
    assert_eq!(get(200..=399), Outcome::failed("status 503 Service Unavailable"));
    assert_eq!(get(200..=399), Outcome::passed("status 302 Found"));
    assert_eq!(get(200..=200), Outcome::failed("status 204 No Content"));
    let refused = get(200..=399);
    assert!(!refused.passed && refused.words.contains("refused"), "{refused:?}");
}

#[test]
fn a_page_that_does_not_answer_fails_at_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let outcome = run_within(CheckKind::Http { url, status: 200..=399 }, Duration::from_millis(300));
    assert_eq!(outcome, Outcome::failed("no result within 300ms"));
}

#[test]
fn a_file_passes_where_it_exists_and_is_young_enough() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ready");
    let look = |max_age| run(CheckKind::File { path: path.clone(), max_age });
    assert!(!look(None).passed);
    let file = std::fs::File::create(&path).unwrap();
    assert_eq!(look(None), Outcome::passed("exists"));
    assert!(look(Some(SOON)).passed);
    file.set_modified(std::time::SystemTime::now() - 2 * SOON).unwrap();
    let old = look(Some(SOON));
    assert!(!old.passed && old.words.starts_with("modified 2m ago"), "{old:?}");
    file.set_modified(std::time::SystemTime::now() + 2 * SOON).unwrap();
    assert!(look(Some(SOON)).passed, "one from the future is young");
}

#[test]
fn a_process_passes_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    // A name that no other process has, longer than the kernel keeps.
    let program = dir.path().join(format!("holdfast-asleep-{}", std::process::id()));
    std::fs::copy("/bin/sleep", &program).unwrap();
    let name = program.file_name().unwrap().to_str().unwrap().to_owned();
    let pidfile = dir.path().join("pid");
    let by_name = || run(CheckKind::Process(name.clone()));
    let by_file = || run(CheckKind::Pidfile(pidfile.clone()));
    assert!(!by_name().passed && !by_file().passed);
    let mut child = std::process::Command::new(&program).arg("600").spawn().unwrap();
    std::fs::write(&pidfile, format!("{}\n", child.id())).unwrap();
    let begun = Instant::now();
    while !by_name().passed {
        assert!(begun.elapsed() < SOON, "between fork and exec it has another name");
    }
    assert!(by_file().passed);
    child.kill().unwrap();
    // Ended, and not waited for: it does not run any more.
    while by_name().passed || by_file().passed {
        assert!(begun.elapsed() < SOON);
    }
    child.wait().unwrap();
    assert!(!by_name().passed && !by_file().passed);
    std::fs::write(&pidfile, "nobody").unwrap();
    assert!(by_file().words.contains("holds no number"));
}

/// The question is put to `systemctl`, whatever it answers on this host.
#[test]
fn a_unit_that_nobody_knows_is_not_active() {
    let outcome = run(CheckKind::Unit("holdfast-no-such-unit.service".into()));
    assert!(!outcome.passed && !outcome.words.is_empty(), "{outcome:?}");
}

fn next(events: &Receiver<Event>) -> (u32, Vec<String>) {
    match events.recv_timeout(SOON) {
        Ok(Event::ChecksJudged { penalty, failed }) => {
            (penalty, failed.into_iter().map(|check| format!("{}: {}", check.name, check.detail)).collect())
        }
        other => panic!("a judgement was expected: {other:?}"),
    }
}

#[test]
fn only_changes_are_told_with_the_sum_of_what_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let file = |name: &str, weight| Check {
        name: name.into(),
        kind: CheckKind::File { path: path(name), max_age: None },
        interval: Duration::from_millis(20),
        weight,
        rise: 2,
        fall: 2,
        ..check(CheckKind::File { path: PathBuf::new(), max_age: None })
    };
    std::fs::write(path("light"), "").unwrap();
    std::fs::write(path("heavy"), "").unwrap();
    let (told, events) = channel();
    let board = spawn(vec![file("light", Some(7)), file("heavy", None)], move |event| drop(told.send(event)))
        .unwrap();
    let begun = Instant::now();
    while board.read(address::now()).iter().any(|check| check.state != "passing" || check.runs < 5) {
        assert!(begun.elapsed() < SOON);
        std::thread::yield_now();
    }
    assert!(events.try_recv().is_err(), "that everything is well is no news");
    std::fs::remove_file(path("light")).unwrap();
    let (penalty, failed) = next(&events);
    assert_eq!(penalty, 7);
    assert!(failed[0].starts_with("light: ") && failed[0].contains("No such file"), "{failed:?}");
    std::fs::remove_file(path("heavy")).unwrap();
    assert_eq!(next(&events).0, 7 + WITHOUT_WEIGHT);
    let shown = board.read(address::now());
    assert_eq!(shown[1].state, "failing");
    assert!(shown[1].failed_runs >= 2 && shown[1].last.contains("No such file"), "{shown:?}");
    std::fs::write(path("light"), "").unwrap();
    assert_eq!(next(&events).0, WITHOUT_WEIGHT);
    std::fs::write(path("heavy"), "").unwrap();
    assert_eq!(next(&events), (0, Vec::new()));
}

#[test]
fn what_fails_from_the_start_is_told_at_once() {
    let kind = CheckKind::File { path: "/no/such/file".into(), max_age: None };
    let (told, events) = channel();
    spawn(vec![Check { fall: 100, interval: SOON, ..check(kind) }], move |event| drop(told.send(event)))
        .unwrap();
    assert_eq!(next(&events).0, WITHOUT_WEIGHT);
}

#[test]
fn what_is_shown_is_short_and_gives_a_terminal_no_orders() {
    assert_eq!(shortened("  a\u{1b}[2Jb\tc  "), "a [2Jb c");
    let long = shortened(&"é".repeat(500));
    assert!(long.len() <= MAX_WORDS + '…'.len_utf8() && long.ends_with('…'));
}
