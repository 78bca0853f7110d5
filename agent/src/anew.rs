//! Starting this program anew, in the same process: what stands in its arguments shows in `ps`, and what its allocator
//! reads of its environment it reads before anything else runs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Starts this program anew with `arguments`, of which the first is its name, and one more variable in its environment.
/// Returns only why it could not; nothing was changed then.
pub(crate) fn start_anew(
    arguments: impl IntoIterator<Item = OsString>,
    (variable, value): (&str, &OsStr),
) -> io::Error {
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_else(|| "holdfast".into());
    let arguments: Vec<OsString> = arguments.collect();
    let again =
        |program: &Path| Command::new(program).arg0(&name).args(&arguments).env(variable, value).exec();
    // By its path the process keeps its name in `ps`. A package that is being installed may have put another file there,
    // or none yet: the kernel still has this one.
    let own = std::env::current_exe().map_or_else(|error| error, |path| again(&path));
    if own.kind() == io::ErrorKind::NotFound { again(Path::new("/proc/self/exe")) } else { own }
}
