use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::one_time::{OneTimeError, OneTimeStore, Seen};
use crate::testing::Faulty;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: OneTimeStore> OneTimeStore for Faulty<S> {
    fn name(&self) -> &'static str {
        self.inner().name()
    }

    async fn remember(&self, scope: &str, id: &str, until: DateTime<Utc>) -> Result<Seen, OneTimeError> {
        self.apply(self.inner().remember(scope, id, until)).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64, OneTimeError> {
        self.apply(self.inner().sweep(limit)).await
    }
}
