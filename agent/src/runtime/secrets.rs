//! The shared secrets, as those who sign and verify see them: replaced as a whole while the agent runs.
//!
//! Reading takes no lock, so a heartbeat never waits for a reload. Streams that are open keep the keys of
//! their session; the next one begins with what is here then.

use std::path::Path;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use hmac::{Hmac, KeyInit, Mac};
use holdfast_config::{Config, Keys};
use holdfast_heartbeat::Keyring;
use holdfast_store::s3::SealKeys;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The secrets of one moment.
pub struct Current {
    /// Signs heartbeats and verifies them.
    pub keyring: Keyring,
    /// What the streams' keys are derived from: the signing one first, then those that are accepted.
    pub plain: Vec<Zeroizing<Vec<u8>>>,
}

impl Current {
    /// Of secrets, the signing one first.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Current {
        let plain: Vec<_> = secrets.into_iter().map(|secret| Zeroizing::new(secret.to_vec())).collect();
        Current { keyring: Keyring::new(plain.iter().map(|secret| secret.as_slice())), plain }
    }

    /// Those of a configuration.
    pub fn of(keys: &Keys) -> Current {
        Current::new(
            std::iter::once(&keys.signing).chain(&keys.previous).map(|secret| secret.expose().as_bytes()),
        )
    }
}

/// The secrets in force. Cheap to clone; all clones are replaced together.
#[derive(Clone)]
pub struct Secrets(Arc<ArcSwap<Current>>);

impl Secrets {
    /// These.
    pub fn new(current: Current) -> Secrets {
        Secrets(Arc::new(ArcSwap::from_pointee(current)))
    }

    /// Those of a configuration.
    pub fn of(config: &Config) -> Secrets {
        Secrets::new(Current::of(&config.keys))
    }

    /// Those in force now.
    pub fn now(&self) -> Guard<Arc<Current>> {
        self.0.load()
    }

    /// Reads the configuration at `path` anew and puts its secrets in force. Everything else in it waits for
    /// a restart; `running` is what was read at the start. Says what was done, in words.
    ///
    /// # Errors
    /// The file cannot be read or is wrong: nothing was changed. In words.
    pub fn reload(&self, path: &Path, running: &Config) -> Result<String, String> {
        self.reload_telling(path, running).map(|(said, _)| said)
    }

    /// As [`Secrets::reload`]; also gives the digest of what was read ([`holdfast_config::Loaded::digest`]).
    ///
    /// # Errors
    /// As there.
    pub fn reload_telling(&self, path: &Path, running: &Config) -> Result<(String, String), String> {
        let loaded = Config::load(path).map_err(|error| {
            format!(
                "the configuration was not reloaded, and the keys are those of before: {error}\nCheck it with: holdfast config check {}",
                path.display()
            )
        })?;
        let before = self.now().keyring.ids();
        self.0.store(Arc::new(Current::of(&loaded.config.keys)));
        let ids = self.now().keyring.ids();
        let mut said = match ids == before {
            true => "the configuration was read again; its keys are those of before".to_owned(),
            false => format!("the shared keys were replaced: {}", describe(&ids)),
        };
        // Secrets are masked in both.
        if format!("{:?}", without_keys(&loaded.config)) != format!("{:?}", without_keys(running)) {
            said.push_str("; other settings differ from those in use, and wait for a restart");
        }
        Ok((said, loaded.digest))
    }
}

/// What the members seal requests with that they hand on to each other: of each secret in force, under a label of
/// its own.
pub fn seal_keys(secrets: Secrets) -> SealKeys {
    Arc::new(move || {
        let derived = |secret: &Zeroizing<Vec<u8>>| {
            let mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length will do");
            mac.chain_update(b"holdfast handed-on request v1").finalize().into_bytes().into()
        };
        secrets.now().plain.iter().map(derived).collect()
    })
}

/// The identifiers of keys, the signing one first. They stand in each packet and give nothing away.
pub fn describe(ids: &[String]) -> String {
    match ids {
        [] => "none".to_owned(),
        [signing] => format!("signs with {signing} and accepts no other"),
        [signing, accepted @ ..] => format!("signs with {signing}, accepts {} too", accepted.join(", ")),
    }
}

fn without_keys(config: &Config) -> Config {
    let mut config = config.clone();
    config.keys.previous.clear();
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = r#"
replication {
  mode        = "primary"
  node_id     = "a"
  listen_addr = "10.0.0.1:9001"
  peer_addrs  = ["10.0.0.2:9001"]
  state_dir   = "/var/lib/holdfast"
  KEYS
}
store { data_dir = "/var/lib/holdfast/store" }
"#;

    fn write(path: &Path, keys: &str, name: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(path, NODE.replace("KEYS", keys).replace("\"a\"", &format!("{name:?}"))).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn keys_are_replaced_while_others_look_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.hcl");
        write(&path, "secret_key = \"the first secret of the pair\"", "a");
        let running = Config::load(&path).unwrap().config;
        let secrets = Secrets::of(&running);
        let elsewhere = secrets.clone();
        let first = secrets.now().keyring.ids();

        assert!(secrets.reload(&path, &running).unwrap().ends_with("its keys are those of before"));

        let both = "secret_key = \"the second secret of the pair\"\n  previous_secret_keys = [\"the first secret of the pair\"]";
        write(&path, both, "a");
        let said = secrets.reload(&path, &running).unwrap();
        let ids = elsewhere.now().keyring.ids();
        assert_eq!(ids[1..], first[..], "the former one is accepted");
        assert_eq!(
            said,
            format!("the shared keys were replaced: signs with {}, accepts {} too", ids[0], ids[1])
        );
        assert_eq!(elsewhere.now().plain[0].as_slice(), b"the second secret of the pair");
        assert!(!said.contains("secret of"), "{said}");

        write(&path, both, "other");
        assert!(secrets.reload(&path, &running).unwrap().ends_with("wait for a restart"));
    }

    #[test]
    fn a_file_that_is_wrong_changes_nothing_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.hcl");
        write(&path, "secret_key = \"the first secret of the pair\"", "a");
        let running = Config::load(&path).unwrap().config;
        let secrets = Secrets::of(&running);
        let before = secrets.now().keyring.ids();
        write(&path, "secret_key = \"\"", "a");
        let refused = secrets.reload(&path, &running).unwrap_err();
        assert!(refused.contains("holdfast config check"), "{refused}");
        std::fs::remove_file(&path).unwrap();
        assert!(secrets.reload(&path, &running).is_err());
        assert_eq!(secrets.now().keyring.ids(), before);
    }
}
