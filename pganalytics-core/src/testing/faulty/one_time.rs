use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::ports::faulty_port;
use crate::one_time::{OneTimeError, OneTimeStore, Seen};
use crate::testing::Faulty;

faulty_port! {
    OneTimeStore fails with OneTimeError {
        fn name() -> &'static str;
        async fn remember(scope: &str, id: &str, until: DateTime<Utc>) -> Seen;
        async fn sweep(limit: u32) -> u64;
    }
}
