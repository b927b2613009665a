//! API tokens.

mod memory;
mod port;

pub use memory::MemoryTokenStore;
pub use port::{ApiToken, NewApiToken, Scope, TokenDigest, TokenStore, TokenStoreError, check_new_token};
