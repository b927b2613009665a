use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::ids::InstanceId;
use crate::leader::{Fence, Leader, LeaderError, Lease, check_role};

/// Roles within this process, for tests and for programs of one process. A restart begins the fences anew.
#[derive(Debug)]
pub struct MemoryLeader {
    // The last lease of each role, also when it is over: its fence must not be given again.
    leases: Mutex<HashMap<String, Lease>>,
    clock: Arc<dyn Clock>,
}

impl MemoryLeader {
    /// Nobody holds anything.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { leases: Mutex::default(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Lease>> {
        self.leases.lock().expect("no holder panics")
    }
}

#[async_trait]
impl Leader for MemoryLeader {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn acquire(
        &self,
        role: &str,
        holder: InstanceId,
        ttl: Duration,
    ) -> Result<Option<Lease>, LeaderError> {
        check_role(role)?;
        let now = self.clock.now();
        let mut leases = self.lock();
        let fence = match leases.get(role) {
            Some(lease) if now < lease.expires_at && lease.holder != holder => return Ok(None),
            Some(lease) if now < lease.expires_at => lease.fence,
            Some(lease) => Fence(lease.fence.0 + 1),
            None => Fence(1),
        };
        let lease = Lease::new(role, holder, fence, now + ttl);
        leases.insert(role.into(), lease.clone());
        Ok(Some(lease))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Option<Lease>, LeaderError> {
        let now = self.clock.now();
        let mut leases = self.lock();
        Ok(current(&mut leases, lease, now).map(|current| {
            current.expires_at = now + ttl;
            current.clone()
        }))
    }

    async fn release(&self, lease: &Lease) -> Result<(), LeaderError> {
        let now = self.clock.now();
        if let Some(current) = current(&mut self.lock(), lease, now) {
            current.expires_at = now;
        }
        Ok(())
    }

    async fn holder(&self, role: &str) -> Result<Option<Lease>, LeaderError> {
        check_role(role)?;
        let now = self.clock.now();
        Ok(self.lock().get(role).filter(|lease| now < lease.expires_at).cloned())
    }
}

fn current<'a>(
    leases: &'a mut HashMap<String, Lease>,
    lease: &Lease,
    now: DateTime<Utc>,
) -> Option<&'a mut Lease> {
    leases.get_mut(&lease.role).filter(|current| {
        current.holder == lease.holder && current.fence == lease.fence && now < current.expires_at
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Faulty, ManualClock, Subject};

    fn leader(clock: &ManualClock) -> MemoryLeader {
        MemoryLeader::new(Arc::new(clock.clone()))
    }

    async fn memory() -> Option<Subject<dyn Leader>> {
        let clock = ManualClock::new();
        Some(Subject::manual(Arc::new(leader(&clock)), clock))
    }

    crate::leader_contract!(memory());

    mod boxed {
        use super::*;

        async fn boxed() -> Option<Subject<dyn Leader>> {
            let clock = ManualClock::new();
            let inner: Box<dyn Leader> = Box::new(Faulty::new(leader(&clock)));
            Some(Subject::manual(Arc::new(inner), clock))
        }

        crate::leader_contract!(boxed());
    }

    mod in_real_time {
        use super::*;
        use crate::clock::SystemClock;

        async fn system() -> Option<Subject<dyn Leader>> {
            Some(Subject::real_time(Arc::new(MemoryLeader::new(Arc::new(SystemClock)))))
        }

        crate::leader_contract!(system());
    }
}
