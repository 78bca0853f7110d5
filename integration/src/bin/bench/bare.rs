//! What no store on these machines can be below: a client, a primary and a standby that only hand an object on, write it to
//! a file each and sync it, over the same network and the same disk, with nothing between a socket and its thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::{CLIENT, lan_address};

use super::replicated::{Latency, OBJECT};

const PRIMARY_PORT: u16 = 9991;
const STANDBY_PORT: u16 = 9992;
/// What is written ahead of the objects, as a log's segments are.
const FILE_BYTES: u64 = 64 << 20;
const EXCHANGES: usize = 2000;

/// One host's file.
struct Journal {
    file: File,
    path: PathBuf,
    synced: Duration,
}

impl Journal {
    fn new(cluster: &Cluster, host: &str) -> Result<Journal> {
        let path = cluster.world().machine(host)?.dir().join("bare");
        let file = OpenOptions::new().create_new(true).write(true).open(&path)?;
        file.set_len(FILE_BYTES)?;
        file.sync_all()?;
        Ok(Journal { file, path, synced: Duration::ZERO })
    }

    fn write(&mut self, object: &[u8]) -> io::Result<()> {
        self.file.write_all(object)?;
        let began = Instant::now();
        self.file.sync_data()?;
        self.synced += began.elapsed();
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(cluster: &Cluster, host: &str, port: u16) -> Result<(TcpListener, SocketAddr)> {
    let listener = cluster.netns(host)?.run(|| TcpListener::bind((lan_address(host), port)))??;
    let at = listener.local_addr()?;
    Ok((listener, at))
}

fn connect(cluster: &Cluster, from: &str, to: SocketAddr) -> Result<TcpStream> {
    let stream = cluster.netns(from)?.run(|| TcpStream::connect(to))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Answers each object once `store` has done its part; the mean time of a sync, in milliseconds.
fn serve(
    listener: TcpListener,
    mut journal: Journal,
    mut store: impl FnMut(&mut Journal, &[u8]) -> io::Result<()> + Send + 'static,
) -> JoinHandle<io::Result<f64>> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut object = vec![0; OBJECT];
        for _ in 0..EXCHANGES {
            stream.read_exact(&mut object)?;
            store(&mut journal, &object)?;
            stream.write_all(&[1])?;
        }
        Ok(journal.synced.as_secs_f64() * 1e3 / EXCHANGES as f64)
    })
}

/// Means over some thousand objects, one after the other; the round trip is as it is told.
pub(super) fn latency(cluster: &Cluster, primary: &str, standby: &str, round_trip: f64) -> Result<Latency> {
    let (far, far_at) = listen(cluster, standby, STANDBY_PORT)?;
    let (near, near_at) = listen(cluster, primary, PRIMARY_PORT)?;
    let there = serve(far, Journal::new(cluster, standby)?, Journal::write);
    let mut onward = connect(cluster, primary, far_at)?;
    let here = serve(near, Journal::new(cluster, primary)?, move |journal, object| {
        onward.write_all(object)?;
        journal.write(object)?;
        onward.read_exact(&mut [0])
    });
    let mut client = connect(cluster, CLIENT, near_at)?;
    let object = vec![7; OBJECT];
    let began = Instant::now();
    for _ in 0..EXCHANGES {
        client.write_all(&object)?;
        client.read_exact(&mut [0])?;
    }
    let whole = began.elapsed().as_secs_f64() * 1e3 / EXCHANGES as f64;
    let synced = |served: JoinHandle<io::Result<f64>>| -> Result<f64> {
        Ok(served.join().map_err(|_| anyhow!("a bare host's thread died"))??)
    };
    Ok(Latency { whole, sync_here: synced(here)?, sync_there: synced(there)?, round_trip, standby_wait: 0.0 })
}
