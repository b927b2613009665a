use std::time::Duration;

use async_trait::async_trait;

use super::ports::faulty_port;
use crate::refresh::{
    NewRefreshFamily, RefreshDigest, RefreshFamily, RefreshOutcome, RefreshSuccessor, RefreshTokenStore,
    RefreshTokenStoreError, ShownRefreshToken,
};
use crate::testing::Faulty;

faulty_port! {
    RefreshTokenStore fails with RefreshTokenStoreError {
        fn name() -> &'static str;
        async fn insert(new: &NewRefreshFamily) -> bool;
        async fn rotate(
            shown: &ShownRefreshToken,
            successor: &RefreshSuccessor,
            grace: Duration
        ) -> RefreshOutcome;
        async fn revoke(family: &RefreshDigest) -> Option<RefreshFamily>;
        async fn sweep(limit: u32) -> u64;
    }
}
