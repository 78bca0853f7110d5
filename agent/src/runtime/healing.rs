//! Reads of the log that heal what they hit: whoever reads waits a moment longer, and notices nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_heartbeat::Lsn;
use holdfast_replication::LogReader;
use holdfast_replication::replica::Input;
use holdfast_store::backend::{FileRange, Held, ReadError, ReadLog};
use tokio::sync::oneshot;

use super::log_thread::LogInput;
use super::mailbox::Sender;

/// How long a reader waits for its bytes to come from a peer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Has damaged records put right.
#[derive(Clone)]
pub struct Healer {
    log: Arc<Mutex<Sender<LogInput>>>,
}

impl Healer {
    /// A healer that asks the log's thread.
    pub fn new(log: Sender<LogInput>) -> Healer {
        Healer { log: Arc::new(Mutex::new(log)) }
    }

    /// Has the record at `lsn` put right, and waits for it. Why it stays as it is, if it does.
    pub fn heal(&self, lsn: Lsn) -> Result<(), String> {
        let (reply, mut answer) = oneshot::channel();
        let ended = || "the log's thread has ended".to_owned();
        let sent = {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.send(LogInput::Replica(Input::Heal { lsn, reply }))
        };
        sent.map_err(|_| ended())?;
        let begun = Instant::now();
        loop {
            match answer.try_recv() {
                Ok(healed) => return healed.map(drop).map_err(|error| error.to_string()),
                Err(oneshot::error::TryRecvError::Closed) => return Err(ended()),
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("no peer sent what is at LSN {lsn} within {PATIENCE:?}"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// A reader that heals.
pub struct HealingReader {
    /// Reads.
    pub reader: LogReader,
    /// Heals.
    pub healer: Healer,
}

impl HealingReader {
    /// What `read` gives of the record at `lsn`, after it was put right where it has to be.
    fn healed<T>(&self, lsn: Lsn, read: impl Fn() -> Result<T, ReadError>) -> Result<T, ReadError> {
        match read() {
            Err(ReadError::Damaged(found)) => match self.healer.heal(lsn) {
                Ok(()) => read(),
                Err(why) => Err(ReadError::Damaged(format!("{found}; {why}"))),
            },
            other => other,
        }
    }
}

impl ReadLog for HealingReader {
    fn read_slice(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Bytes, ReadError> {
        self.healed(lsn, || ReadLog::read_slice(&self.reader, lsn, offset, len))
    }

    fn file_range(&self, lsn: Lsn, offset: u32, len: u32) -> Result<Option<FileRange>, ReadError> {
        self.healed(lsn, || ReadLog::file_range(&self.reader, lsn, offset, len))
    }

    fn hold(&self) -> Held {
        ReadLog::hold(&self.reader)
    }
}
