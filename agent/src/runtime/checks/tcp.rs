//! A connection to a host and port is made, and closed at once.

use tokio::net::TcpStream;

use super::Outcome;

pub(super) async fn run(address: &str) -> Outcome {
    match TcpStream::connect(address).await {
        Ok(_) => Outcome::passed("connected"),
        Err(error) => Outcome::failed(error.to_string()),
    }
}
