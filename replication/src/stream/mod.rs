//! The stream between a primary and a standby: what is said ([`Frame`]) and how it is kept secret
//! and whole on the way ([`NoiseSession`]). No sockets: bytes in, bytes out.

mod agreement;
mod frame;
mod pace;
mod session;

pub use agreement::{Agreed, Features, Offer, PROTOCOL_VERSIONS};
pub use frame::{BadFrame, Frame, Hello, MAX_FRAME, MAX_HISTORY, MAX_TEXT, RejectReason, Verdict, Welcome};
pub use pace::Pace;
pub use session::{
    Assembly, Channel, ErrorCounts, NoiseSession, Opener, SECRET_MIN, Sealer, StreamError, StreamErrorKind,
};
