//! `holdfast lab up`, and the two commands that talk to it: `lab exec` and `lab fault`.
//!
//! They talk over a socket in the lab's directory: one JSON line each way. `lab exec` only asks for the host's
//! first process and then enters the host by itself, so that its terminal is the command's terminal.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::args::UpArgs;
use super::cluster::{Cluster, FAULTS, Fault};
use super::narrator::Narrator;
use super::run_dir::{self, RunDir};
use super::settings::{ACCESS_KEY, ClusterSpec, SECRET_KEY};
use super::spoken::this_program;
use super::{binary, cluster_spec, ready_to_build};

/// Limit for each thing that the cluster should do in seconds.
const LIMIT: Duration = Duration::from_secs(20);
/// Longest line on the socket.
const MAX_LINE_BYTES: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    Fault { host: String, fault: String },
    InitPid { host: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Done,
    InitPid(u32),
    Failed(String),
}

/// Builds a cluster and keeps it until Ctrl-C.
pub(super) fn run(args: &UpArgs) -> Result<ExitCode> {
    let tell = Narrator::new();
    ready_to_build(&tell);
    let mut dir = RunDir::create()?;
    let spec = ClusterSpec {
        data_members: usize::from(args.data_members),
        ipv6: args.ipv6,
        ..cluster_spec(&args.cluster)
    };
    let step = tell.step("Starting the hosts and their agents");
    let cluster = Arc::new(Cluster::start(spec, dir.path(), &binary())?);
    step.done(format!("their disks and logs are in {}", dir.path().display()));
    let step = tell.step("Electing a primary");
    match cluster.wait_for_primary(LIMIT).and_then(|_| cluster.wait_in_sync(LIMIT)) {
        Ok(primary) => step.done(format!("{primary} is primary, every data member is in sync")),
        Err(e) => {
            dir.keep();
            tell.say(cluster.log_tails());
            return Err(e);
        }
    }
    let listener = UnixListener::bind(dir.control()).context("listen for `lab exec` and `lab fault`")?;
    let served = cluster.clone();
    thread::spawn(move || serve(&listener, &served));
    tell.say(welcome(&cluster));
    super::world::single_threaded()?.block_on(tokio::signal::ctrl_c()).context("wait for Ctrl-C")?;
    tell.say("\nTaking the lab down.");
    cluster.world().shut_down();
    drop(dir);
    Ok(ExitCode::SUCCESS)
}

fn welcome(cluster: &Cluster) -> String {
    let endpoint = cluster.target("demo").endpoint;
    let holdfast = this_program();
    let data = cluster.spec().data().join(", ");
    let faults: Vec<&str> = FAULTS.iter().map(|(name, _)| *name).collect();
    format!(
        "
The lab is up. Data members: {data}; w is the witness, c a client.

  S3 endpoint   {endpoint}   (reachable from inside the lab)
  access key    {ACCESS_KEY}
  secret key    {SECRET_KEY}
  agents' API   http://127.0.0.1:8080 on each host

In another terminal:

  {holdfast} lab exec a -- holdfast ha status
  {holdfast} lab exec c -- curl -i {endpoint}/
  {holdfast} lab exec c -- sh
  {holdfast} lab fault a power-off        ({})
  {holdfast} lab fault a heal

Ctrl-C takes it down, and everything in it.",
        faults.join(", ")
    )
}

fn serve(listener: &UnixListener, cluster: &Arc<Cluster>) {
    for stream in listener.incoming().flatten() {
        let cluster = cluster.clone();
        thread::spawn(move || {
            // Who does not listen to the answer does not get it.
            let _ = answer(&stream, &cluster);
        });
    }
}

fn answer(stream: &UnixStream, cluster: &Cluster) -> Result<()> {
    let reply = match grant(stream, cluster) {
        Ok(reply) => reply,
        Err(e) => Reply::Failed(format!("{e:#}")),
    };
    write_line(stream, &reply)
}

fn grant(stream: &UnixStream, cluster: &Cluster) -> Result<Reply> {
    match read_line(stream)? {
        Wish::Fault { host, fault } => {
            let fault: Fault = fault.parse().map_err(|e: String| anyhow!(e))?;
            cluster.inflict(&host, fault)?;
            Ok(Reply::Done)
        }
        Wish::InitPid { host } => Ok(Reply::InitPid(cluster.world().machine(&host)?.init_pid()?)),
    }
}

fn write_line<T: Serialize>(mut stream: &UnixStream, value: &T) -> Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(stream.write_all(line.as_bytes())?)
}

fn read_line<T: for<'a> Deserialize<'a>>(stream: &UnixStream) -> Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE_BYTES)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn ask(wish: &Wish) -> Result<Reply> {
    let stream = run_dir::connect()?;
    write_line(&stream, wish)?;
    match read_line(&stream).context("the lab did not answer")? {
        Reply::Failed(reason) => Err(anyhow!(reason)),
        reply => Ok(reply),
    }
}

/// `lab fault`: does something to a host of the running lab.
pub(super) fn fault(host: &str, fault: Fault) -> Result<ExitCode> {
    let word = FAULTS.iter().find(|(_, f)| *f == fault).map_or("", |(word, _)| word);
    ask(&Wish::Fault { host: host.to_owned(), fault: word.to_owned() })?;
    println!("{host}: {word} done");
    Ok(ExitCode::SUCCESS)
}

/// The command as it is run on the host: there, as in the agents, `holdfast` is this very program, whether or
/// not it is installed.
fn on_the_host(argv: &[OsString]) -> Vec<OsString> {
    let own = argv.first().is_some_and(|program| program == "holdfast");
    let program = own.then(|| binary().into_os_string());
    program.into_iter().chain(argv.iter().skip(usize::from(own)).cloned()).collect()
}

/// `lab exec`: becomes a command on a host of the running lab.
pub(super) fn exec(host: &str, argv: &[OsString]) -> Result<ExitCode> {
    let Reply::InitPid(pid) = ask(&Wish::InitPid { host: host.to_owned() })? else {
        return Err(anyhow!("the lab did not say where the host {host} is"));
    };
    // A fresh program has one thread, which is what entering a user namespace takes.
    let mut command = Command::new("/proc/self/exe");
    command.args(["lab-host", "enter", "--pid", &pid.to_string(), "--"]).args(on_the_host(argv));
    Err(anyhow!(command.exec()).context("enter the host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holdfast_on_a_host_is_this_program() {
        let argv = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let own = on_the_host(&argv(&["holdfast", "ha", "status"]));
        assert_eq!(own, argv(&["/proc/self/exe", "ha", "status"]));
        for other in [&["sh", "-c", "holdfast"][..], &["/usr/bin/holdfast"], &[]] {
            assert_eq!(on_the_host(&argv(other)), argv(other));
        }
    }
}
