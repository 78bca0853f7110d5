//! A process runs: by the name of its program, or by the number in a file.
//!
//! One that has ended and was not waited for yet (a zombie) does not run.

use std::path::{Path, PathBuf};

use super::{Apart, Outcome};

/// The kernel keeps this many bytes of a process's name.
const COMM_BYTES: usize = 15;
/// Longest file with a number that is read.
const PIDFILE_BYTES: u64 = 64;

enum Wanted {
    Name(String),
    File(PathBuf),
}

pub(super) struct Process {
    wanted: Wanted,
    apart: Apart,
}

impl Process {
    pub(super) fn named(name: String) -> Process {
        Process { wanted: Wanted::Name(name), apart: Apart::default() }
    }

    pub(super) fn of_file(path: PathBuf) -> Process {
        Process { wanted: Wanted::File(path), apart: Apart::default() }
    }

    pub(super) async fn run(&mut self) -> Outcome {
        match &self.wanted {
            Wanted::Name(name) => {
                let name = name.clone();
                self.apart.run(move || by_name(&name)).await
            }
            Wanted::File(path) => {
                let path = path.clone();
                self.apart.run(move || by_file(&path)).await
            }
        }
    }
}

fn by_name(name: &str) -> Outcome {
    let entries = match std::fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(error) => return Outcome::failed(format!("/proc: {error}")),
    };
    for entry in entries.flatten() {
        let number = entry.file_name();
        let Some(pid) = number.to_str().and_then(|text| text.parse::<u32>().ok()) else { continue };
        let Some(comm) = living(pid) else { continue };
        // A longer name was cut, and a program may call itself otherwise: the command line has it too.
        let fits = name.len() <= COMM_BYTES && comm == name;
        if fits || program_of(pid).as_deref() == Some(name) {
            return Outcome::passed(format!("runs as process {pid}"));
        }
    }
    Outcome::failed(format!("no process {name:?} runs"))
}

fn by_file(path: &Path) -> Outcome {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(PIDFILE_BYTES).read_to_string(&mut text));
    if let Err(error) = read {
        return Outcome::failed(format!("{}: {error}", path.display()));
    }
    let Ok(pid) = text.trim().parse::<u32>() else {
        return Outcome::failed(format!("{} holds no number of a process", path.display()));
    };
    match living(pid) {
        Some(comm) => Outcome::passed(format!("process {pid} ({comm}) runs")),
        None => Outcome::failed(format!("process {pid} of {} does not run", path.display())),
    }
}

/// The name of a process that runs, from `/proc/PID/stat`: `PID (name) S ...`.
fn living(pid: u32) -> Option<String> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may have parentheses of its own.
    let (front, rest) = stat.rsplit_once(')')?;
    let (_, comm) = front.split_once('(')?;
    let state = rest.trim_start().chars().next()?;
    (!matches!(state, 'Z' | 'X' | 'x')).then(|| comm.to_owned())
}

/// The file name of the program, as the command line states it.
fn program_of(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let program = line.split(|byte| *byte == 0).next()?;
    let name = program.rsplit(|byte| *byte == b'/').next()?;
    String::from_utf8(name.to_vec()).ok()
}
