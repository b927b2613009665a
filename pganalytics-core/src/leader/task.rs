use std::time::Duration;

use pganalytics_core::ids::InstanceId;
use pganalytics_core::leader::{Leader, Lease};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};

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
    /// stopped may be late for that, so a job gets the lease, to prove it where its work counts
    /// ([`super::PostgresLeader::confirm`]).
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
