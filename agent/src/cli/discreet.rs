//! Takes the API token out of this process's arguments, which every user of the host can see in `ps`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::anew::start_anew;

/// Starts this program anew, in the same process, with a token of its arguments in its environment, where nobody but
/// this user and root sees it. Returns if there was none. For a moment it could be seen: `--token-file` is better.
///
/// # Errors
/// The program could not be started anew; nothing was changed.
pub(super) fn hide_token() -> io::Result<()> {
    match without_token(std::env::args_os()) {
        (_, None) => Ok(()),
        (arguments, Some(token)) => Err(start_anew(arguments, ("HOLDFAST_TOKEN", &token))),
    }
}

/// The arguments without `--token X` and `--token=X`, and the last such X.
fn without_token(arguments: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Option<OsString>) {
    let (mut kept, mut token) = (Vec::new(), None);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == OsStr::new("--token") {
            token = arguments.next();
        } else if let Some(value) = argument.as_bytes().strip_prefix(b"--token=") {
            token = Some(OsString::from_vec(value.to_vec()));
        } else {
            kept.push(argument);
        }
    }
    (kept, token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_out_and_nothing_else() {
        let of = |words: &str| {
            let (kept, token) = without_token(words.split(' ').map(OsString::from));
            let kept: Vec<_> = kept.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            (kept.join(" "), token.map(|token| token.to_string_lossy().into_owned()))
        };
        let token = |token: &str| Some(token.to_owned());
        assert_eq!(of("holdfast ha --token x status"), ("holdfast ha status".into(), token("x")));
        assert_eq!(
            of("holdfast ha status --token=x=y --json"),
            ("holdfast ha status --json".into(), token("x=y"))
        );
        assert_eq!(
            of("holdfast ha status --token-file x"),
            ("holdfast ha status --token-file x".into(), None)
        );
    }
}
