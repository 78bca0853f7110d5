//! The built binary as a shell sees it: what it prints where, and its exit status.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn holdfast(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(args)
        .env_remove("HOLDFAST_API")
        .env_remove("HOLDFAST_TOKEN")
        .output()
        .expect("the binary starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/tests/fixtures").join(name)
}

/// An address at which nobody listens, for as long as the socket is kept: bound, so that no other test
/// gets it, and not listening.
fn nobody() -> (String, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (format!("http://{address}"), socket)
}

/// Answers one request with `status` and `body`; the thread ends with the request's text.
fn agent(status: &'static str, body: String) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut rest = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut rest).unwrap();
        request.extend(rest);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        String::from_utf8_lossy(&request).into_owned()
    });
    (url, thread)
}

/// The status of a member, as the API gives it.
fn status(healthy: bool) -> String {
    let warnings = if healthy { "" } else { "\"b is not heard\"" };
    format!(
        r#"{{"node":"a","kind":"data","pid":12,"supervisor_pid":11,"version":"0.1.0","role":"primary",
        "role_since_ms":5000,"epoch":7,"primary":"a","lease_remaining_ms":212,"serving":true,"in_sync":["a","b"],
        "solo":false,"healthy":{healthy},"warnings":[{warnings}],"waiting_for":null,"priority":50,
        "failback_mode":"auto","failback_enabled":true,"vips":[],"endpoint":null,"gate":"ebpf",
        "gate_fallback":null,"policy":"majority","exposure":null,"end_lsn":1,"durable_lsn":1,
        "committed_lsn":1,"applied_lsn":1,"peers":[],"counters":{{"heartbeat_dropped":{{}}}}}}"#
    )
}

#[test]
fn every_good_configuration_is_explained() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixture("")).unwrap() {
        let path = entry.unwrap().path();
        let output = holdfast(&["config", "check", path.to_str().unwrap()]);
        assert_eq!(code(&output), 0, "{}: {}", path.display(), stderr(&output));
        assert!(stdout(&output).contains("Member "), "{}", stdout(&output));
        seen += 1;
    }
    assert!(seen >= 7);
}

#[test]
fn each_warning_of_a_configuration_is_printed_once() {
    let output = holdfast(&["config", "check", fixture("advanced.hcl").to_str().unwrap()]);
    let all = stdout(&output) + &stderr(&output);
    let (_, warnings) = all.split_once("\nWarnings (").expect("the fixture has warnings");
    let (count, warnings) = warnings.split_once(")\n").unwrap();
    let lines: Vec<_> = warnings.lines().filter(|line| line.starts_with("  ")).collect();
    assert!(lines.len() >= count.parse().unwrap(), "{all}");
    for line in lines {
        assert_eq!(all.matches(line.trim()).count(), 1, "{line:?} in\n{all}");
    }
}

#[test]
fn a_bad_configuration_shows_the_line_and_the_mend_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.hcl");
    let good = std::fs::read_to_string(fixture("basic_primary.hcl")).unwrap();
    std::fs::write(&path, good.replace("heartbeat_interval", "heartbeat_intervall")).unwrap();
    for args in [["config", "check", path.to_str().unwrap()], ["config", "check", "/nonexistent.hcl"]] {
        let output = holdfast(&args);
        assert_eq!(code(&output), 1);
        assert_eq!(stdout(&output), "");
        assert!(!stderr(&output).is_empty());
    }
    let output = holdfast(&["config", "check", path.to_str().unwrap()]);
    for part in ["unknown key `heartbeat_intervall`", "bad.hcl:", "^^^", "did you mean `heartbeat_interval`"]
    {
        assert!(stderr(&output).contains(part), "{part:?} is missing in\n{}", stderr(&output));
    }
}

#[test]
fn a_usage_error_is_status_2() {
    for args in [
        &[][..],
        &["nonsense"],
        &["ha"],
        &["ha", "stop"],
        &["ha", "failback", "--enable", "--disable"],
        &["ha", "history", "--limit", "many"],
        &["agent"],
        &["config", "check"],
        &["join"],
        &["init", "--members", "4"],
        &["init", "--valid", "0s"],
        &["init", "--peer", "b=10.0.0.2"],
        &["init", "--output", "/nonexistent/cluster"],
    ] {
        assert_eq!(code(&holdfast(args)), 2, "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["ha", "--help"], &["ha", "status", "--help"]] {
        assert_eq!(code(&holdfast(args)), 0, "{args:?}");
    }
}

#[test]
fn what_is_not_for_people_is_not_in_the_help() {
    let help = stdout(&holdfast(&["--help"]));
    assert!(help.contains("replication") && !help.contains("lab-host"), "{help}");
    assert!(!stdout(&holdfast(&["agent", "--help"])).contains("supervised"));
}

#[test]
fn an_agent_that_does_not_run_is_status_1_with_the_next_step() {
    for args in
        [&["ha", "status"][..], &["ha", "status", "--json"], &["ha", "failover"], &["replication", "stats"]]
    {
        let (url, _socket) = nobody();
        let output = holdfast(&[args, &["--api", &url]].concat());
        assert_eq!(code(&output), 1, "{args:?}");
        assert_eq!(stdout(&output), "");
        for part in [url.as_str(), "Is the agent running?", "systemctl status holdfast"] {
            assert!(stderr(&output).contains(part), "{part:?} is missing in\n{}", stderr(&output));
        }
    }
}

#[test]
fn the_health_of_the_cluster_is_in_the_exit_status() {
    for (healthy, expected) in [(true, 0), (false, 3)] {
        for json in [false, true] {
            let (url, thread) = agent("200 OK", status(healthy));
            let mut args = vec!["ha", "status", "--api", &url];
            args.extend(json.then_some("--json"));
            let output = holdfast(&args);
            assert_eq!(code(&output), expected, "{}", stderr(&output));
            assert_eq!(stdout(&output).starts_with('{'), json, "{}", stdout(&output));
            assert!(!stdout(&output).contains('\u{1b}'), "colours where nobody looks at a terminal");
            thread.join().unwrap();
        }
    }
}

#[test]
fn an_order_carries_its_body_and_the_token_and_prints_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "swordfish\n").unwrap();
    for (args, path, body) in [
        (&["failover", "--to", "b"][..], "/api/ha/failover", r#"{"to":"b"}"#),
        (&["failover"], "/api/ha/failover", "{}"),
        (&["promote", "--accept-data-loss"], "/api/ha/promote", r#"{"accept_data_loss":true}"#),
        (&["promote"], "/api/ha/promote", r#"{"accept_data_loss":false}"#),
        (&["failback"], "/api/ha/failback", "{}"),
        (&["failback", "--enable"], "/api/ha/failback", r#"{"enabled":true}"#),
        (&["failback", "--disable"], "/api/ha/failback", r#"{"enabled":false}"#),
        (&["pause"], "/api/ha/pause", "{}"),
        (&["resume"], "/api/ha/resume", "{}"),
        (&["drain"], "/api/ha/drain", "{}"),
    ] {
        let (url, thread) = agent("200 OK", r#"{"message":"b is primary in epoch 8"}"#.to_owned());
        let common = ["ha", "--api", &url, "--token-file", file.to_str().unwrap()];
        let output = holdfast(&[&common, args].concat());
        assert_eq!((code(&output), stdout(&output).as_str()), (0, "b is primary in epoch 8\n"), "{args:?}");
        let request = thread.join().unwrap();
        assert!(request.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{request}");
        assert!(request.contains("authorization: Bearer swordfish\r\n"), "{request}");
        assert!(request.ends_with(&format!("\r\n\r\n{body}")), "{request}");
    }
}

#[test]
fn one_member_is_edited_and_shown_by_its_name() {
    let answer = r#"{"message":"the priority of b is 10 (before: 100)"}"#;
    let (url, thread) = agent("200 OK", answer.to_owned());
    let output = holdfast(&["ha", "members", "edit", "b", "--priority", "10", "--api", &url]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "the priority of b is 10 (before: 100)\n"));
    let request = thread.join().unwrap();
    assert!(request.starts_with("PATCH /api/cluster/nodes/b HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"priority\":10}"), "{request}");

    let refused = r#"{"error":{"code":"other_member","message":"this is a"}}"#;
    let (url, thread) = agent("409 Conflict", refused.to_owned());
    let output = holdfast(&["ha", "members", "edit", "b", "--priority", "10", "--api", &url]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("refused (other_member): this is a"), "{}", stderr(&output));
    thread.join().unwrap();

    let member = r#"{"id":"b","kind":"data","is_self":false,"role":"standby","epoch":7,"priority":100,
        "in_sync":true,"vote":true,"alive":true,"last_heard_ms":34,"paths":[]}"#;
    for json in [false, true] {
        let (url, thread) = agent("200 OK", member.to_owned());
        let mut args = vec!["ha", "members", "show", "b/../a", "--api", &url];
        args.extend(json.then_some("--json"));
        let output = holdfast(&args);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains("standby"), "{}", stdout(&output));
        let request = thread.join().unwrap();
        assert!(request.starts_with("GET /api/cluster/nodes/b%2F..%2Fa HTTP/1.1\r\n"), "{request}");
    }
    for wrong in
        [&["edit", "b"][..], &["edit", "--priority", "1"], &["edit", "b", "--priority", "-1"], &["show"]]
    {
        assert_eq!(code(&holdfast(&[&["ha", "members"], wrong].concat())), 2, "{wrong:?}");
    }
}

/// As `ps` shows them while the agent takes its time.
#[test]
fn a_token_does_not_stay_in_the_arguments() {
    use std::io::{BufRead, BufReader, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    for token in [&["--token", "s3cret-of-the-api"][..], &["--token=s3cret-of-the-api"]] {
        let child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["ha", "--api", &url, "pause"])
            .args(token)
            .env_remove("HOLDFAST_TOKEN")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(&stream).lines().map(Result::unwrap);
        let sent = lines.any(|line| line.eq_ignore_ascii_case("authorization: bearer s3cret-of-the-api"));
        let shown = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").unwrap();
        drop(stream);
        child.wait_with_output().unwrap();
        assert!(sent, "the token is sent");
        assert!(shown.contains("pause") && !shown.contains("s3cret"), "{shown:?}");
    }
}

#[test]
fn what_the_agent_declines_is_said_in_its_words() {
    let answer = r#"{"error":{"code":"data_loss","message":"Promoting it may lose every write from LSN 7"}}"#;
    let (url, thread) = agent("409 Conflict", answer.to_owned());
    let output = holdfast(&["ha", "promote", "--api", &url]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("refused (data_loss): Promoting it may lose every write from LSN 7"));
    thread.join().unwrap();
}

#[test]
fn what_is_no_agent_is_recognised() {
    for (status, body) in [("200 OK", "<html>hello</html>"), ("404 Not Found", "{}"), ("302 Found", "")] {
        let (url, thread) = agent(status, body.to_owned());
        let output = holdfast(&["ha", "cluster", "--api", &url]);
        assert_eq!(code(&output), 1);
        assert!(stderr(&output).contains("not as a Holdfast agent does"), "{}", stderr(&output));
        thread.join().unwrap();
    }
}

#[test]
fn a_check_that_failed_ends_with_the_status_of_an_unhealthy_cluster() {
    for (healthy, expected) in [(true, 0), (false, 3)] {
        for json in [true, false] {
            let body = format!(
                r#"{{"node":"a","healthy":{healthy},"findings":[{{"name":"gate","outcome":"warn","seen":"none",
                "means":"valid_lft","do":"give it CAP_BPF"}}]}}"#
            );
            let (url, thread) = agent("200 OK", body);
            let mut args = vec!["ha", "check", "--api", &url];
            args.extend(json.then_some("--json"));
            let output = holdfast(&args);
            assert_eq!(code(&output), expected, "{}", stderr(&output));
            assert!(stdout(&output).contains("give it CAP_BPF"), "{}", stdout(&output));
            assert!(thread.join().unwrap().starts_with("POST /api/ha/check "));
        }
    }
}
