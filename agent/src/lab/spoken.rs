//! Commands as a person types them, for the hints that the lab prints.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

/// How this program is started from a shell: by its name where the search path leads to it, else by its path.
pub(super) fn this_program() -> String {
    let name = "holdfast".to_owned();
    let Ok(own) = env::current_exe() else { return name };
    let path = env::var_os("PATH").unwrap_or_default();
    if found(&path).is_some_and(|file| file == own) { name } else { quoted(&own.to_string_lossy()) }
}

/// What a shell starts for `holdfast`.
fn found(path: &OsStr) -> Option<PathBuf> {
    let mut files = env::split_paths(path).map(|dir| dir.join("holdfast"));
    fs::canonicalize(files.find(|file| file.is_file())?).ok()
}

/// The command that this process was started with.
pub(super) fn this_command() -> String {
    let args = env::args_os().skip(1);
    args.fold(this_program(), |line, arg| line + " " + &quoted(&arg.to_string_lossy()))
}

/// A word as a POSIX shell takes it literally.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_every_word_literally() {
        for (word, expected) in [
            ("ha", "ha"),
            ("/tmp/holdfast-lab-0/7", "/tmp/holdfast-lab-0/7"),
            ("", "''"),
            ("echo $HOME", "'echo $HOME'"),
            ("it's", "'it'\\''s'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn a_program_beside_the_search_path_is_named_by_its_path() {
        let own = env::current_exe().unwrap();
        assert_eq!(this_program(), quoted(&own.to_string_lossy()));
    }
}
