//! Bugs that are planted on purpose, so that the simulator can be shown to notice them.
//!
//! A place in the code asks [`is`] whether its bug is switched on. Without the feature `planted-bugs`,
//! which no release has, the answer is a constant `false` and the place compiles to nothing. With it, one
//! bug at a time is switched on by thread, and never by anything that comes from outside the process.

/// Whether this build can have planted bugs at all.
pub const COMPILED_IN: bool = cfg!(feature = "planted-bugs");

/// Whether the bug of this name is switched on.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn is(_name: &str) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use switch::{is, switch_on};

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<&'static str> = const { Cell::new("") };
    }

    /// Whether the bug of this name is switched on, on this thread.
    pub fn is(name: &str) -> bool {
        ON.get() == name
    }

    /// Switches one bug on, on this thread, and every other one off; an empty name switches all off.
    pub fn switch_on(name: &'static str) {
        ON.set(name);
    }
}
