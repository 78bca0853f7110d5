//! What an interruption means at this moment, and saying so when one comes.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// What is to be said when somebody ends the program now. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct Stage(Arc<Mutex<String>>);

impl Stage {
    /// From now on an interruption means this.
    pub(super) fn now(&self, means: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = means.into();
    }

    /// Ends the program with these words at Ctrl-C, and at what a closed terminal or `kill` sends. What is half written
    /// then is as a crash would leave it: for the next run to complete or clear away.
    ///
    /// # Errors
    /// The signals cannot be awaited.
    pub(super) fn watch(&self) -> Result<()> {
        let context = || "wait for signals";
        let mut interrupt = signal(SignalKind::interrupt()).with_context(context)?;
        let mut terminate = signal(SignalKind::terminate()).with_context(context)?;
        let mut hang_up = signal(SignalKind::hangup()).with_context(context)?;
        let stage = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            let means = stage.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            eprintln!("\nholdfast: interrupted. {means}");
            std::process::exit(1);
        });
        Ok(())
    }
}
