use async_trait::async_trait;
use bytes::Bytes;

use super::ports::faulty_port;
use crate::cache::{Cache, CacheError, Generation, SetOptions, SetOutcome};
use crate::testing::Faulty;

faulty_port! {
    Cache fails with CacheError {
        fn name() -> &'static str;
        async fn get(key: &str) -> Option<Bytes>;
        async fn set(key: &str, value: Bytes, options: &SetOptions) -> SetOutcome;
        async fn delete(key: &str) -> bool;
        async fn compare_and_delete(key: &str, expected: &[u8]) -> bool;
        async fn generation(group: &str) -> Generation;
        async fn bump_generation(group: &str) -> Generation;
    }
}
