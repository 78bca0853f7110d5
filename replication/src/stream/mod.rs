//! The stream between a primary and a standby: what is said ([`Frame`]) and how it is kept secret
//! and whole on the way ([`NoiseSession`]). No sockets: bytes in, bytes out.

mod frame;
mod session;

pub use frame::{BadFrame, Frame, Hello, MAX_FRAME, MAX_HISTORY, MAX_TEXT, RejectReason, Welcome};
pub use session::{
    Assembly, Channel, ErrorCounts, NoiseSession, Opener, PROTOCOL_VERSION, SECRET_MIN, Sealer, StreamError,
    StreamErrorKind,
};
