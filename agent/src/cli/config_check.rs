//! `holdfast config check`: what a configuration means, or what must be changed in it.

use std::path::Path;
use std::process::ExitCode;

use holdfast_config::Config;

/// The explanation, which ends with the warnings, goes to stdout; what stops the agent goes to stderr.
pub(super) fn check(file: &Path) -> ExitCode {
    match Config::load(file) {
        Ok(loaded) => super::told(super::say(&holdfast_config::explain(&loaded)).map(|()| ExitCode::SUCCESS)),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(super::FAILED)
        }
    }
}
