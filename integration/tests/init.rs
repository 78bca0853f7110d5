//! From bare hosts to a cluster: `holdfast init` and `holdfast join` as an operator runs them, with the agents that start
//! from what they wrote.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::{Load, LoadSpec, Target, read_back};
use holdfast_agent::lab::settings::{CLIENT, ClusterSpec, LAN, S3_PORT, WITNESS};
use holdfast_agent::lab::world::Machine;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure, holdfast_binary};
use nix::sys::signal::Signal;

/// Hosts on which nothing runs yet.
fn bare_hosts() -> ClusterSpec {
    let idle = ["a", "b", WITNESS].map(str::to_owned).to_vec();
    ClusterSpec { idle, ..ClusterSpec::default() }
}

/// One host, and what is run on it.
struct Bare<'c> {
    machine: &'c Machine,
    binary: String,
}

impl<'c> Bare<'c> {
    fn of(cluster: &'c Cluster, name: &str) -> Result<Bare<'c>> {
        let machine = cluster.world().machine(name)?;
        Ok(Bare { machine, binary: holdfast_binary()?.display().to_string() })
    }

    /// Its directory for configuration and secrets.
    fn etc(&self) -> PathBuf {
        self.machine.dir().join("etc")
    }

    fn state(&self) -> PathBuf {
        self.machine.dir().join("state")
    }

    /// A command with the directories of this host.
    fn command(&self, words: &[&str]) -> Vec<String> {
        let (etc, state) = (self.etc().display().to_string(), self.state().display().to_string());
        let dirs = ["--no-start", "--config-dir", &etc, "--state-dir", &state];
        let all = [self.binary.as_str()].into_iter().chain(words.iter().copied()).chain(dirs);
        all.map(str::to_owned).collect()
    }

    /// Runs a command to its end: its status, and all that it said.
    fn run(&self, words: &[&str]) -> Result<(i32, String)> {
        let command = self.command(words);
        let argv: Vec<&str> = command.iter().map(String::as_str).collect();
        let output = self.machine.execute(&argv, LIMIT)?;
        Ok((output.status, format!("{}{}", output.stdout, output.stderr)))
    }

    /// Starts a command that goes on; what it says is in `log`.
    fn start(&self, words: &[&str], log: &str) -> Result<Running<'c>> {
        let path = self.machine.dir().join(log);
        let pid = self.machine.start_process(&self.command(words), &[], log)?;
        Ok(Running { machine: self.machine, pid, log: path })
    }

    fn init(&self, words: &[&str], log: &str) -> Result<Running<'c>> {
        self.start(&[&["init", "--yes"], words].concat(), log)
    }

    fn join(&self, token: &str, log: &str) -> Result<Running<'c>> {
        self.start(&["join", token], log)
    }

    /// The text of a file of its configuration.
    fn file(&self, name: &str) -> Result<String> {
        let path = self.etc().join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// All that is in its directory for configuration and secrets.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.etc()).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Starts the agent from what was written.
    fn start_agent(&self, config: &str) -> Result<()> {
        let config = self.etc().join(config).display().to_string();
        let argv = [self.binary.as_str(), "agent", "--config", &config].map(str::to_owned);
        self.machine.start_process(&argv, &[("NO_COLOR".to_owned(), "1".to_owned())], "agent.log")?;
        Ok(())
    }
}

/// A command that runs, or has ended.
struct Running<'c> {
    machine: &'c Machine,
    pid: i32,
    log: PathBuf,
}

impl Running<'_> {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it said `words`.
    fn says(&self, words: &str) -> Result<String> {
        wait(&format!("{:?} in {}", words, self.log.display()), || {
            Some(self.said()).filter(|said| said.contains(words))
        })
        .with_context(|| format!("it said:\n{}", self.said()))
    }

    /// The join lines that it printed so far, the newest for each host.
    fn tokens(&self) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        let mut whom = String::new();
        // The last line may not be whole.
        let said = self.said();
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            if let Some(rest) = line.strip_prefix("On ") {
                whom = rest.split(", as root").next().unwrap_or_default().to_owned();
            }
            if let Some(token) = line.trim().strip_prefix("holdfast join ") {
                found.retain(|(other, _)| *other != whom);
                found.push((whom.clone(), token.to_owned()));
            }
        }
        found
    }

    /// The newest join line for a host, once there is another one than `not`.
    fn token(&self, whom: &str, not: &str) -> Result<String> {
        wait(&format!("a line for {whom} in {}", self.log.display()), || {
            let found =
                self.tokens().into_iter().find(|(other, token)| other.starts_with(whom) && token != not);
            found.map(|(_, token)| token)
        })
        .with_context(|| format!("it said:\n{}", self.said()))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.machine.signal(self.pid, signal)
    }
}

/// Looks until `found` has something.
fn wait<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = found() {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("not within {} s: {what}", LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.permissions().mode() & 0o777)
}

/// What a finished set-up left: the same secrets where they belong, each for one user, and nothing else.
fn all_placed(a: &Bare<'_>, b: &Bare<'_>, w: &Bare<'_>) -> Result<()> {
    for (host, files) in [
        (a, &["holdfast.hcl", "root-secret", "secret"][..]),
        (b, &["holdfast.hcl", "root-secret", "secret"]),
        (w, &["secret", "witness.hcl"]),
    ] {
        ensure(host.files() == files, || format!("{} has {:?}", host.machine.name(), host.files()))?;
        for file in files {
            ensure(mode(&host.etc().join(file))? == 0o600, || format!("others read {file}"))?;
        }
        let config =
            host.etc().join(files.iter().find(|file| file.ends_with(".hcl")).context("a configuration")?);
        let check =
            [host.binary.as_str(), "config", "check", &config.display().to_string()].map(str::to_owned);
        let argv: Vec<&str> = check.iter().map(String::as_str).collect();
        let checked = host.machine.execute(&argv, LIMIT)?;
        ensure(checked.status == 0 && checked.stdout.contains("No warnings."), || {
            checked.stdout + &checked.stderr
        })?;
    }
    ensure(a.file("secret")? == b.file("secret")? && a.file("secret")? == w.file("secret")?, || {
        "the members do not share one secret".to_owned()
    })?;
    ensure(a.file("root-secret")? == b.file("root-secret")?, || "the root user has two keys".to_owned())?;
    ensure(a.file("root-secret")? != a.file("secret")?, || "one secret is for two purposes".to_owned())
}

/// Fails where anything that is shown or can be seen by others holds a secret.
fn no_secret_in(place: &str, text: &str, secrets: &[String]) -> Result<()> {
    for secret in secrets {
        ensure(!text.contains(secret.trim()), || format!("a secret shows in {place}"))?;
    }
    Ok(())
}

/// What `ps` shows of every process of this machine.
fn all_arguments() -> String {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let arguments = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    arguments.map(|arguments| String::from_utf8_lossy(&arguments).into_owned() + "\n").collect()
}

#[test]
fn bare_hosts_become_a_cluster_that_serves_and_survives_a_failover() {
    promise(bare_hosts(), |cluster| {
        let (a, b, w) = (Bare::of(cluster, "a")?, Bare::of(cluster, "b")?, Bare::of(cluster, WITNESS)?);
        let lines = a.machine.dir().join("lines");
        let init = a.init(&["--tokens-file", &lines.display().to_string()], "init.log")?;
        let (for_b, for_w) = (init.token("host two", "")?, init.token("the witness", "")?);
        // The suggestion is the round number that the lab uses, too.
        ensure(init.said().contains(&cluster.spec().vip.to_string()), || init.said())?;
        wait("the file of lines", || lines.exists().then_some(()))?;
        let in_file = fs::read_to_string(&lines)?;
        let expected = format!("host-2 holdfast join {for_b}\nwitness holdfast join {for_w}\n");
        ensure(in_file == expected && mode(&lines)? == 0o600, || in_file)?;
        ensure(a.files().is_empty(), || format!("{:?} before all are here", a.files()))?;

        let of_b = b.join(&for_b, "join.log")?;
        of_b.says("Waiting for the witness")?;
        let shown = all_arguments();
        ensure(shown.contains("init") && !shown.contains(&for_b), || "ps shows the token".to_owned())?;
        ensure(a.files().is_empty() && b.files().is_empty(), || "written before all are here".to_owned())?;
        let (status, of_w) = w.run(&["join", &for_w])?;
        ensure(status == 0 && of_w.contains("holdfast agent --config"), || of_w.clone())?;
        of_b.says("To start it: holdfast agent --config")?;
        let summary = init.says("Next:         holdfast ha check")?;
        ensure(summary.contains(&format!("http://{}:{S3_PORT}", cluster.spec().vip)), || summary.clone())?;
        ensure(!lines.exists(), || "the file of lines is still there".to_owned())?;
        all_placed(&a, &b, &w)?;
        let secrets = [a.file("secret")?, a.file("root-secret")?];
        for (place, text) in [("init", &summary), ("the join of b", &of_b.said()), ("the join of w", &of_w)] {
            no_secret_in(place, text, &secrets)?;
        }

        // Set up twice is set up once.
        let (status, again) = a.run(&["init", "--yes"])?;
        ensure(status == 1 && again.contains("is a member already"), || again)?;

        for (host, config) in [(&a, "holdfast.hcl"), (&b, "holdfast.hcl"), (&w, "witness.hcl")] {
            host.start_agent(config)?;
        }
        cluster.wait_in_sync(LIMIT)?;
        let primary = cluster.wait_for_primary(LIMIT)?;
        let client = cluster.client()?;
        let target = Target {
            access_key: "admin".to_owned(),
            secret_key: a.file("root-secret")?.trim().to_owned(),
            ..cluster.target("first")
        };
        target.create_bucket(&client, LIMIT)?;
        let load = Load::start(&client, &target, LoadSpec::default());
        load.wait_for_more(50, LIMIT)?;
        cluster.inflict(&primary, Fault::PowerOff)?;
        cluster
            .wait_until("a failover", LIMIT, |all| all.iter().any(|s| s.is_primary() && s.node != primary))?;
        load.wait_for_more(50, LIMIT)?;
        let verdict = read_back(&client, &target, &load.stop()?, LIMIT)?;
        ensure(verdict.is_good(), || format!("{verdict:?}"))
    });
}

/// Sets up a cluster of data members alone, by `words`, and has it serve.
fn without_a_witness(data_members: usize, words: &[&str]) {
    let idle = ["a", "b", "d"].map(str::to_owned).to_vec();
    let spec = ClusterSpec { data_members, witness: false, idle, ..ClusterSpec::default() };
    promise(spec, |cluster| {
        let hosts: Vec<Bare<'_>> =
            cluster.spec().data().iter().map(|name| Bare::of(cluster, name)).collect::<Result<_>>()?;
        let vip = cluster.spec().vip.to_string();
        let init = hosts[0].init(&[&["--vip", &vip], words].concat(), "init.log")?;
        for (host, whom) in hosts[1..].iter().zip(["host two", "host three"]) {
            // As it comes out of a file or another program.
            let line = host.machine.dir().join("line");
            fs::write(&line, format!("holdfast join {}\n", init.token(whom, "")?))?;
            let join = host.command(&["join", "-"]).join(" ");
            let argv = ["sh", "-c", &format!("exec {join} < {}", line.display())].map(str::to_owned);
            host.machine.start_process(&argv, &[], "join.log")?;
        }
        init.says("Next:")?;
        for host in &hosts {
            ensure(host.files() == ["holdfast.hcl", "root-secret", "secret"], || {
                format!("{:?}", host.files())
            })?;
            host.start_agent("holdfast.hcl")?;
        }
        cluster.wait_in_sync(LIMIT)?;
        let target = Target {
            access_key: "admin".to_owned(),
            secret_key: hosts[0].file("root-secret")?.trim().to_owned(),
            ..cluster.target("first")
        };
        target.create_bucket(&cluster.client()?, LIMIT)
    });
}

#[test]
fn a_pair_without_a_witness_is_set_up_and_serves() {
    without_a_witness(2, &["--no-witness"]);
}

#[test]
fn three_members_with_the_data_are_set_up_and_serve() {
    without_a_witness(3, &["--members", "3"]);
}

#[test]
fn a_token_is_good_once_for_a_while_and_for_one_host() {
    promise(bare_hosts(), |cluster| {
        let (a, b, w) = (Bare::of(cluster, "a")?, Bare::of(cluster, "b")?, Bare::of(cluster, WITNESS)?);
        let refused = |host: &Bare<'_>, token: &str, says: &str| -> Result<()> {
            let (status, said) = host.run(&["join", token])?;
            ensure(status == 1 && said.contains(says), || format!("{says:?} is missing ({status}): {said}"))?;
            ensure(host.files().is_empty(), || format!("{:?} was written", host.files()))
        };
        // Expired, while the command that gave it still runs.
        let init = a.init(&["--vip", "10.77.0.50", "--valid", "1s"], "expired.log")?;
        let expired = init.token("host two", "")?;
        let newer = init.token("host two", &expired)?;
        refused(&b, &expired, "expired")?;
        init.signal(Signal::SIGINT)?;
        init.says("Nothing was written")?;
        refused(&b, &newer, "nobody listens")?;
        ensure(a.files().is_empty(), || format!("{:?}", a.files()))?;

        // Of an earlier run, mistyped, and used.
        let init = a.init(&["--vip", "10.77.0.50"], "init.log")?;
        let first = init.token("host two", "")?;
        refused(&b, &newer, "does not know this token")?;
        init.says("was refused")?;
        let last = if first.ends_with('0') { "2" } else { "0" };
        refused(&b, &format!("{}{last}", &first[..first.len() - 1]), "mistyped")?;
        let of_b = b.join(&first, "join.log")?;
        of_b.says("Waiting for the witness")?;
        refused(&w, &first, "used already")?;
        // Whoever has it, and goes: the line is used up, and there is another.
        of_b.signal(Signal::SIGKILL)?;
        let second = init.token("host two", &first)?;
        refused(&b, &first, "used already")?;

        // A host that is a member of something is left as it is.
        fs::create_dir_all(b.etc())?;
        fs::write(b.etc().join("holdfast.hcl"), "of another cluster")?;
        let (status, said) = b.run(&["join", &second])?;
        ensure(status == 1 && said.contains("is a member of a cluster already"), || said)?;
        ensure(b.file("holdfast.hcl")? == "of another cluster" && b.files().len() == 1, || {
            "changed".to_owned()
        })?;
        fs::remove_file(b.etc().join("holdfast.hcl"))?;

        // The line of one place does not make another one; all the same it becomes what the line says.
        let third = init.token("host two", &second)?;
        let witness = init.token("the witness", "")?;
        let of_b = b.join(&third, "again.log")?;
        of_b.says("Waiting for the witness")?;
        let (status, said) = b.run(&["join", &witness])?;
        ensure(status == 1 && said.contains("is here already"), || said)?;
        let witness = init.token("the witness", &witness)?;
        let (status, said) = a.run(&["join", &witness])?;
        ensure(status == 1 && said.contains("host one itself"), || said)?;
        let witness = init.token("the witness", &witness)?;
        let (status, said) = w.run(&["join", &witness])?;
        ensure(status == 0, || said)?;
        init.says("Next:")?;
        all_placed(&a, &b, &w)
    });
}

#[test]
fn what_was_interrupted_in_the_middle_is_completed_by_the_next_run() {
    promise(bare_hosts(), |cluster| {
        let (a, b, w) = (Bare::of(cluster, "a")?, Bare::of(cluster, "b")?, Bare::of(cluster, WITNESS)?);
        let init = a.init(&["--vip", "10.77.0.50"], "init.log")?;
        let (for_b, for_w) = (init.token("host two", "")?, init.token("the witness", "")?);
        let of_b = b.join(&for_b, "join.log")?;
        of_b.says("Waiting for the witness")?;
        // It is there, and does not move: host one comes as far as its own files, and not to the end.
        of_b.signal(Signal::SIGSTOP)?;
        let of_w = w.join(&for_w, "join.log")?;
        init.says("w (10.77.0.3) has its files")?;
        init.signal(Signal::SIGKILL)?;
        let decided = [a.file("holdfast.hcl")?, a.file("secret")?, a.file("root-secret")?];
        ensure(mode(&a.etc().join("init"))? == 0o700, || "others read what is decided".to_owned())?;
        // The witness has what it needs; the other one is as if its power had been cut.
        of_w.says("host one was lost")?;
        of_b.signal(Signal::SIGKILL)?;
        ensure(b.files().is_empty(), || format!("{:?} was written", b.files()))?;

        // The next run asks nothing, wants b alone, and only at its address.
        let again = a.init(&[], "again.log")?;
        let for_b = again.token("b (10.77.0.2)", "")?;
        ensure(again.tokens().len() == 1, || again.said())?;
        let (status, said) = w.run(&["join", &for_b])?;
        ensure(status == 1 && said.contains("which is decided to be at 10.77.0.2"), || said)?;
        let for_b = again.token("b (10.77.0.2)", &for_b)?;
        // This time it places its files, and host one is gone before it hears of that.
        let of_b = b.join(&for_b, "placed.log")?;
        wait("the configuration of b", || b.files().contains(&"holdfast.hcl".to_owned()).then_some(()))?;
        again.signal(Signal::SIGKILL)?;
        let known = !a.etc().join("init/members/b").exists();
        of_b.says("To start it")?;

        let last = a.init(&[], "last.log")?;
        if !known {
            let for_b = last.token("b (10.77.0.2)", "")?;
            let (status, said) = b.run(&["join", &for_b])?;
            ensure(status == 0 && said.contains("were here already"), || said)?;
        }
        if a.etc().join("init").exists() {
            last.says("Next:")?;
        }
        wait("the end of what is decided", || (!a.etc().join("init").exists()).then_some(()))?;
        all_placed(&a, &b, &w)?;
        ensure(decided == [a.file("holdfast.hcl")?, a.file("secret")?, a.file("root-secret")?], || {
            "what was decided was decided anew".to_owned()
        })
    });
}

#[test]
fn what_cannot_work_is_said_before_anything_is_written() {
    promise(bare_hosts(), |cluster| {
        let a = Bare::of(cluster, "a")?;
        let refused = |words: &[&str], status: i32, says: &str| -> Result<()> {
            let (ended, said) = a.run(&[&["init"], words].concat())?;
            ensure(ended == status && said.contains(says), || {
                format!("{says:?} is missing ({ended}): {said}")
            })?;
            ensure(a.files().is_empty(), || format!("{:?} was written", a.files()))
        };
        // The client's address, which answers by its hardware address.
        let client = cluster.world().machine(CLIENT)?;
        let mac = client.mac(LAN).context("the client's cable")?;
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        refused(&["--yes", "--vip", "10.77.0.9"], 1, &mac)?;
        refused(&["--yes", "--vip", "10.99.0.9"], 1, "in no network of this host")?;
        refused(&["--yes", "--vip", "10.77.0.1"], 1, "own address")?;
        refused(&["--yes", "--vip", "10.77.0.100/16"], 1, "10.77.0.0/24")?;
        refused(&["--yes", "--interface", "eth7"], 1, "eth0 (10.77.0.1/24")?;
        refused(&["--yes", "--address", "10.77.0.77"], 1, "no address of this host")?;
        // Nobody can be asked.
        refused(&["--vip", "10.77.0.50"], 2, "--witness or --no-witness")?;
        refused(&["--witness"], 2, "--vip ADDRESS")?;
        // Two at once.
        let first = a.init(&["--vip", "10.77.0.50"], "first.log")?;
        first.token("host two", "")?;
        refused(&["--yes", "--vip", "10.77.0.50"], 1, "10.77.0.1:9001 is in use")?;
        // A free address is found beside one that somebody took.
        first.signal(Signal::SIGTERM)?;
        first.says("Nothing was written")?;
        let taken = cluster.world().tap(LAN, "10.77.0.100/24".parse()?)?;
        let second = a.init(&[], "second.log")?;
        let said = second.says("Clients will use")?;
        drop(taken);
        ensure(said.contains("10.77.0.200/24"), || said)
    });
}
