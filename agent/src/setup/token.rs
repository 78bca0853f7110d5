//! The token of a join line: where host one listens, for what, and a key that is good for one conversation.
//!
//! A text of small letters and digits (Crockford's base 32, which has no letter that looks like a digit) behind `hf1-`,
//! so that it survives being read aloud and typed. A checksum finds every mistyped character before anything is sent. It
//! holds no secret that outlives the conversation: the cluster's own travels inside, under keys that forget it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What every token begins with; the digit is the format's.
const PREFIX: &str = "hf1-";
/// What tokens of any format begin with.
const FAMILY: &str = "hf";
/// Five bits each, in Crockford's order.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Bytes of a key.
const KEY_LEN: usize = 16;
/// Bytes of the checksum at the end.
const SUM_LEN: usize = 4;
/// Longest text that is looked at: the longest token has 67 characters.
const MOST_CHARS: usize = 128;

/// What a host is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// A member with the log and the store.
    Data,
    /// A member that votes and remembers.
    Witness,
}

/// The key of one conversation. Its text never shows by itself.
pub(super) type Key = Zeroizing<[u8; KEY_LEN]>;

/// What a join line says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// What the host is to become.
    pub role: Role,
    /// Where host one listens.
    pub host: SocketAddr,
    /// The key of the one conversation.
    pub key: Key,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?} at {})", self.role, self.host)
    }
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadToken {
    /// It is something else.
    #[error(
        "that is no token of `holdfast init`, which begins with {PREFIX}; copy the whole line that it printed"
    )]
    Other,
    /// Of a release that this one does not know.
    #[error(
        "the token is of another release of Holdfast, whose format this one does not know; install the same version on all hosts"
    )]
    Release,
    /// Mistyped, or cut off.
    #[error(
        "the token is mistyped or not whole: its checksum does not fit; copy the line again. Nothing was changed"
    )]
    Mistyped,
}

impl Token {
    /// A token with a new key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn new(role: Role, host: SocketAddr) -> Result<Token, getrandom::Error> {
        let mut key = Key::default();
        getrandom::fill(&mut *key)?;
        Ok(Token { role, host, key })
    }

    /// The text of the join line. Whoever has it can join.
    pub(super) fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(40));
        let role = match self.role {
            Role::Data => 0,
            Role::Witness => 1,
        };
        match self.host.ip() {
            IpAddr::V4(ip) => {
                bytes.push(role);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(role | IS_V6);
                bytes.extend(ip.octets());
            }
        }
        bytes.extend(self.host.port().to_be_bytes());
        bytes.extend(self.key.iter());
        let sum = checksum(&bytes);
        bytes.extend(sum);
        let mut text = Zeroizing::new(PREFIX.to_owned());
        spell(&bytes, &mut text);
        text
    }

    /// Reads a token as a person gives it: in capitals or not, with blanks around it or hyphens within.
    pub(super) fn parse(text: &str) -> Result<Token, BadToken> {
        let text = Zeroizing::new(text.trim().to_ascii_lowercase());
        if text.len() > MOST_CHARS {
            return Err(BadToken::Other);
        }
        let Some(body) = text.strip_prefix(PREFIX) else {
            let another = text.strip_prefix(FAMILY).and_then(|rest| rest.split_once('-'));
            let numbered = another.is_some_and(|(format, _)| {
                !format.is_empty() && format.bytes().all(|byte| byte.is_ascii_digit())
            });
            return Err(if numbered { BadToken::Release } else { BadToken::Other });
        };
        let bytes = unspell(body).ok_or(BadToken::Mistyped)?;
        let (said, sum) = bytes.split_last_chunk::<SUM_LEN>().ok_or(BadToken::Mistyped)?;
        if checksum(said) != *sum {
            return Err(BadToken::Mistyped);
        }
        read(said).ok_or(BadToken::Release)
    }
}

/// In the first byte, beside the role: the address is of IPv6.
const IS_V6: u8 = 0x80;

/// What stands before the checksum. None: it is sound, and says what this release does not know.
fn read(said: &[u8]) -> Option<Token> {
    let (kind, rest) = said.split_first()?;
    let role = match kind & !IS_V6 {
        0 => Role::Data,
        1 => Role::Witness,
        _ => return None,
    };
    let (ip, rest): (IpAddr, _) = if kind & IS_V6 == 0 {
        let (octets, rest) = rest.split_first_chunk::<4>()?;
        (Ipv4Addr::from(*octets).into(), rest)
    } else {
        let (octets, rest) = rest.split_first_chunk::<16>()?;
        (Ipv6Addr::from(*octets).into(), rest)
    };
    let (port, rest) = rest.split_first_chunk()?;
    let key = Zeroizing::new(<[u8; KEY_LEN]>::try_from(rest).ok()?);
    Some(Token { role, host: SocketAddr::new(ip, u16::from_be_bytes(*port)), key })
}

/// CRC-32C of the format and all bytes: finds every error within 32 bits, such as any one or two neighbouring
/// characters.
fn checksum(bytes: &[u8]) -> [u8; SUM_LEN] {
    crc32c::crc32c_append(crc32c::crc32c(PREFIX.as_bytes()), bytes).to_be_bytes()
}

fn spell(bytes: &[u8], text: &mut String) {
    let (mut held, mut bits) = (0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(held >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(held << (5 - bits) & 31) as usize]));
    }
}

fn unspell(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let (mut held, mut bits) = (0u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'-') {
        // As Crockford reads them: what looks like a digit is one.
        let letter = match letter {
            b'o' => b'0',
            b'i' | b'l' => b'1',
            other => other,
        };
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        held = held << 5 | value as u32;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    // What is left over is less than a character, and nothing.
    let rest = held & ((1 << bits) - 1);
    (bits < 5 && rest == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Vec<Token> {
        let of = |role, host: &str| Token::new(role, host.parse().unwrap()).unwrap();
        vec![
            of(Role::Data, "10.0.0.1:9001"),
            of(Role::Witness, "192.168.255.254:65535"),
            of(Role::Data, "[fd77::1]:9001"),
        ]
    }

    #[test]
    fn a_token_comes_back_as_it_was() {
        for token in tokens() {
            let text = token.text();
            assert!(text.starts_with("hf1-") && text.len() <= 67, "{} characters", text.len());
            assert!(Token::parse(&text).unwrap() == token);
            let spoken = format!("  {}\n", text.to_uppercase().replace('0', "O").replace('1', "L"));
            // The digit of the format is no letter.
            let spoken = spoken.replacen("HFL-", "HF1-", 1);
            assert!(Token::parse(&spoken).unwrap() == token);
            let body = text.strip_prefix(PREFIX).unwrap();
            let grouped = format!("hf1-{}-{}", &body[..7], &body[7..]);
            assert!(Token::parse(&grouped).unwrap() == token);
        }
    }

    #[test]
    fn every_mistyped_missing_added_or_swapped_character_is_found() {
        for token in tokens() {
            let text = token.text().clone();
            for at in PREFIX.len()..text.len() {
                for letter in ALPHABET.iter().map(|letter| char::from(*letter)).chain(['u', '!', 'ä']) {
                    let typed = format!("{}{letter}{}", &text[..at], &text[at + 1..]);
                    if typed != *text {
                        assert_eq!(Token::parse(&typed), Err(BadToken::Mistyped), "{at} {letter}");
                    }
                    let added = format!("{}{letter}{}", &text[..at], &text[at..]);
                    assert_eq!(Token::parse(&added), Err(BadToken::Mistyped), "{at} {letter}");
                }
                let missing = format!("{}{}", &text[..at], &text[at + 1..]);
                assert_eq!(Token::parse(&missing), Err(BadToken::Mistyped), "{at}");
                let mut swapped = text.as_bytes().to_vec();
                if at + 1 < swapped.len() && swapped[at] != swapped[at + 1] {
                    swapped.swap(at, at + 1);
                    let swapped = String::from_utf8(swapped).unwrap();
                    assert_eq!(Token::parse(&swapped), Err(BadToken::Mistyped), "{at}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_token_is_told_apart_from_one_of_another_release() {
        let text = tokens()[0].text().clone();
        for other in ["", "hf", "hf1", "join", "hfx-000", "a secret", &"0".repeat(1000)] {
            assert_eq!(Token::parse(other), Err(BadToken::Other), "{other}");
        }
        assert_eq!(Token::parse(&text.replacen("hf1", "hf2", 1)), Err(BadToken::Release));
        assert_eq!(Token::parse("hf1-"), Err(BadToken::Mistyped));
        // A role that a later release may have.
        let mut bytes = vec![9, 10, 0, 0, 1, 35, 41];
        bytes.extend([7; KEY_LEN]);
        bytes.extend(checksum(&bytes));
        let mut later = PREFIX.to_owned();
        spell(&bytes, &mut later);
        assert_eq!(Token::parse(&later), Err(BadToken::Release));
    }

    #[test]
    fn a_token_does_not_show_its_key() {
        let token = &tokens()[0];
        let shown = format!("{token:?}");
        assert!(!shown.contains(&hex::encode(*token.key)) && shown.len() < 40, "{shown}");
    }
}
