//! No secret shows: real agents at their most verbose, everything that they say or write searched for every secret that
//! they know, as it is, in hexadecimal and in base64.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use holdfast_agent::lab::cluster::{Cluster, write_private};
use holdfast_agent::lab::ledger::{Load, LoadSpec, Target, read_back};
use holdfast_agent::lab::settings::{ClusterSpec, SECRET_KEY, WITNESS};
use holdfast_integration::promise;
use holdfast_integration::stage::{self, LIMIT, ensure, holdfast_binary, write_program};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const SHARED: &str = "a secret of the lab, good for nothing else";
const NEXT_SHARED: &str = "K7ZQshared-after-rotation-9XWV";
const API_TOKEN: &str = "K7ZQtoken-of-the-interface-9XWV";
const WRONG_TOKEN: &str = "K7ZQtoken-that-opens-nothing-9XWV";
const FENCE_PASSWORD: &str = "K7ZQpassword-of-the-device-9XWV";
/// It lies in the log and the index of the store, because signatures are checked with it, and nowhere else.
const USER_SECRET: &str = "K7ZQsecret-of-a-store-user-9XWV";
const ALL: [&str; 6] = [SHARED, NEXT_SHARED, API_TOKEN, WRONG_TOKEN, FENCE_PASSWORD, SECRET_KEY];

/// A device that is never content, and repeats what it was told.
const FENCE_AGENT: &str = "#!/bin/sh
[ \"${1:-}\" = -o ] && exit 0
while IFS= read -r line; do echo \"got $line\" >&2; echo \"got $line\"; done
exit 1
";

/// Every way in which `secret` could stand in a text: as it is, in hexadecimal, and in base64, wherever it begins
/// within what was encoded.
fn guises(secret: &str) -> Vec<String> {
    let base64 = |before: usize| {
        // Without the characters at both ends, which depend on what stands beside it.
        let padded = [vec![0; before], secret.as_bytes().to_vec()].concat();
        let text = STANDARD_NO_PAD.encode(padded);
        let skipped = (before * 8).div_ceil(6);
        let sure = (before + secret.len()) * 8 / 6;
        text[skipped..sure].to_owned()
    };
    let mut guises = vec![secret.to_owned(), hex::encode(secret), hex::encode_upper(secret)];
    for before in 0..3 {
        let text = base64(before);
        guises.push(text.replace('+', "-").replace('/', "_"));
        guises.push(text);
    }
    guises
}

/// Looks for every guise of every secret.
struct Search(Vec<(&'static str, Vec<u8>)>);

impl Search {
    fn new() -> Search {
        Search::of(&ALL)
    }

    fn of(secrets: &[&'static str]) -> Search {
        let of = |secret: &&'static str| {
            let secret = *secret;
            guises(secret).into_iter().map(move |guise| (secret, guise.into_bytes()))
        };
        Search(secrets.iter().flat_map(of).collect())
    }

    fn nothing_in(&self, place: &str, bytes: &[u8]) -> Result<()> {
        for (secret, guise) in &self.0 {
            let found = bytes.windows(guise.len()).position(|window| window == guise);
            ensure(found.is_none(), || {
                let at = found.unwrap_or_default();
                let around = &bytes[at.saturating_sub(200)..(at + 100).min(bytes.len())];
                format!("{place} shows {secret:?}: {}", String::from_utf8_lossy(around))
            })?;
        }
        Ok(())
    }

    /// Every file below `dir`; how many bytes were searched.
    fn nothing_below(&self, dir: &Path, kept: &[&str]) -> Result<usize> {
        let mut searched = 0;
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if kept.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                searched += self.nothing_below(&path, kept)?;
            } else if path.is_file() {
                let bytes = fs::read(&path)?;
                self.nothing_in(&path.display().to_string(), &bytes)?;
                searched += bytes.len();
            }
        }
        Ok(searched)
    }

    /// What `ps` shows of every process of this machine.
    fn nothing_in_arguments(&self) -> Result<()> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let path = entry.path();
            // Whoever ends meanwhile shows nothing.
            if let Ok(arguments) = fs::read(path.join("cmdline")) {
                self.nothing_in(&path.display().to_string(), &arguments)?;
            }
        }
        Ok(())
    }
}

#[test]
fn every_guise_is_found_where_it_is() {
    let search = Search::new();
    for before in ["", "x", "xy", "xyz"] {
        let text = format!("{before}{API_TOKEN}:{before}");
        assert!(search.nothing_in("a text", text.as_bytes()).is_err());
        assert!(search.nothing_in("hex", hex::encode(&text).as_bytes()).is_err());
        let encoded = base64::engine::general_purpose::STANDARD.encode(&text);
        assert!(search.nothing_in("base64", encoded.as_bytes()).is_err(), "{before:?}");
    }
    search.nothing_in("a text", b"K7ZQtoken-of-another").unwrap();
}

/// Has the agent on `host` read its configuration after `change`, and waits for what it says to that.
fn reload(cluster: &Cluster, host: &str, says: &str, change: impl Fn(&str) -> String) -> Result<()> {
    let machine = cluster.world().machine(host)?;
    let text = stage::reload(cluster, host, change)?;
    cluster.wait_until(says, LIMIT, |_| {
        cluster.history(host).is_ok_and(|entries| entries.iter().any(|entry| entry.reason.contains(says)))
            || fs::read_to_string(machine.dir().join("agent.log")).is_ok_and(|log| log.contains(says))
    })?;
    fs::write(machine.dir().join("holdfast.hcl"), text)?;
    Ok(())
}

#[test]
fn no_secret_shows_in_anything_that_an_agent_says_or_writes() {
    let beside = tempfile::tempdir().unwrap();
    let at = |name: &str| beside.path().join(name);
    write_private(&at("device"), FENCE_PASSWORD).unwrap();
    write_private(&at("user"), USER_SECRET).unwrap();
    write_private(&at("token"), API_TOKEN).unwrap();
    write_private(&at("wrong-token"), WRONG_TOKEN).unwrap();
    write_program(&at("fence_lab"), FENCE_AGENT).unwrap();

    let mut spec = ClusterSpec { log: "trace".to_owned(), ..ClusterSpec::default() };
    spec.extra.insert(
        "b".to_owned(),
        format!(
            "fence \"device\" {{\n  agent = \"{}\"\n  member = \"a\"\n  retries = 0\n  monitor_interval = 5\n  params {{\n    password_file = \"{}\"\n  }}\n}}\n",
            at("fence_lab").display(),
            at("device").display()
        ),
    );
    let witness = spec.config_file(WITNESS, Path::new("{DIR}"));
    let token = format!("api {{\n  token_file = \"{}\"\n", at("token").display());
    spec.verbatim.insert(WITNESS.to_owned(), witness.replace("api {\n", &token));
    promise(spec, |cluster| {
        let search = Search::new();
        let users = Search::of(&[USER_SECRET]);
        let binary = holdfast_binary()?.display().to_string();
        let say = |host: &str, words: &[&str]| -> Result<String> {
            let argv = [&[binary.as_str()], words].concat();
            let output = cluster.world().machine(host)?.execute(&argv, LIMIT)?;
            let place = format!("holdfast {} on {host}", words.join(" "));
            let said = format!("{}\n{}", output.stdout, output.stderr);
            search.nothing_in(&place, said.as_bytes())?;
            users.nothing_in(&place, said.as_bytes())?;
            Ok(said)
        };
        // Everything that uses a secret: heartbeats and streams from the start, then clients, right and wrong.
        cluster.wait_in_sync(LIMIT)?;
        let (client, target) = (cluster.client()?, cluster.target("secrets"));
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(20, LIMIT)?;
        let wrong = at("wrong-token").display().to_string();
        let right = at("token").display().to_string();
        let refused = say(WITNESS, &["ha", "pause", "--token-file", &wrong])?;
        ensure(refused.contains("token"), || format!("a wrong token was accepted: {refused}"))?;
        say(WITNESS, &["ha", "pause", "--token-file", &right])?;
        say(WITNESS, &["ha", "resume", "--token-file", &right])?;
        search.nothing_in_arguments()?;
        cluster.wait_until("the device to be looked at", LIMIT, |all| {
            all.iter().flat_map(|status| &status.warnings).any(|warning| warning.contains("device"))
        })?;
        // A user of the store, whose secret comes from elsewhere; it signs requests, and a wrong one is refused.
        let primary = cluster.wait_for_primary(LIMIT)?;
        let create = format!(
            "{binary} store users create shop --access '*:readwrite' --access-key shop < {}",
            at("user").display()
        );
        let made = cluster.world().machine(&primary)?.execute(&["sh", "-c", &create], LIMIT)?;
        ensure(made.stdout.contains(USER_SECRET), || format!("{} {}", made.stdout, made.stderr))?;
        for secret in [USER_SECRET, WRONG_TOKEN] {
            let (access_key, secret_key) = ("shop".to_owned(), secret.to_owned());
            let theirs = Target { access_key, secret_key, ..target.clone() };
            let load = Load::start(&client, &theirs, LoadSpec::default());
            if secret == USER_SECRET {
                load.wait_for_more(20, LIMIT)?;
            }
            load.stop()?;
        }
        say(&primary, &["store", "users", "list", "--json"])?;
        say(&primary, &["store", "users", "disable", "shop"])?;
        // A file that is wrong in the very line of a secret is shown where it is wrong.
        reload(cluster, "a", "the configuration was not reloaded", |text| {
            text.replace("secret_key  = \"", "secret_key  = \"a\" \"")
        })?;
        reload(cluster, "a", "the shared keys were replaced", |text| {
            text.replace(
                "secret_key  = \"",
                &format!("previous_secret_keys = [\"{NEXT_SHARED}\"]\n  secret_key  = \""),
            )
        })?;
        cluster.switch_over(LIMIT)?;
        for host in ["a", "b"] {
            let config = cluster.world().machine(host)?.dir().join("holdfast.hcl").display().to_string();
            say(host, &["config", "check", &config])?;
            for words in [
                &["ha", "status", "--json"][..],
                &["ha", "status"],
                &["ha", "cluster", "--json"],
                &["ha", "check"],
                &["ha", "history", "--json"],
                &["ha", "audit", "--json"],
                &["replication", "status", "--json"],
                &["ha", "record"],
            ] {
                say(host, words)?;
            }
        }
        search.nothing_in_arguments()?;
        let verdict = read_back(&client, &target, &load.stop()?, LIMIT)?;
        ensure(verdict.is_good(), || format!("{verdict:?}"))?;
        // All that is on the hosts: logs, history, audit trail, recordings, state, the store itself.
        for host in cluster.spec().members() {
            let dir = cluster.world().machine(host)?.dir().to_owned();
            let searched = search.nothing_below(&dir, &["holdfast.hcl"])?;
            users.nothing_below(&dir, &["holdfast.hcl", "store"])?;
            let log = fs::read_to_string(dir.join("agent.log"))?;
            let verbose = log.contains(" DEBUG ") || host == WITNESS && log.contains("a request was refused");
            ensure(verbose && searched > 1_000, || {
                format!("{host} said too little to tell: {searched} bytes")
            })?;
        }
        Ok(())
    });
}

/// Waits for a request on `listener`, and gives what its sender says of who it is.
fn authorization_of_next(listener: &TcpListener) -> Result<(TcpStream, String)> {
    let mut waits = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    ensure(poll(&mut waits, PollTimeout::try_from(LIMIT)?)? == 1, || "nobody asks anything".to_owned())?;
    let (client, _) = listener.accept()?;
    client.set_read_timeout(Some(LIMIT))?;
    for line in BufReader::new(client.try_clone()?).lines() {
        let line = line?;
        if line.to_ascii_lowercase().starts_with("authorization:") {
            return Ok((client, line));
        }
        ensure(!line.is_empty(), || "the request says nothing of who sends it".to_owned())?;
    }
    anyhow::bail!("the request ended early")
}

#[test]
fn a_token_among_the_arguments_is_out_of_them_before_it_is_used() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let api = format!("http://{}", listener.local_addr()?);
    let mut client = Command::new(holdfast_binary()?)
        .args(["ha", "--token", API_TOKEN, "status", "--api", &api])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let asked = authorization_of_next(&listener);
    let of_it = |file: &str| fs::read(format!("/proc/{}/{file}", client.id()));
    let (arguments, name) = (of_it("cmdline"), of_it("comm"));
    // Nobody answers.
    drop(listener);
    let sent = asked.map(|(_, line)| line);
    client.wait()?;
    let sent = sent?;
    ensure(sent.contains(API_TOKEN), || format!("the token was lost on the way: {sent}"))?;
    let arguments = String::from_utf8(arguments?)?;
    ensure(!arguments.contains(API_TOKEN), || format!("ps shows the token: {arguments:?}"))?;
    ensure(arguments.contains("status"), || format!("the other arguments are gone: {arguments:?}"))?;
    ensure(name? == b"holdfast\n", || "the process has another name in ps".to_owned())
}
