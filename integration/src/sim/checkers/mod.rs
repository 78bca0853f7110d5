//! What must never happen, one file per invariant.
