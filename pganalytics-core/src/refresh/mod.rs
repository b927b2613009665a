//! Families of refresh tokens.

mod memory;
mod port;

pub use memory::MemoryRefreshTokenStore;
pub use port::{
    NewRefreshFamily, RefreshDigest, RefreshFamily, RefreshOutcome, RefreshSalt, RefreshSuccessor,
    RefreshTokenStore, RefreshTokenStoreError, ShownRefreshToken,
};
