//! The thread that writes log lines and the history, so that a full pipe or a slow disk behind either
//! never holds the core.

use holdfast_heartbeat::{Epoch, Time};

use super::audit::{Audit, Entry};
use super::history::History;
use super::mailbox::{Sender, channel};
use crate::node::role_name;
use crate::node::transition::{Cause, Transition};

/// Something to write down.
#[derive(Debug)]
pub enum Report {
    /// A change of role.
    Transition {
        /// When.
        at: Time,
        /// What.
        transition: Transition,
    },
    /// Something worth knowing.
    Note {
        /// When.
        at: Time,
        /// What.
        message: String,
    },
    /// A hook was run.
    Hook {
        /// When it ended.
        at: Time,
        /// For which reign.
        epoch: Epoch,
        /// It did not end well.
        failed: bool,
        /// Which, and how it ended.
        message: String,
        /// The end of what it said.
        output: String,
    },
    /// Something degraded.
    Warning {
        /// When.
        at: Time,
        /// What.
        message: String,
    },
}

/// Starts the thread.
pub fn spawn(node: String, history: History, audit: Audit) -> std::io::Result<Sender<Report>> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("reports".into()).spawn(move || {
        while let Ok(report) = receiver.recv() {
            match report {
                Report::Transition { at, transition: t } => {
                    history.add_transition(at.0 / 1_000_000, &t);
                    let (from, to) = (role_name(t.from), role_name(t.to));
                    let peer = t.peer.as_ref().map(ToString::to_string).unwrap_or_default();
                    audit.note_epoch(t.epoch.0);
                    let message = Some(t.reason.clone());
                    audit.tell(Entry { message, ..Entry::of_agent("role", format!("{from} -> {to}")) });
                    // A reign that ended against its will needs a person's look; the rest is news.
                    if matches!(
                        t.cause,
                        Cause::DiskFailed
                            | Cause::DiskStalled
                            | Cause::ChecksFailed
                            | Cause::LinksFailed
                            | Cause::GateLost
                            | Cause::NotFenced
                    ) {
                        tracing::error!(
                            node,
                            epoch = t.epoch.0,
                            from,
                            to,
                            peer,
                            reason = t.reason,
                            "role changed"
                        );
                    } else if matches!(t.cause, Cause::LeaseLapsed | Cause::StoodStill | Cause::Late) {
                        tracing::warn!(
                            node,
                            epoch = t.epoch.0,
                            from,
                            to,
                            peer,
                            reason = t.reason,
                            "role changed"
                        );
                    } else {
                        tracing::info!(
                            node,
                            epoch = t.epoch.0,
                            from,
                            to,
                            peer,
                            reason = t.reason,
                            "role changed"
                        );
                    }
                }
                Report::Hook { at, epoch, failed, message, output } => {
                    history.add_hook(at.0 / 1_000_000, epoch, failed, &message, &output);
                    if failed {
                        tracing::warn!(node, epoch = epoch.0, output, "{message}");
                    } else {
                        tracing::info!(node, epoch = epoch.0, output, "{message}");
                    }
                }
                Report::Note { at, message } => {
                    history.add_note(at.0 / 1_000_000, "note", &message);
                    tracing::info!(node, "{message}");
                }
                Report::Warning { at, message } => {
                    history.add_note(at.0 / 1_000_000, "warning", &message);
                    tracing::warn!(node, "{message}");
                }
            }
        }
    })?;
    Ok(sender)
}
