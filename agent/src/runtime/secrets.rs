//! The shared secrets, as those who sign and verify see them: replaced as a whole while the agent runs.
//!
//! Reading takes no lock, so a heartbeat never waits for a reload. Streams that are open keep the keys of
//! their session; the next one begins with what is here then.

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

    /// Puts others in force.
    pub fn replace(&self, current: Current) {
        self.0.store(Arc::new(current));
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
