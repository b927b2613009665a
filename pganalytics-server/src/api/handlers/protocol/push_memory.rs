use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::api::ApiError;

/// How long a push waits for others to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// When a push that waited in vain is to come back. Collectors that were started together push together.
const RETRY_AFTER_SECONDS: u32 = 10;

/// Permits are counted in KiB, since a semaphore gives out 2^32 of them at once at the most.
const UNIT: u64 = 1024;

/// How many large pushes are read and stored at a time. Each takes a thread and, nearly all of the time, a connection
/// to the database.
const LARGE_AT_A_TIME: usize = 16;

/// How much memory, and how many threads, the pushes in progress may take together. Further ones wait, for a while.
#[derive(Debug)]
pub struct PushMemory {
    permits: Arc<Semaphore>,
    all: u32,
    threads: Arc<Semaphore>,
    patience: Duration,
}

/// What was set aside for a push; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    _permits: OwnedSemaphorePermit,
}

impl PushMemory {
    /// Room for as many bytes.
    pub fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        // The semaphore's own limit is far beyond 2^32 where there are 64 bits.
        let permits = Arc::new(Semaphore::new(all as usize));
        let threads = Arc::new(Semaphore::new(LARGE_AT_A_TIME));
        Self { permits, all, threads, patience: PATIENCE }
    }

    /// Sets memory aside. A push that is larger than all there is gets all.
    ///
    /// # Errors
    /// 503 when there is not enough within ten seconds.
    pub(super) async fn reserve(&self, bytes: usize) -> Result<Reservation, ApiError> {
        let units = u32::try_from((bytes as u64).div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.all);
        self.wait_for(Arc::clone(&self.permits).acquire_many_owned(units)).await
    }

    /// Sets a thread aside.
    ///
    /// # Errors
    /// 503 when there is none within ten seconds.
    pub(super) async fn reserve_thread(&self) -> Result<Reservation, ApiError> {
        self.wait_for(Arc::clone(&self.threads).acquire_owned()).await
    }

    async fn wait_for(
        &self,
        acquired: impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>>,
    ) -> Result<Reservation, ApiError> {
        match tokio::time::timeout(self.patience, acquired).await {
            Ok(Ok(permits)) => Ok(Reservation { _permits: permits }),
            Ok(Err(closed)) => Err(ApiError::internal(closed)),
            Err(elapsed) => {
                metrics::counter!("pganalytics_pushes_deferred_total").increment(1);
                Err(ApiError::unavailable(elapsed).retry_after(RETRY_AFTER_SECONDS))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_push_waits_for_memory() {
        let memory = PushMemory::new(10 * UNIT);
        let first = memory.reserve(8 * 1024).await.unwrap();
        let mut second = std::pin::pin!(memory.reserve(3 * 1024));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_push_does_not_wait_for_ever() {
        let memory = PushMemory { patience: Duration::from_millis(1), ..PushMemory::new(10 * UNIT) };
        let _first = memory.reserve(8 * 1024).await.unwrap();
        assert_eq!(memory.reserve(3 * 1024).await.unwrap_err().status(), 503);
        let mut threads = Vec::new();
        for _ in 0..LARGE_AT_A_TIME {
            threads.push(memory.reserve_thread().await.unwrap());
        }
        assert_eq!(memory.reserve_thread().await.unwrap_err().status(), 503);
    }

    #[tokio::test]
    async fn a_push_larger_than_all_memory_gets_all_of_it() {
        let memory = PushMemory::new(10 * UNIT);
        memory.reserve(usize::MAX).await.unwrap();
        assert_eq!(memory.permits.available_permits(), 10);
    }
}
