//! Signed-in sessions.

mod epochs;
mod limit;
mod memory;
mod port;
mod token;
mod value;

pub use epochs::{MemorySessionEpochs, RaisedEpoch, SessionEpochs};
pub use limit::{SessionLimit, WhenFull};
pub use memory::MemorySessionStore;
pub use port::{SaveOutcome, SessionError, SessionStore, check_data, check_new_session};
pub use token::{InvalidSessionToken, SessionSecretHash, SessionToken};
pub use value::{Epoch, IdpSession, InvalidSessionId, NewSession, Session, SessionId, SessionLifetimes};
