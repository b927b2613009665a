//! Signed-in sessions.

mod port;
mod token;
mod value;

pub use port::{SaveOutcome, SessionError, SessionStore};
pub use token::{InvalidSessionToken, SessionSecretHash, SessionToken};
pub use value::{Epoch, IdpSession, InvalidSessionId, NewSession, Session, SessionId, SessionLifetimes};
