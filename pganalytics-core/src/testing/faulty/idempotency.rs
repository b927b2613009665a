use std::time::Duration;

use async_trait::async_trait;

use crate::idempotency::{
    Claim, Fingerprint, FreshClaim, IdempotencyError, IdempotencyKey, IdempotencyStore, StoredResponse,
};
use crate::testing::Faulty;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: IdempotencyStore> IdempotencyStore for Faulty<S> {
    fn name(&self) -> &'static str {
        self.inner().name()
    }

    async fn claim(
        &self,
        key: &IdempotencyKey,
        fingerprint: &Fingerprint,
    ) -> Result<Claim, IdempotencyError> {
        Ok(match self.apply(self.inner().claim(key, fingerprint)).await? {
            Claim::Fresh(claim) => Claim::Fresh(Box::new(self.around(claim))),
            other => other,
        })
    }

    async fn sweep(&self, limit: u32) -> Result<u64, IdempotencyError> {
        self.apply(self.inner().sweep(limit)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl FreshClaim for Faulty<Box<dyn FreshClaim>> {
    async fn complete(
        self: Box<Self>,
        response: &StoredResponse,
        ttl: Duration,
    ) -> Result<(), IdempotencyError> {
        let plan = self.around(());
        plan.apply(self.inner.complete(response, ttl)).await
    }

    async fn abandon(self: Box<Self>) -> Result<(), IdempotencyError> {
        let plan = self.around(());
        plan.apply(self.inner.abandon()).await
    }
}
