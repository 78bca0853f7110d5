//! Which life of its state this member is, decided once at start.
//!
//! The incarnation stands in the state directory, beside the votes, and in the data directory, beside
//! the log. Only where both agree is this the member that the in-sync set may name. Whoever lost
//! either comes back as a new one: it holds nothing that anybody counts on, and is brought up to date
//! by the primary before it is counted again.

use std::io;
use std::path::Path;

use holdfast_heartbeat::{Incarnation, Member, NodeId};

use super::state_file::{self, StateDir, StateError, StateFile};
use crate::node::hard_state::HardState;

const FILE: &str = "incarnation";

/// Who this member is, and what it remembers.
#[derive(Debug)]
pub struct Identity {
    /// Its name and incarnation.
    pub member: Member,
    /// What it must not have forgotten.
    pub hard: HardState,
    /// Why it is not the member that it was, in words, if so.
    pub renewed: Option<String>,
}

/// Reads the identity, or makes one. `data_dir` is `None` on a witness.
pub fn establish(state: &StateDir, id: NodeId, data_dir: Option<&Path>) -> Result<Identity, StateError> {
    let remembered = state.read(&id)?;
    let beside_log = data_dir.map(read_beside_log).transpose()?.flatten();
    let (incarnation, renewed) = match (&remembered, data_dir, beside_log) {
        (Some(file), None, _) => (file.incarnation, None),
        (Some(file), Some(_), Some(found)) if found == file.incarnation => (found, None),
        (None, None, _) | (None, Some(_), None) => (draw(), None),
        (Some(_), Some(_), None) => (draw(), Some("the data directory is new: its log is empty")),
        (None, Some(_), Some(_)) => (draw(), Some("the state directory is new: its votes are forgotten")),
        (Some(_), Some(_), Some(_)) => {
            (draw(), Some("the state and data directories do not belong together"))
        }
    };
    let hard = remembered.map(|file: StateFile| file.hard).unwrap_or_default();
    let member = Member { id, incarnation };
    write(state, &member, &hard, data_dir)?;
    Ok(Identity { member, hard, renewed: renewed.map(str::to_owned) })
}

/// Makes the member a new one: its log lost something that it had acknowledged.
pub fn renew(
    state: &StateDir,
    identity: &mut Identity,
    data_dir: &Path,
    why: &str,
) -> Result<(), StateError> {
    identity.member.incarnation = draw();
    identity.renewed = Some(why.to_owned());
    write(state, &identity.member, &identity.hard, Some(data_dir))
}

fn write(
    state: &StateDir,
    member: &Member,
    hard: &HardState,
    data_dir: Option<&Path>,
) -> Result<(), StateError> {
    let failed = |path: String| move |error| StateError::Io { path, error };
    state
        .write(&member.id, member.incarnation, hard)
        .map_err(failed(state.path("member.json").display().to_string()))?;
    if let Some(dir) = data_dir {
        let text = format!("{:016x}\n", member.incarnation.0);
        std::fs::create_dir_all(dir)
            .and_then(|()| state_file::replace(dir, FILE, text.as_bytes()))
            .map_err(failed(dir.display().to_string()))?;
    }
    Ok(())
}

fn read_beside_log(dir: &Path) -> Result<Option<Incarnation>, StateError> {
    match std::fs::read_to_string(dir.join(FILE)) {
        Ok(text) => Ok(u64::from_str_radix(text.trim(), 16).ok().map(Incarnation)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::Io { path: dir.join(FILE).display().to_string(), error }),
    }
}

fn draw() -> Incarnation {
    Incarnation(random())
}

/// A random number from the system.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(root: &Path) -> Identity {
        let state = StateDir::open(&root.join("state")).unwrap();
        establish(&state, NodeId::new("a").unwrap(), Some(&root.join("data"))).unwrap()
    }

    #[test]
    fn a_member_is_itself_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = at(dir.path());
        let second = at(dir.path());
        assert_eq!(first.member, second.member);
        assert_eq!((first.renewed, second.renewed), (None, None));
    }

    #[test]
    fn whoever_lost_its_log_or_its_votes_is_a_new_member() {
        for lost in ["data", "state"] {
            let dir = tempfile::tempdir().unwrap();
            let first = at(dir.path());
            std::fs::remove_dir_all(dir.path().join(lost)).unwrap();
            let second = at(dir.path());
            assert_ne!(first.member.incarnation, second.member.incarnation, "{lost}");
            assert!(second.renewed.is_some(), "{lost}");
        }
    }
}
