//! What host one and a host that joins say to each other, within a session that nobody else can read.
//!
//! Everything is JSON of a bounded size: a release that says more is understood as far as this one knows, and tells its
//! version first.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::discover::Interface;

/// Largest message, in bytes: three small files, or a host with a few hundred interfaces.
pub(super) const MOST_BYTES: usize = 128 * 1024;

/// A host that joins, as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Its program's version.
    pub version: String,
    /// What its operator wants its member to be called.
    pub chosen: Option<String>,
    /// What its host name says.
    pub hostname: Option<String>,
    /// Its own address of the connection.
    pub address: IpAddr,
    /// The interface that its operator wants the virtual address on.
    pub interface: Option<String>,
    /// Its networks.
    pub interfaces: Vec<Interface>,
    /// Where its operator wants votes and epoch.
    pub state_dir: Option<PathBuf>,
    /// Where its operator wants log and index.
    pub data_dir: Option<PathBuf>,
    /// The configuration that it has already.
    pub configured: Option<PathBuf>,
    /// It starts its agent by itself when all is placed.
    pub starts: bool,
}

/// What host one says.
#[derive(Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub(super) enum FromHost {
    /// All is well; these are not here yet.
    Awaiting {
        /// In words, as in "the witness".
        whom: Vec<String>,
    },
    /// This is your configuration.
    Files {
        /// What your member is called.
        name: String,
        /// In the order in which they are placed.
        files: Vec<File>,
    },
    /// Every member has its files: start.
    Go,
    /// You cannot join.
    Refused {
        /// And what to do.
        why: String,
    },
}

/// What a host that joins says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub(super) enum FromJoiner {
    /// Who it is; the first message of all.
    Hello(Box<Hello>),
    /// It still waits.
    Here,
    /// Its files are on its disk.
    Placed,
    /// It placed nothing.
    Refused {
        /// And what to do.
        why: String,
    },
}

/// A file of a member, without its directory.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    /// Its name.
    pub name: String,
    /// What is in it, which may be a secret: it does not stay in memory.
    pub text: String,
}

impl Drop for File {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({}, {} bytes)", self.name, self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_does_not_show_what_is_in_it() {
        let file = File { name: "secret".to_owned(), text: "hidden".to_owned() };
        assert_eq!(format!("{file:?}"), "File(secret, 6 bytes)");
    }

    #[test]
    fn what_a_later_release_adds_is_passed_over() {
        let text = r#"{"says":"awaiting","whom":["the witness"],"since":5}"#;
        let message: FromHost = serde_json::from_str(text).unwrap();
        assert!(matches!(message, FromHost::Awaiting { whom } if whom == ["the witness"]));
    }
}
