//! The configuration, read again while the agent runs: the shared keys and the other members' addresses are put in
//! force. Everything else waits for a restart.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_config::Config;

use super::core::Input;
use super::mailbox::Sender;
use super::peers::{self, Peers, Slot};
use super::secrets::{self, Current, Secrets};
use crate::node::event::Event;

/// What is read again, and what takes it over.
pub struct Reload {
    /// The file.
    pub path: PathBuf,
    /// What was read at the start.
    pub running: Arc<Config>,
    /// The shared keys in force.
    pub secrets: Secrets,
    /// The other members in force.
    pub peers: Peers,
    /// Tells that the other members are others now, and whether one that would go is still heard; absent in the
    /// supervisor, which only has to reach them.
    pub core: Option<Sender<Input>>,
}

impl Reload {
    /// Reads the file; says what was done, in words, and gives the digest of what was read
    /// ([`holdfast_config::Loaded::digest`]).
    ///
    /// # Errors
    /// The file cannot be read or is wrong: nothing was changed. In words.
    pub fn read_again(&self) -> Result<(String, String), String> {
        let loaded = Config::load(&self.path).map_err(|error| {
            format!(
                "the configuration was not reloaded, and the keys are those of before: {error}\nCheck it with: holdfast config check {}",
                self.path.display()
            )
        })?;
        let ids = self.secrets.now().keyring.ids();
        self.secrets.replace(Current::of(&loaded.config.keys));
        let now = self.secrets.now().keyring.ids();
        let mut said = match ids == now {
            true => "the configuration was read again; its keys are those of before".to_owned(),
            false => format!("the shared keys were replaced: {}", secrets::describe(&now)),
        };
        match self.replace_peers(&loaded.config) {
            Ok(None) => {}
            Ok(Some(what)) | Err(what) => {
                said.push_str("; ");
                said.push_str(&what);
            }
        }
        // Secrets are masked in both.
        if format!("{:?}", rest(&loaded.config)) != format!("{:?}", rest(&self.running)) {
            said.push_str("; other settings differ from those in use, and wait for a restart");
        }
        Ok((said, loaded.digest))
    }

    /// What was changed, in words.
    ///
    /// # Errors
    /// Why nothing was.
    fn replace_peers(&self, config: &Config) -> Result<Option<String>, String> {
        let before = self.peers.now();
        let Some(after) = self.peers.changed(config)? else { return Ok(None) };
        self.spare_other_half(&before, &after)?;
        let what = peers::describe(&before, &after);
        self.peers.replace(after);
        if let Some(core) = &self.core {
            let _ = core.send(Input::Event(Event::PeersConfigured(self.peers.settings())));
        }
        Ok(Some(what))
    }

    /// A pair has no votes that would tell its old half from its new one: that one must be off.
    fn spare_other_half(&self, before: &[Slot], after: &[Slot]) -> Result<(), String> {
        let ([before], [after], Some(core)) = (before, after, &self.core) else { return Ok(()) };
        if before.peer.host == after.peer.host {
            return Ok(());
        }
        let (reply, view) = tokio::sync::oneshot::channel();
        let view = core.send(Input::View(reply)).ok().and_then(|()| view.blocking_recv().ok());
        match view.is_some_and(|view| view.pair && view.peers.iter().all(|peer| !peer.alive)) {
            true => Ok(()),
            false => Err(format!(
                "the other half of the pair is still heard from {} and stays where it is. Stop it for good, then reload again",
                before.peer.host
            )),
        }
    }
}

/// What a reload does not put in force.
fn rest(config: &Config) -> Config {
    let mut config = config.clone();
    config.keys.previous.clear();
    config.peers.clear();
    config
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NODE: &str = r#"
replication {
  mode        = "primary"
  node_id     = "a"
  listen_addr = "10.0.0.1:9001"
  peer_addrs  = [PEERS]
  state_dir   = "/var/lib/holdfast"
  KEYS
}
store { data_dir = "/var/lib/holdfast/store" }
"#;

    fn write(path: &Path, keys: &str, name: &str) {
        write_with(path, keys, name, "\"10.0.0.2:9001\", \"10.0.0.3:9001\"");
    }

    fn write_with(path: &Path, keys: &str, name: &str, peers: &str) {
        use std::os::unix::fs::PermissionsExt;
        let text = NODE.replace("KEYS", keys).replace("\"a\"", &format!("{name:?}")).replace("PEERS", peers);
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn reading(path: &Path) -> (Secrets, Reload) {
        let running = Arc::new(Config::load(path).unwrap().config);
        let (secrets, peers) = (Secrets::of(&running), Peers::of(&running));
        (secrets.clone(), Reload { path: path.to_owned(), running, secrets, peers, core: None })
    }

    #[test]
    fn keys_are_replaced_while_others_look_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.hcl");
        write(&path, "secret_key = \"the first secret of the pair\"", "a");
        let (secrets, reload) = reading(&path);
        let elsewhere = secrets.clone();
        let first = secrets.now().keyring.ids();

        assert!(reload.read_again().map(|(said, _)| said).unwrap().ends_with("its keys are those of before"));

        let both = "secret_key = \"the second secret of the pair\"\n  previous_secret_keys = [\"the first secret of the pair\"]";
        write(&path, both, "a");
        let said = reload.read_again().map(|(said, _)| said).unwrap();
        let ids = elsewhere.now().keyring.ids();
        assert_eq!(ids[1..], first[..], "the former one is accepted");
        assert_eq!(
            said,
            format!("the shared keys were replaced: signs with {}, accepts {} too", ids[0], ids[1])
        );
        assert_eq!(elsewhere.now().plain[0].as_slice(), b"the second secret of the pair");
        assert!(!said.contains("secret of"), "{said}");

        write(&path, both, "other");
        assert!(reload.read_again().map(|(said, _)| said).unwrap().ends_with("wait for a restart"));
    }

    #[test]
    fn a_file_that_is_wrong_changes_nothing_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.hcl");
        write(&path, "secret_key = \"the first secret of the pair\"", "a");
        let (secrets, reload) = reading(&path);
        let before = secrets.now().keyring.ids();
        write(&path, "secret_key = \"\"", "a");
        let refused = reload.read_again().map(|(said, _)| said).unwrap_err();
        assert!(refused.contains("holdfast config check"), "{refused}");
        std::fs::remove_file(&path).unwrap();
        assert!(reload.read_again().map(|(said, _)| said).is_err());
        assert_eq!(secrets.now().keyring.ids(), before);
    }

    const KEYS: &str = "secret_key = \"the secret of the cluster\"";

    #[test]
    fn a_member_keeps_its_place_and_who_comes_gets_one_without_a_vote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.hcl");
        write(&path, KEYS, "a");
        let (_, mut reload) = reading(&path);
        let (core, told) = crate::runtime::mailbox::channel();
        reload.core = Some(core);
        // The first one goes, another one comes.
        write_with(&path, KEYS, "a", "\"10.0.0.3:9001\", \"10.0.0.4:9001\"");
        let (said, _) = reload.read_again().unwrap();
        assert!(said.contains("members: 10.0.0.4 came, 10.0.0.2 went"), "{said}");
        let Ok(Input::Event(Event::PeersConfigured(peers))) = told.try_recv() else {
            panic!("the core was not told")
        };
        let short: Vec<_> = peers.iter().map(|peer| (peer.label.as_str(), peer.paths, peer.added)).collect();
        assert_eq!(short, [("10.0.0.2", 0, false), ("10.0.0.3", 1, false), ("10.0.0.4", 1, true)]);
        let peers = reload.peers.clone();
        assert_eq!(peers.at(0, "10.0.0.4".parse().unwrap()), Some(2));
        assert_eq!(peers.at(0, "10.0.0.2".parse().unwrap()), None, "a stranger now");
        assert_eq!((peers.replication(0), peers.heartbeat(0, 0)), (None, None));
        // The same again is no news.
        let (said, _) = reload.read_again().unwrap();
        assert!(!said.contains("members") && told.try_recv().is_err(), "{said}");
        // Who came goes again, and its place is free.
        write_with(&path, KEYS, "a", "\"10.0.0.3:9001\", \"10.0.0.5:9001\"");
        reload.read_again().unwrap();
        assert_eq!(peers.at(0, "10.0.0.5".parse().unwrap()), Some(2));
        // A founder that comes back has the place and the vote that it had.
        write(&path, KEYS, "a");
        reload.read_again().unwrap();
        assert_eq!(peers.at(0, "10.0.0.2".parse().unwrap()), Some(0));
        assert!(!peers.settings()[0].added);
    }

    #[test]
    fn the_other_half_of_a_pair_is_replaced_in_its_place_once_it_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.hcl");
        write_with(&path, KEYS, "a", "\"10.0.0.2:9001\"");
        let (_, mut reload) = reading(&path);
        write_with(&path, KEYS, "a", "\"10.0.0.9:9001\"");
        // A core that does not say that the other half is silent.
        let (core, told) = crate::runtime::mailbox::channel();
        reload.core = Some(core);
        drop(told);
        let (said, _) = reload.read_again().unwrap();
        assert!(said.contains("still heard from 10.0.0.2"), "{said}");
        assert_eq!(reload.peers.at(0, "10.0.0.2".parse().unwrap()), Some(0));
        reload.core = None;
        reload.read_again().unwrap();
        assert_eq!(reload.peers.at(0, "10.0.0.9".parse().unwrap()), Some(0));
        assert!(!reload.peers.settings()[0].added);
    }
}
