//! API tokens.

mod port;

pub use port::{ApiToken, NewApiToken, Scope, TokenDigest, TokenStore, TokenStoreError};
