//! Having other servers cosign the log that is sealed here.

mod asking;
mod error;
mod standing;

pub use asking::{AskedWitness, AuditWitnesses};
pub use error::AuditWitnessError;
pub use standing::{WitnessStanding, witness_standings};
