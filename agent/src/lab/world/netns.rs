//! A network namespace as a value: code can be run inside it, and it lives while the value does.
//!
//! There is no name under `/run/netns` and nothing to clean up: the kernel removes a namespace when
//! its last process and its last descriptor are gone, however the lab ended.

use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace of this machine. Clones refer to the same one.
#[derive(Clone, Debug)]
pub struct NetNs {
    file: Arc<File>,
}

impl NetNs {
    /// Makes an empty namespace, which has nothing but a loopback that is down.
    pub fn create() -> Result<NetNs> {
        let file = in_thread(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("make a network namespace (it takes root or a user namespace)")?;
            File::open("/proc/thread-self/ns/net").context("open the new network namespace")
        })?;
        Ok(NetNs { file: Arc::new(file) })
    }

    /// The namespace that the process `pid` lives in.
    pub fn of_process(pid: u32) -> Result<NetNs> {
        let path = format!("/proc/{pid}/ns/net");
        Ok(NetNs { file: Arc::new(File::open(&path).with_context(|| format!("open {path}"))?) })
    }

    /// The open descriptor, for requests that name a namespace by it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    /// Sockets that it opens belong to the namespace, and so do threads that it starts.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Runs `work` on a thread inside the namespace without waiting for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<Result<T>> {
        let here = self.clone();
        thread::spawn(move || {
            here.enter()?;
            drop(here);
            Ok(work())
        })
    }

    /// Runs a future inside the namespace, on a runtime of one thread made for it.
    pub fn block_on<T, F>(&self, work: impl FnOnce() -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = T>,
    {
        in_thread(|| {
            self.enter()?;
            Ok(single_threaded()?.block_on(work()))
        })
    }

    /// Runs requests to the namespace's route netlink.
    pub fn rtnl<T, F>(&self, work: impl FnOnce(rtnetlink::Handle) -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>>,
    {
        in_thread(|| {
            self.enter()?;
            single_threaded()?.block_on(async {
                let (connection, handle, _) =
                    rtnetlink::new_connection().context("open a route netlink socket")?;
                let driver = tokio::spawn(connection);
                let result = work(handle).await;
                driver.abort();
                result
            })
        })
    }

    fn enter(&self) -> Result<()> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET).context("enter a network namespace of the lab")
    }
}

/// A runtime for the calling thread only, so that its sockets stay in the thread's namespace.
pub fn single_threaded() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
