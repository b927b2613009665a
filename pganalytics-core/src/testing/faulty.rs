mod backup;
mod cache;
mod idempotency;
mod leader;
mod notifier;
mod one_time;
mod ports;
mod refresh;
mod session;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::error::{BackendError, PortError};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the call goes through.
    None,
    /// The call fails before it has an effect.
    Fail,
    /// The call has its effect, and the reply is lost.
    LoseReply,
    /// The call is delayed, then goes through.
    Delay(Duration),
}

/// Wraps a port and does to its calls, in order, what it was told to; calls beyond that go through.
///
/// It implements the port that it wraps, for every port of this crate. What a port hands out to be called later (a
/// claim, an upload) follows the same plan. Clones share the plan.
#[derive(Clone, Debug)]
pub struct Faulty<P> {
    inner: P,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    faults: VecDeque<Fault>,
    calls: usize,
}

impl<P: Debug> Faulty<P> {
    /// Wraps a port; every call goes through until faults are planned.
    pub fn new(inner: P) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// Plans faults for the next calls.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    /// The wrapped port.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The same plan around something else, which the wrapped port handed out.
    pub(crate) fn around<Q>(&self, inner: Q) -> Faulty<Q> {
        Faulty { inner, plan: Arc::clone(&self.plan) }
    }

    pub(crate) async fn apply<T, E: PortError>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let fault = {
            let mut plan = self.lock();
            plan.calls += 1;
            plan.faults.pop_front().unwrap_or(Fault::None)
        };
        match fault {
            Fault::None => call.await,
            Fault::Fail => Err(E::from_backend(BackendError::later("faulty", "failed as planned"))),
            Fault::LoseReply => {
                call.await?;
                Err(E::from_backend(BackendError::later("faulty", "reply lost as planned")))
            }
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                call.await
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().expect("no holder panics")
    }
}
