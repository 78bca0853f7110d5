//! Does an address answer an ICMP echo? For whoever lies beyond the link, where neither ARP nor neighbour
//! discovery can ask.
//!
//! It decides what counts as an answer: an echo reply from that very address with this question's own number, of
//! 64 random bits. Silence is no proof, and no error: whoever cannot be asked did not answer.

use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pnet::util::checksum;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::gate::sys::readable;

/// Header and number: type, code, checksum, identifier, sequence, and 8 bytes of ours.
const ECHO_BYTES: usize = 16;
/// Longest answer worth reading: an IPv4 header with all options, and the echo.
const ANSWER_BYTES: usize = 128;

/// The types of a question and an answer (RFC 792, RFC 4443).
fn types(ip: IpAddr) -> (u8, u8) {
    if ip.is_ipv4() { (8, 0) } else { (128, 129) }
}

/// Whether `ip` answers: asked up to `count` times, evenly within `window`; true at the first answer. Needs
/// CAP_NET_RAW, or a group in `net.ipv4.ping_group_range`.
///
/// A link-local address is not asked: it has no meaning without its link, and neighbour discovery reaches it.
pub async fn echo(ip: IpAddr, count: u32, window: Duration) -> bool {
    if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return false;
    }
    match ask(ip, count.max(1), window).await {
        Ok(answered) => answered,
        Err(error) => {
            tracing::debug!(%ip, %error, "an echo could not be asked for");
            false
        }
    }
}

async fn ask(ip: IpAddr, count: u32, window: Duration) -> io::Result<bool> {
    let socket = open(ip)?;
    let number = random();
    let question = question(ip, number);
    let start = Instant::now();
    let mut asked = 0;
    let mut failure = None;
    loop {
        let due = start + window / count * asked;
        if asked < count && Instant::now() >= due {
            asked += 1;
            // Where there is no way now there may be one a moment later.
            failure = socket.get_ref().send(&question).err();
            continue;
        }
        let wake = if asked < count { due } else { start + window };
        tokio::select! {
            answered = next(&socket, ip, number) => if answered? {
                return Ok(true);
            },
            () = sleep_until(wake) => if asked >= count {
                return failure.map_or(Ok(false), Err);
            },
        }
    }
}

/// Reads the next packet: whether it is the answer.
async fn next(socket: &AsyncFd<Socket>, ip: IpAddr, number: u64) -> io::Result<bool> {
    loop {
        let mut ready = socket.readable().await?;
        let mut buffer = [0; ANSWER_BYTES];
        match ready.try_io(|socket| socket.get_ref().read(&mut buffer)) {
            Ok(Ok(length)) => return Ok(is_answer(ip, &buffer[..length], number)),
            // A router says that it cannot pass the question on: no answer, and no failure of the socket.
            Ok(Err(_)) => return Ok(false),
            Err(_) => {}
        }
    }
}

/// A socket that hears nobody but `ip`: raw, or the kernel's own for echoes where raw ones are not allowed.
fn open(ip: IpAddr) -> io::Result<AsyncFd<Socket>> {
    let (domain, protocol) = match ip {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))
        .or_else(|_| Socket::new(domain, Type::DGRAM, Some(protocol)))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(ip, 0).into())?;
    readable(socket)
}

/// 64 bits that nobody else can guess: the keys of a hasher come from the kernel.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

fn question(ip: IpAddr, number: u64) -> [u8; ECHO_BYTES] {
    let mut bytes = [0; ECHO_BYTES];
    bytes[0] = types(ip).0;
    // Identifier and sequence; the kernel's own sockets write an identifier of theirs.
    bytes[4..8].copy_from_slice(&number.to_be_bytes()[..4]);
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    // For IPv6 the kernel writes it, over a header that only it knows.
    if ip.is_ipv4() {
        let sum = checksum(&bytes, 1);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Whether a packet, with its IPv4 header or without, is the answer to the question of this number.
fn is_answer(ip: IpAddr, packet: &[u8], number: u64) -> bool {
    let with_header = ip.is_ipv4() && packet.first().is_some_and(|first| first >> 4 == 4);
    let skip = if with_header { usize::from(packet[0] & 0xf) * 4 } else { 0 };
    packet.get(skip..).is_some_and(|echo| {
        echo.len() >= ECHO_BYTES && echo[0] == types(ip).1 && echo[8..ECHO_BYTES] == number.to_be_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn answer(ip: IpAddr, number: u64) -> Vec<u8> {
        let mut bytes = question(ip, number).to_vec();
        bytes[0] = types(ip).1;
        bytes
    }

    #[test]
    fn only_the_reply_to_this_very_question_is_an_answer() {
        for ip in [V4, V6] {
            assert!(is_answer(ip, &answer(ip, 7), 7));
            assert!(!is_answer(ip, &answer(ip, 8), 7), "somebody else's");
            assert!(!is_answer(ip, &question(ip, 7), 7), "on loopback the question itself is heard too");
            assert!(!is_answer(ip, &answer(ip, 7)[..15], 7));
        }
        let mut with_header = vec![0x46];
        with_header.resize(24, 0);
        with_header.extend(answer(V4, 7));
        assert!(is_answer(V4, &with_header, 7));
        for length in 0..with_header.len() {
            assert!(!is_answer(V4, &with_header[..length], 7));
        }
    }

    #[test]
    fn the_checksum_of_a_question_is_right() {
        let bytes = question(V4, 0x0123_4567_89ab_cdef);
        // Summed with its own checksum in place a packet gives zero (RFC 1071).
        assert_eq!(checksum(&bytes, usize::MAX), 0);
    }

    #[tokio::test]
    async fn a_link_local_address_is_not_asked() {
        assert!(!echo("fe80::1".parse().unwrap(), 1, Duration::from_secs(60)).await);
    }
}
