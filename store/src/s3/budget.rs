//! Memory for the bodies that are on their way in and out: bounded by the configuration, whatever the number
//! of connections and the size of objects.
//!
//! A body takes its share before its first byte is held, and gives it back with its last. Who waits too long
//! is asked to come back.

use std::sync::Arc;
use std::time::Duration;

use s3s::{S3Result, s3_error};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one body takes at most: the chunk that is on its way and the one behind it.
pub(super) const BODY_BYTES: u64 = 2 * 1024 * 1024;

/// What it is where the configuration says nothing.
pub const DEFAULT_BYTES: u64 = 512 * 1024 * 1024;

/// The smallest budget: four bodies at a time.
pub const MIN_BYTES: u64 = 4 * BODY_BYTES;

/// The unit of account, in bytes.
const UNIT: u64 = 1024;

/// How long a body may wait for its share.
const PATIENCE: Duration = Duration::from_secs(10);

/// The memory that bodies share. Clones share it too.
#[derive(Clone)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(DEFAULT_BYTES)
    }
}

impl Budget {
    /// A budget of so many bytes, [`MIN_BYTES`] at least.
    pub fn new(bytes: u64) -> Budget {
        let units = usize::try_from(bytes.max(MIN_BYTES) / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        Budget(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))))
    }

    /// A share for a body of `len` bytes.
    pub(super) async fn share(&self, len: u64) -> S3Result<Share> {
        self.share_within(PATIENCE, len).await
    }

    async fn share_within(&self, patience: Duration, len: u64) -> S3Result<Share> {
        let units = len.clamp(1, BODY_BYTES).div_ceil(UNIT) as u32;
        match tokio::time::timeout(patience, Arc::clone(&self.0).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Share(permit)),
            _ => Err(s3_error!(SlowDown, "Too many bodies are on their way; nothing was stored. Try again")),
        }
    }
}

/// A body's share, for as long as it lives.
pub(super) struct Share(OwnedSemaphorePermit);

impl Share {
    /// Gives back what a body of `len` bytes does not need.
    pub(super) fn shrink(&mut self, len: u64) {
        let needed = len.clamp(1, BODY_BYTES).div_ceil(UNIT) as usize;
        drop(self.0.split(self.0.num_permits().saturating_sub(needed)));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn large_bodies_wait_for_each_other_and_small_ones_find_room() {
        let budget = Budget::new(MIN_BYTES);
        let mut large = Vec::new();
        for _ in 0..3 {
            large.push(budget.share(u64::MAX).await.unwrap());
        }
        let mut last = budget.share(BODY_BYTES).await.unwrap();
        assert!(budget.share(1).now_or_never().is_none(), "it waits");
        last.shrink(4096);
        assert!(budget.share(BODY_BYTES - 4096).now_or_never().is_some());
        // Who waits too long is told so; who leaves makes room.
        let waited = budget.share_within(Duration::from_millis(10), BODY_BYTES).await;
        let error = waited.err().expect("there is no room");
        assert_eq!(error.code().as_str(), "SlowDown");
        drop(large.pop());
        budget.share(BODY_BYTES).await.unwrap();
    }
}
