use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use metrics::{counter, gauge};
use pganalytics_core::random::{Random, RandomExt};
use tokio::time::Instant;

use super::config::RedisBreaker;

/// Lets calls through while Redis works, and one at a time to see whether it works again.
#[derive(Debug)]
pub(super) struct Breaker {
    config: RedisBreaker,
    random: Arc<dyn Random>,
    state: Mutex<State>,
    /// Whether the state is any other than the usual one, in which calls take no lock.
    troubled: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    Probing { pause: Duration },
}

/// A call that was let through. One whose outcome nobody learns is as if it had not been.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
    settled: bool,
}

impl Breaker {
    pub(super) fn new(config: RedisBreaker, random: Arc<dyn Random>) -> Self {
        Self {
            config,
            random,
            state: Mutex::new(State::Closed { failures: 0 }),
            troubled: AtomicBool::new(false),
        }
    }

    /// Lets a call through, or says how long it will be until one is.
    pub(super) fn admit(&self) -> Result<Permit<'_>, Duration> {
        if !self.troubled.load(Ordering::Acquire) {
            return Ok(Permit { breaker: self, probe: false, settled: false });
        }
        let mut state = self.lock();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until, pause } => {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    return Err(left);
                }
                self.change(&mut state, State::Probing { pause });
                true
            }
            State::Probing { pause } => return Err(pause),
        };
        Ok(Permit { breaker: self, probe, settled: false })
    }

    fn open(&self, state: &mut State, pause: Duration) {
        let pause = pause.min(self.config.max_pause);
        let wait = pause.mul_f64(1.0 - self.random.next_fraction() / 2.0);
        self.change(state, State::Open { until: Instant::now() + wait, pause });
        counter!("pganalytics_redis_breaker_opened_total").increment(1);
        gauge!("pganalytics_redis_breaker_open").set(1.0);
        tracing::warn!(pause = ?wait, "redis does not work and is left alone");
    }

    fn change(&self, state: &mut State, to: State) {
        *state = to;
        self.troubled.store(to != State::Closed { failures: 0 }, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl Permit<'_> {
    pub(super) fn succeeded(mut self) {
        self.settled = true;
        if !self.breaker.troubled.load(Ordering::Acquire) {
            return;
        }
        let closed = State::Closed { failures: 0 };
        let mut state = self.breaker.lock();
        match *state {
            State::Closed { .. } => self.breaker.change(&mut state, closed),
            // A reply to a call from before it opened proves nothing.
            _ if !self.probe => {}
            _ => {
                self.breaker.change(&mut state, closed);
                gauge!("pganalytics_redis_breaker_open").set(0.0);
                tracing::info!("redis works again");
            }
        }
    }

    /// Opens at once when the failure is `decisive`. Whether it has opened.
    pub(super) fn failed(mut self, decisive: bool) -> bool {
        self.settled = true;
        let mut state = self.breaker.lock();
        match *state {
            State::Closed { failures } if decisive || failures + 1 >= self.breaker.config.failures => {
                self.breaker.open(&mut state, self.breaker.config.pause);
                true
            }
            State::Closed { failures } => {
                self.breaker.change(&mut state, State::Closed { failures: failures + 1 });
                false
            }
            State::Probing { pause } if self.probe => {
                self.breaker.open(&mut state, pause * 2);
                true
            }
            _ => false,
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            let mut state = self.breaker.lock();
            if let State::Probing { pause } = *state {
                self.breaker.change(&mut state, State::Open { until: Instant::now(), pause });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pganalytics_core::testing::SeededRandom;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        let config = RedisBreaker::default().with_failures(3).with_pauses(PAUSE, PAUSE * 3);
        Breaker::new(config, Arc::new(SeededRandom::new(1)))
    }

    async fn open(breaker: &Breaker) -> Duration {
        let left = breaker.admit().unwrap_err();
        tokio::time::advance(left).await;
        left
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it() {
        let breaker = breaker();
        for outcome in [false, false, true, false, false] {
            let permit = breaker.admit().unwrap();
            if outcome {
                permit.succeeded();
            } else {
                assert!(!permit.failed(false));
            }
        }
        assert!(breaker.admit().unwrap().failed(false));
        assert!(breaker.admit().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_decisive_failure_opens_it() {
        let breaker = breaker();
        assert!(breaker.admit().unwrap().failed(true));
        assert!(breaker.admit().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_at_a_time_probes_and_the_pauses_grow() {
        let breaker = breaker();
        assert!(breaker.admit().unwrap().failed(true));
        for longest in [PAUSE, PAUSE * 2, PAUSE * 3, PAUSE * 3] {
            let waited = open(&breaker).await;
            assert!((longest / 2..=longest).contains(&waited), "{waited:?} of {longest:?}");
            let probe = breaker.admit().unwrap();
            assert!(breaker.admit().is_err(), "a second call while one probes");
            assert!(probe.failed(false));
        }
        open(&breaker).await;
        breaker.admit().unwrap().succeeded();
        breaker.admit().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_probe_leaves_the_next_call_to_probe() {
        let breaker = breaker();
        assert!(breaker.admit().unwrap().failed(true));
        open(&breaker).await;
        drop(breaker.admit().unwrap());
        breaker.admit().unwrap().succeeded();
        breaker.admit().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn late_reply_from_before_does_not_close_it() {
        let breaker = breaker();
        let early = breaker.admit().unwrap();
        assert!(breaker.admit().unwrap().failed(true));
        early.succeeded();
        assert!(breaker.admit().is_err());
    }
}
