//! Runs `on_change`: after files were placed, one run at a time, and what was placed during a run belongs to the next.

use std::collections::BTreeSet;
use std::path::PathBuf;

use holdfast_config::SyncFiles;
use holdfast_heartbeat::Epoch;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::board::Board;
use crate::runtime::address;
use crate::runtime::hooks::environment::Place;
use crate::runtime::hooks::keeper::Ended;
use crate::runtime::hooks::{in_words, run};
use crate::runtime::mailbox::Sender;
use crate::runtime::programs::PATH;
use crate::runtime::report::Report;

/// Most bytes of paths that a program is told.
const MOST_PATH_BYTES: usize = 32 * 1024;

/// Files of a set that were placed.
pub(super) type Placed = (usize, Vec<String>);

/// What is told of files, whenever a program is.
pub fn told_of(set: &SyncFiles, paths: &[String]) -> Vec<(&'static str, String)> {
    let mut list = String::new();
    for path in paths {
        if list.len() + path.len() + 1 > MOST_PATH_BYTES {
            break;
        }
        list.push_str(path);
        list.push('\n');
    }
    vec![
        ("HOLDFAST_FILES_SET", set.name.clone()),
        ("HOLDFAST_FILES_COUNT", paths.len().to_string()),
        ("HOLDFAST_FILES", list.trim_end().to_owned()),
    ]
}

pub(super) struct Hooks {
    pub place: Place,
    pub sets: Vec<SyncFiles>,
    pub program: PathBuf,
    pub board: Board,
    pub reports: Sender<Report>,
}

impl Hooks {
    /// Where placed files are told; the runs go on until that is dropped.
    pub(super) fn start(self, runtime: &tokio::runtime::Handle) -> UnboundedSender<Placed> {
        let (sender, receiver) = unbounded_channel();
        runtime.spawn(self.work(receiver));
        sender
    }

    async fn work(self, mut placed: UnboundedReceiver<Placed>) {
        while let Some((set, paths)) = placed.recv().await {
            let mut waiting = vec![BTreeSet::new(); self.sets.len()];
            waiting[set].extend(paths);
            while let Ok((set, paths)) = placed.try_recv() {
                waiting[set].extend(paths);
            }
            for (number, paths) in waiting.into_iter().enumerate().filter(|(_, paths)| !paths.is_empty()) {
                self.run(number, &paths.into_iter().collect::<Vec<_>>()).await;
            }
        }
    }

    async fn run(&self, number: usize, paths: &[String]) {
        let set = &self.sets[number];
        let Some(command) = &set.on_change else { return };
        let mut told = vec![
            ("PATH", PATH.to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("HOLDFAST_HOOK", format!("sync_files {}", set.name)),
            ("HOLDFAST_EVENT", "files_changed".to_owned()),
            ("HOLDFAST_NODE", self.place.node.clone()),
            ("HOLDFAST_VIPS", self.place.vips.join(" ")),
            ("HOLDFAST_API", self.place.api.clone()),
        ];
        told.extend(told_of(set, paths));
        // Nobody calls it off: it is killed at its limit.
        let (_never, called_off) = watch::channel(false);
        let ran = run::run(&self.program, command, &told, set.timeout, called_off).await;
        let well = ran.ended == Ended::Exited(0);
        let ended = in_words(&ran.ended, ran.took, set.timeout, &command[0]);
        let said = (!well).then(|| format!("on_change {ended}"));
        let mut before = None;
        self.board.of_set(number, |status| before = std::mem::replace(&mut status.hook, said.clone()));
        if well {
            tracing::info!(set = set.name, files = paths.len(), output = ran.output, "on_change ran");
            if before.is_none() {
                return;
            }
        }
        let _ = self.reports.send(Report::Hook {
            at: address::now(),
            epoch: Epoch::ZERO,
            failed: !well,
            message: format!(
                "sync_files {}: {}",
                set.name,
                said.unwrap_or_else(|| "on_change ran well again".into())
            ),
            output: ran.output,
        });
    }
}
