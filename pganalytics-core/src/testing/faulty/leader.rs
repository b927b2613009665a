use std::time::Duration;

use async_trait::async_trait;

use crate::ids::InstanceId;
use crate::leader::{Leader, LeaderError, Lease};
use crate::testing::Faulty;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<L: Leader> Leader for Faulty<L> {
    fn name(&self) -> &'static str {
        self.inner().name()
    }

    async fn acquire(
        &self,
        role: &str,
        holder: InstanceId,
        ttl: Duration,
    ) -> Result<Option<Lease>, LeaderError> {
        self.apply(self.inner().acquire(role, holder, ttl)).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Option<Lease>, LeaderError> {
        self.apply(self.inner().renew(lease, ttl)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), LeaderError> {
        self.apply(self.inner().release(lease)).await
    }

    async fn holder(&self, role: &str) -> Result<Option<Lease>, LeaderError> {
        self.apply(self.inner().holder(role)).await
    }
}
