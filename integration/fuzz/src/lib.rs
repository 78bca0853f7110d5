//! Joins the fuzz targets of `integration/src/fuzz/` to libFuzzer, and gives each input its memory.
//!
//! Decides nothing: what is run and what must hold stands in the targets, which the ordinary tests run too. Their
//! files are compiled in here and not linked, so that a parser is fuzzed without the build of a whole agent.

use std::alloc::System;
use std::path::Path;

use cap::Cap;
pub use libfuzzer_sys;

#[path = "../../src/fuzz/config.rs"]
pub mod config;
#[cfg(feature = "agent")]
#[path = "../../src/fuzz/flight.rs"]
pub mod flight;
#[path = "../../src/fuzz/packet.rs"]
pub mod packet;
#[path = "../../src/fuzz/record.rs"]
pub mod record;
#[cfg(feature = "agent")]
#[path = "../../src/fuzz/state_file.rs"]
pub mod state_file;
#[path = "../../src/fuzz/stream_frame.rs"]
pub mod stream_frame;
#[path = "../../src/fuzz/target.rs"]
mod target;

pub use target::Target;

/// Counts what Rust code allocates; libFuzzer's own memory is not in it.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Where a corpus begins: one file a seed, made by the real encoders. Asked for by the variable.
const SEEDS_INTO: &str = "HOLDFAST_FUZZ_SEEDS_INTO";

/// Writes the target's seeds where the caller wants them.
pub fn prepare(target: &'static Target) -> &'static Target {
    if let Some(dir) = std::env::var_os(SEEDS_INTO).filter(|dir| !dir.is_empty()) {
        eprintln!("longest input: {}", target.max_len);
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let path = Path::new(&dir).join(format!("seed-{number:02}"));
            std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    // Who tells of a panic needs more room than the input had.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = HEAP.set_limit(usize::MAX);
        tell(panic);
    }));
    target
}

/// Runs the target on one input, within the memory that such an input warrants.
pub fn run(target: &Target, input: &[u8]) {
    let room = target.memory_bytes;
    HEAP.set_limit(HEAP.allocated() + room).expect("a limit above what is allocated can be set");
    let _accepted = (target.run)(input);
    HEAP.set_limit(usize::MAX).expect("no limit can always be set");
}

/// The entry of one target, by the name of its module.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        static TARGET: ::std::sync::OnceLock<&'static $crate::Target> = ::std::sync::OnceLock::new();
        $crate::libfuzzer_sys::fuzz_target!(
            init: {
                assert!(TARGET.set($crate::prepare(&$crate::$name::TARGET)).is_ok(), "prepared once");
            },
            |input: &[u8]| $crate::run(TARGET.get().expect("prepared before the first input"), input)
        );
    };
}
