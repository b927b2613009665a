//! What servers remember about who may do what, and how they learn that it is over.

mod freshness;
mod revoked;

pub use freshness::Freshness;
pub use revoked::{RevocationListener, Revoked};
