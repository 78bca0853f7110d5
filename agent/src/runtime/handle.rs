//! The way in for the API: ask a running member for its state, give it a command.

use holdfast_replication::replica::ReplicaStatus;
use holdfast_store::admin::Admin;
use holdfast_store::s3::StandbyCounts;
use tokio::sync::oneshot;

use super::archives::Archives;
use super::files;
use super::history::{Entry, History};
use super::inquiry::CheckReport;
use super::log_times::LogTimes;
use super::recorder::{self, RecordError, Written};
use super::resync::Resync;
use super::sameness::SamenessBoard;
use super::scrub::ScrubBoard;
use super::space::SpaceBoard;
use super::status::Status;
use super::stream::StreamCounts;
use crate::node::event::{Answer, Command, Declined};

/// What a member is asked.
#[derive(Debug)]
pub enum Request {
    /// Its state.
    Status(oneshot::Sender<Status>),
    /// To write down what it was told lately.
    Record(recorder::Reply),
    /// To look into everything that a failover needs; what was found.
    Check(Box<Status>, Option<Box<ReplicaStatus>>, oneshot::Sender<CheckReport>),
    /// To carry out a command.
    Command(Command, oneshot::Sender<Answer>),
}

/// What goes on around a data member's store. Cheap to clone.
#[derive(Clone, Default)]
pub struct Upkeep {
    /// What wins space back.
    pub space: SpaceBoard,
    /// What reads the log through.
    pub scrub: ScrubBoard,
    /// What was found of the other members' copies.
    pub sameness: SamenessBoard,
    /// What became of the requests that came to it as a standby.
    pub standby: std::sync::Arc<StandbyCounts>,
    /// What went over its connections with the other members.
    pub streams: std::sync::Arc<StreamCounts>,
    /// How long its log waits for the disk and for the standbys.
    pub times: std::sync::Arc<LogTimes>,
}

/// A running member. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: std::sync::Arc<dyn Fn(Request) -> bool + Send + Sync>,
    replication: std::sync::Arc<dyn Fn() -> Option<ReplicaStatus> + Send + Sync>,
    history: History,
    store: Option<Admin>,
    upkeep: Option<Upkeep>,
    files: Option<files::Board>,
    archives: Option<Archives>,
    resync: Option<Resync>,
}

impl Handle {
    /// A handle on a member, given the ways to reach its parts. `requests` says whether the core lives.
    pub fn new(
        requests: impl Fn(Request) -> bool + Send + Sync + 'static,
        replication: impl Fn() -> Option<ReplicaStatus> + Send + Sync + 'static,
        history: History,
    ) -> Handle {
        Handle {
            requests: std::sync::Arc::new(requests),
            replication: std::sync::Arc::new(replication),
            history,
            store: None,
            upkeep: None,
            files: None,
            archives: None,
            resync: None,
        }
    }

    /// The same handle, with what can have its log copied anew.
    pub fn with_resync(self, resync: Option<Resync>) -> Handle {
        Handle { resync, ..self }
    }

    /// What can have the log copied anew; `None` on a witness.
    pub fn resync(&self) -> Option<&Resync> {
        self.resync.as_ref()
    }

    /// The same handle, with what was set aside.
    pub fn with_archives(self, archives: Option<Archives>) -> Handle {
        Handle { archives, ..self }
    }

    /// What was set aside; `None` on a witness.
    pub fn archives(&self) -> Option<&Archives> {
        self.archives.as_ref()
    }

    /// The same handle, with a store that can be administered, and what is done for its log.
    pub fn with_store(self, store: Option<Admin>, upkeep: Option<Upkeep>) -> Handle {
        Handle { store, upkeep, ..self }
    }

    /// Whether the members' logs are the same; `None` on a witness.
    pub fn sameness(&self) -> Option<&SamenessBoard> {
        self.upkeep.as_ref().map(|upkeep| &upkeep.sameness)
    }

    /// The same handle, with the replicated files of its member.
    pub fn with_files(self, files: Option<files::Board>) -> Handle {
        Handle { files, ..self }
    }

    /// The replicated files; `None` where none are configured.
    pub fn files(&self) -> Option<files::FilesStatus> {
        self.files.as_ref().map(files::Board::read)
    }

    /// How sound the log is; `None` on a witness.
    pub fn scrub(&self) -> Option<&ScrubBoard> {
        self.upkeep.as_ref().map(|upkeep| &upkeep.scrub)
    }

    /// What became of the requests that came to the store as a standby's; `None` on a witness.
    pub fn standby(&self) -> Option<&std::sync::Arc<StandbyCounts>> {
        self.upkeep.as_ref().map(|upkeep| &upkeep.standby)
    }

    /// What went over the connections with other data members; `None` on a witness.
    pub fn streams(&self) -> Option<&std::sync::Arc<StreamCounts>> {
        self.upkeep.as_ref().map(|upkeep| &upkeep.streams)
    }

    /// How long the log waits for the disk and for the standbys; `None` on a witness.
    pub fn log_times(&self) -> Option<&std::sync::Arc<LogTimes>> {
        self.upkeep.as_ref().map(|upkeep| &upkeep.times)
    }

    /// What space the store takes; `None` on a witness.
    pub fn space(&self) -> Option<&SpaceBoard> {
        self.upkeep.as_ref().map(|upkeep| &upkeep.space)
    }

    /// The store; `None` on a witness, and where the store has no endpoint.
    pub fn store(&self) -> Option<&Admin> {
        self.store.as_ref()
    }

    /// The member's state, or `None` while it is ending.
    pub async fn status(&self) -> Option<Status> {
        let (sender, receiver) = oneshot::channel();
        (self.requests)(Request::Status(sender));
        receiver.await.ok()
    }

    /// Gives a command and waits for its outcome (ten seconds at most, by the core's own clock).
    pub async fn command(&self, command: Command) -> Answer {
        let (sender, receiver) = oneshot::channel();
        (self.requests)(Request::Command(command, sender));
        receiver.await.unwrap_or_else(|_| {
            Err(Declined {
                code: "ending",
                message: "the agent is shutting down; nothing was changed".to_owned(),
            })
        })
    }

    /// Has the flight recorder write down what it holds; `None` while the member is ending.
    pub async fn record(&self) -> Option<Result<Written, RecordError>> {
        let (sender, receiver) = oneshot::channel();
        (self.requests)(Request::Record(sender));
        receiver.await.ok()
    }

    /// Looks into everything that a failover needs; `None` while the member is ending. Takes some seconds where
    /// a peer does not answer.
    pub async fn check(&self, status: Status) -> Option<CheckReport> {
        let (sender, receiver) = oneshot::channel();
        let log = self.replication().map(Box::new);
        (self.requests)(Request::Check(Box::new(status), log, sender));
        receiver.await.ok()
    }

    /// The log's state; `None` on a witness.
    pub fn replication(&self) -> Option<ReplicaStatus> {
        (self.replication)()
    }

    /// What happened, oldest first.
    pub fn history(&self) -> Vec<Entry> {
        self.history.entries()
    }
}
