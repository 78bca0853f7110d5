//! The watchdog of the kernel: a device that restarts the host unless it is fed in time
//! (Documentation/watchdog/watchdog-api.rst).
//!
//! Opening it starts it, and it goes on when its holder dies: only [`Watchdog::disarm`] stops it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use crate::gate::sys::set_watchdog_timeout;

/// What makes closing the device stop it, where the driver can be stopped at all.
const MAGIC_CLOSE: &[u8] = b"V";
/// Anything else feeds it.
const FOOD: &[u8] = b"\0";

/// A running watchdog.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    timeout: Option<Duration>,
}

impl Watchdog {
    /// Opens `device`, which starts it, and asks for `timeout`, in whole seconds.
    ///
    /// # Errors
    /// What the kernel says: not there, no permission, or held by another program (EBUSY).
    pub fn open(device: &Path, timeout: Duration) -> io::Result<Watchdog> {
        let device = OpenOptions::new().write(true).open(device)?;
        let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        // A device whose time is fixed says so; what it is then stands in its own documents.
        let granted = set_watchdog_timeout(device.as_fd(), seconds).ok();
        let timeout = granted.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        Ok(Watchdog { device, timeout })
    }

    /// After how long without food it restarts the host; `None` where the device does not let that be set.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Begins its time anew. Does not wait.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(FOOD)
    }

    /// Stops it, unless its driver was built or loaded with `nowayout`.
    ///
    /// # Errors
    /// What the kernel says; it runs on then.
    pub fn disarm(mut self) -> io::Result<()> {
        self.device.write_all(MAGIC_CLOSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not a watchdog, but written to as one; it refuses to be given a time, as some watchdogs do.
    #[test]
    fn it_is_fed_by_anything_and_stopped_by_the_magic_letter_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        std::fs::write(&path, b"").unwrap();
        let mut watchdog = Watchdog::open(&path, Duration::from_secs(15)).unwrap();
        assert_eq!(watchdog.timeout(), None);
        watchdog.feed().unwrap();
        watchdog.feed().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0");
        watchdog.disarm().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0V");
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let error = Watchdog::open(Path::new("/nonexistent/watchdog"), Duration::from_secs(15)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
