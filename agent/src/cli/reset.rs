//! `holdfast ha reset`: makes the member of this host a new one, without an agent.
//!
//! For a member whose state is damaged, or is to be part of another cluster, or must not count on what it once
//! promised. Its log stays, and is compared with the primary's when it joins.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use holdfast_config::{Config, Mode};
use holdfast_heartbeat::NodeId;
use serde_json::json;

use super::{say, say_json};
use crate::node::hard_state::HardState;
use crate::runtime::state_file::{StateDir, StateError};

/// What the operator said.
pub(super) struct Consent {
    /// To do it, and not only say what it means.
    pub yes: bool,
    /// That what only this member knows may be lost.
    pub accept_data_loss: bool,
}

/// Says what a reset of the member of this configuration means, and does it where that is wanted.
pub(super) fn run(config: &Path, consent: &Consent, as_json: bool) -> Result<ExitCode> {
    let loaded = Config::load(config)?.config;
    let me = NodeId::new(loaded.node_id.as_str())?;
    let state = StateDir::open(&loaded.state_dir).map_err(|error| match error {
        StateError::InUse { .. } => anyhow::anyhow!(
            "the agent of {me} runs, so nothing was changed. Stop it first: systemctl stop holdfast; a primary hands over by that"
        ),
        other => other.into(),
    })?;
    let (hard, damaged) = match state.read(&me) {
        Ok(Some(file)) => (file.hard, None),
        Ok(None) => {
            let message =
                format!("{} has no state of {me}: there is nothing to reset", loaded.state_dir.display());
            return told(as_json, false, &message);
        }
        Err(error @ StateError::Damaged { .. }) => (HardState::default(), Some(error.to_string())),
        Err(other) => return Err(other.into()),
    };
    let alone =
        hard.record.as_ref().is_some_and(|record| record.members.iter().all(|member| member.id == me));
    let mut what = damaged.unwrap_or_else(|| in_words(&me, &hard));
    what.push_str(match loaded.mode {
        Mode::Witness => {
            "\nA reset makes it forget how it voted. Only while all data members run and are in sync does nothing depend on that."
        }
        _ => {
            "\nA reset makes it forget its votes and the in-sync set: it comes back as a new member, its log stays and is compared with the primary's, what is not in that is set aside, and it counts again when it has everything."
        }
    });
    if alone && hard.record.is_some() && !consent.accept_data_loss {
        bail!(
            "{what}\n{me} alone is known to hold every acknowledged byte, so nothing was changed: after a reset no member would be elected by itself, and what only {me} has might be given up. Bring its standby in sync first; if the cluster has gone on without it for certain: holdfast ha reset --config {} --yes --accept-data-loss",
            config.display()
        );
    }
    if !consent.yes {
        let message = format!(
            "{what}\nNothing was changed. To do it: holdfast ha reset --config {} --yes",
            config.display()
        );
        return told(as_json, false, &message);
    }
    let kept = state.forget()?;
    let message = format!(
        "{me} is reset; what it remembered is kept in {}. Start it: systemctl start holdfast",
        kept.display()
    );
    told(as_json, true, &message)
}

fn in_words(me: &NodeId, hard: &HardState) -> String {
    let record = hard.record.as_ref().map_or_else(
        || "knows of no in-sync set".to_owned(),
        |record| {
            let names: Vec<_> = record.members.iter().map(ToString::to_string).collect();
            format!(
                "knows {{{}}} as in sync (epoch {}, version {})",
                names.join(", "),
                record.epoch,
                record.version
            )
        },
    );
    format!("{me} promised epoch {} and {record}.", hard.epoch)
}

fn told(as_json: bool, reset: bool, message: &str) -> Result<ExitCode> {
    match as_json {
        true => say_json(&json!({"reset": reset, "message": message}))?,
        false => say(&format!("{message}\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use holdfast_heartbeat::{Epoch, InSyncRecord, Incarnation, Member};

    use super::*;

    const NONE: Consent = Consent { yes: false, accept_data_loss: false };
    const YES: Consent = Consent { yes: true, accept_data_loss: false };

    /// A member with a state in which `in_sync` are; its configuration.
    fn member(dir: &Path, in_sync: &[&str]) -> std::path::PathBuf {
        let config = dir.join("holdfast.hcl");
        let text = format!(
            "replication {{\n  mode = \"replica\"\n  node_id = \"b\"\n  listen_addr = \"10.0.0.2:9001\"\n  peer_addrs = [\"10.0.0.1:9001\"]\n  secret_key = \"a secret of the tests, long enough\"\n  state_dir = \"{0}/state\"\n}}\nstore {{ data_dir = \"{0}/store\" }}\n",
            dir.display()
        );
        std::fs::write(&config, text).unwrap();
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
        let of = |name: &&str| Member { id: NodeId::new(*name).unwrap(), incarnation: Incarnation(1) };
        let record = InSyncRecord {
            epoch: Epoch(3),
            version: 2,
            members: in_sync.iter().map(of).collect(),
            voters: None,
        };
        let hard = HardState { epoch: Epoch(3), record: Some(record), ..HardState::default() };
        let state = StateDir::open(&dir.join("state")).unwrap();
        state.write(&NodeId::new("b").unwrap(), Incarnation(1), &hard).unwrap();
        config
    }

    fn remembers(dir: &Path) -> bool {
        dir.join("state/member.json").exists()
    }

    #[test]
    fn a_reset_is_said_first_and_keeps_what_it_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let config = member(dir.path(), &["a", "b"]);
        run(&config, &NONE, false).unwrap();
        assert!(remembers(dir.path()), "nothing was ordered yet");
        run(&config, &YES, false).unwrap();
        assert!(!remembers(dir.path()));
        let kept = std::fs::read_dir(dir.path().join("state")).unwrap().flatten();
        assert_eq!(kept.filter(|file| file.file_name().to_string_lossy().contains("reset")).count(), 1);
        // Twice does no harm.
        run(&config, &YES, false).unwrap();
    }

    #[test]
    fn the_only_member_with_everything_is_not_reset_without_its_price() {
        let dir = tempfile::tempdir().unwrap();
        let config = member(dir.path(), &["b"]);
        let error = run(&config, &YES, false).unwrap_err().to_string();
        assert!(error.contains("--accept-data-loss") && remembers(dir.path()), "{error}");
        run(&config, &Consent { yes: true, accept_data_loss: true }, false).unwrap();
        assert!(!remembers(dir.path()));
    }

    #[test]
    fn a_member_that_runs_is_not_reset() {
        let dir = tempfile::tempdir().unwrap();
        let config = member(dir.path(), &["a", "b"]);
        let _runs = StateDir::open(&dir.path().join("state")).unwrap();
        let error = run(&config, &YES, false).unwrap_err().to_string();
        assert!(error.contains("systemctl stop holdfast") && remembers(dir.path()), "{error}");
    }

    #[test]
    fn a_damaged_state_is_put_out_of_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let config = member(dir.path(), &["a", "b"]);
        std::fs::write(dir.path().join("state/member.json"), "{").unwrap();
        run(&config, &YES, false).unwrap();
        assert!(!remembers(dir.path()));
    }
}
