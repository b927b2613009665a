use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};

use super::{Leader, Lease};
use crate::ids::InstanceId;

/// A job that one of all servers runs, again and again.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LeaderTask<'a> {
    /// The role whose holder runs the job.
    pub role: &'a str,
    /// Who asks for it.
    pub instance: InstanceId,
    /// How long a lease lasts: the time until another server takes over from one that died. It is renewed three
    /// times as often.
    pub ttl: Duration,
    /// How long after the beginning of a run the next one begins.
    pub period: Duration,
}

impl<'a> LeaderTask<'a> {
    /// All parts.
    pub fn new(role: &'a str, instance: InstanceId, ttl: Duration, period: Duration) -> Self {
        Self { role, instance, ttl, period }
    }

    /// Waits for the role, runs the job every [`LeaderTask::period`] while it is held, and waits for it again when it
    /// was lost. Ends with `stop`, giving the role up.
    ///
    /// A run is dropped where it stands when the lease could not be renewed in time, or at `stop`. A process that was
    /// stopped may be late for that, so a job gets the lease, to prove its fence where its work counts.
    pub async fn run<J, F>(&self, leader: &dyn Leader, stop: impl Future<Output = ()>, job: J)
    where
        J: Fn(Lease) -> F,
        F: Future<Output = ()>,
    {
        let mut held = None;
        tokio::select! {
            () = stop => {}
            () = self.lead_for_ever(leader, &mut held, job) => {}
        }
        if let Some(lease) = held
            && let Err(error) = leader.release(&lease).await
        {
            tracing::warn!(role = self.role, %error, "the role is not given up, and ends with its lease");
        }
    }

    async fn lead_for_ever<J, F>(&self, leader: &dyn Leader, held: &mut Option<Lease>, job: J)
    where
        J: Fn(Lease) -> F,
        F: Future<Output = ()>,
    {
        loop {
            // Counted from before the question, so that it ends here no later than there.
            let asked = Instant::now();
            match leader.acquire(self.role, self.instance, self.ttl).await {
                Ok(Some(lease)) => {
                    tracing::info!(role = self.role, fence = lease.fence.0, "this server leads");
                    *held = Some(lease.clone());
                    tokio::select! {
                        () = self.repeat(&lease, &job) => {}
                        () = self.keep(leader, &lease, asked + self.ttl) => {}
                    }
                    *held = None;
                    tracing::warn!(role = self.role, fence = lease.fence.0, "this server leads no more");
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(role = self.role, %error, "who leads is unknown"),
            }
            sleep(self.ttl / 3).await;
        }
    }

    async fn repeat<J, F>(&self, lease: &Lease, job: &J)
    where
        J: Fn(Lease) -> F,
        F: Future<Output = ()>,
    {
        let mut ticks = interval(self.period.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            job(lease.clone()).await;
        }
    }

    /// Returns when the lease is lost, or has ended as far as this process can tell.
    async fn keep(&self, leader: &dyn Leader, lease: &Lease, mut end: Instant) {
        while Instant::now() < end {
            sleep_until((Instant::now() + self.ttl / 3).min(end)).await;
            let asked = Instant::now();
            match timeout_at(end, leader.renew(lease, self.ttl)).await {
                Ok(Ok(Some(_))) => end = asked + self.ttl,
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => tracing::warn!(role = self.role, %error, "the lease is not renewed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;
    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;
    use crate::clock::SystemClock;
    use crate::leader::MemoryLeader;
    use crate::testing::{Fault, Faulty, ManualClock};

    const ANNA: InstanceId = InstanceId(Uuid::from_u128(1));
    const BELA: InstanceId = InstanceId(Uuid::from_u128(2));
    const ROLE: &str = "job";
    const TTL: Duration = Duration::from_secs(9);
    const PERIOD: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(3600);

    fn task(instance: InstanceId) -> LeaderTask<'static> {
        LeaderTask::new(ROLE, instance, TTL, PERIOD)
    }

    /// Counts those of its clones that were dropped.
    #[derive(Clone)]
    struct Dropped(Arc<AtomicU32>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn until(condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                sleep(PERIOD).await;
            }
        };
        timeout(LONG, waiting).await.expect("it comes true in time");
    }

    #[tokio::test(start_paused = true)]
    async fn stopped_task_gives_the_role_up() {
        let leader = MemoryLeader::new(Arc::new(SystemClock));
        let runs = AtomicU32::new(0);
        let job = |_| {
            runs.fetch_add(1, Ordering::SeqCst);
            async {}
        };
        task(ANNA).run(&leader, until(|| runs.load(Ordering::SeqCst) >= 3), job).await;
        assert_eq!(leader.holder(ROLE).await.unwrap(), None);
        assert!(leader.acquire(ROLE, BELA, TTL).await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn second_task_runs_the_job_only_after_the_first_was_stopped() {
        let leader = Arc::new(MemoryLeader::new(Arc::new(SystemClock)));
        let [of_anna, of_bela] = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
        let (stop, stopped) = oneshot::channel::<()>();
        let anna = tokio::spawn({
            let (leader, runs) = (Arc::clone(&leader), Arc::clone(&of_anna));
            async move {
                let job = |lease: Lease| {
                    assert_eq!((lease.holder, lease.fence.0), (ANNA, 1));
                    runs.fetch_add(1, Ordering::SeqCst);
                    async {}
                };
                task(ANNA).run(leader.as_ref(), async { drop(stopped.await) }, job).await;
            }
        });
        until(|| of_anna.load(Ordering::SeqCst) > 0).await;
        let bela = tokio::spawn({
            let (leader, runs) = (Arc::clone(&leader), Arc::clone(&of_bela));
            async move {
                let enough = until(|| runs.load(Ordering::SeqCst) >= 3);
                let job = |lease: Lease| {
                    assert_eq!((lease.holder, lease.fence.0), (BELA, 2));
                    runs.fetch_add(1, Ordering::SeqCst);
                    async {}
                };
                task(BELA).run(leader.as_ref(), enough, job).await;
            }
        });
        // Far longer than a lease: the first one renews it.
        until(|| of_anna.load(Ordering::SeqCst) > 200).await;
        assert_eq!(of_bela.load(Ordering::SeqCst), 0);
        stop.send(()).unwrap();
        anna.await.unwrap();
        let last = of_anna.load(Ordering::SeqCst);
        bela.await.unwrap();
        assert_eq!(of_anna.load(Ordering::SeqCst), last);
    }

    #[tokio::test(start_paused = true)]
    async fn job_is_dropped_when_its_lease_cannot_be_renewed() {
        let leader = Faulty::new(MemoryLeader::new(Arc::new(SystemClock)));
        // It is acquired and renewed once. Then nobody answers for longer than the lease lasts.
        leader.plan([Fault::None, Fault::None, Fault::Delay(LONG)]);
        let dropped = Dropped(Arc::new(AtomicU32::new(0)));
        let job = |_| {
            let running = dropped.clone();
            async move {
                let _running = running;
                std::future::pending().await
            }
        };
        let since = Instant::now();
        task(ANNA).run(&leader, until(|| dropped.0.load(Ordering::SeqCst) > 0), job).await;
        let elapsed = since.elapsed();
        assert!(elapsed >= TTL + TTL / 3, "the first renewal counted: {elapsed:?}");
        assert!(elapsed < TTL * 2, "the job outlived its lease: {elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_renewal_is_tried_again_while_the_lease_lasts() {
        let leader = Faulty::new(MemoryLeader::new(Arc::new(SystemClock)));
        leader.plan([Fault::None, Fault::Fail, Fault::LoseReply]);
        let dropped = Dropped(Arc::new(AtomicU32::new(0)));
        let job = |_| {
            let running = dropped.clone();
            async move {
                let _running = running;
                std::future::pending().await
            }
        };
        let stop = async {
            sleep(TTL * 5).await;
            assert_eq!(dropped.0.load(Ordering::SeqCst), 0, "the third renewal came in time");
        };
        task(ANNA).run(&leader, stop, job).await;
    }

    #[tokio::test(start_paused = true)]
    async fn job_is_dropped_when_somebody_else_holds_the_role_and_begins_anew_after_that() {
        let clock = ManualClock::new();
        let leader = MemoryLeader::new(Arc::new(clock.clone()));
        let fences = std::sync::Mutex::new(Vec::new());
        let job = |lease: Lease| {
            fences.lock().unwrap().push(lease.fence.0);
            async { std::future::pending().await }
        };
        let stop = async {
            until(|| *fences.lock().unwrap() == [1]).await;
            clock.advance(TTL);
            let taken = leader.acquire(ROLE, BELA, TTL).await.unwrap().expect("the lease is over");
            sleep(TTL * 2).await;
            assert_eq!(*fences.lock().unwrap(), [1]);
            leader.release(&taken).await.unwrap();
            until(|| *fences.lock().unwrap() == [1, 3]).await;
        };
        task(ANNA).run(&leader, stop, job).await;
    }
}
