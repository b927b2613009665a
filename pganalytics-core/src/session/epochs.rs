use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::clock::Clock;
use crate::ids::UserId;
use crate::session::{Epoch, SessionError, SessionId};

/// What a session store whose own backend may lose acknowledged writes must not lose: who was revoked.
///
/// Epochs survive whatever the sessions do not.
///
/// # Contract
/// 1. `an_unknown_user_is_in_epoch_zero`: `epoch` of a user who was never revoked is `Epoch(0)`, whoever else was.
/// 2. `a_raised_epoch_is_seen_at_once`: `raise` yields the next epoch, and no later `epoch` an older one.
/// 3. `concurrent_raises_count_each`: none of them is lost, and no two yield the same epoch.
/// 4. `raised_epochs_are_paged_in_order`: `raised_since` yields all users whose epoch was raised at that time or later, once
///    each with the latest epoch, ordered by time and user; continued with the last one's time and user it leaves out none.
/// 5. `any_session_is_announced`: `announce` takes a session that it has never heard of, and the same one again.
#[async_trait]
pub trait SessionEpochs: Debug + Send + Sync + 'static {
    /// A short name for logs.
    fn name(&self) -> &'static str;

    /// The user's epoch, `Epoch(0)` of an unknown user.
    async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError>;

    /// Raises the user's epoch in one write, and yields the new one.
    async fn raise(&self, user: UserId) -> Result<Epoch, SessionError>;

    /// Up to `limit` epochs that were raised at that time or later, ordered by it and by the user. With `after`, of those
    /// raised at that very time only the epochs of later users.
    async fn raised_since(
        &self,
        since: DateTime<Utc>,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<RaisedEpoch>, SessionError>;

    /// Has every server forget what it remembers of a session.
    async fn announce(&self, changed: SessionId) -> Result<(), SessionError>;
}

macro_rules! forward_session_epochs {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<E: SessionEpochs + ?Sized> SessionEpochs for $pointer<E> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError> {
                (**self).epoch(user).await
            }

            async fn raise(&self, user: UserId) -> Result<Epoch, SessionError> {
                (**self).raise(user).await
            }

            async fn raised_since(
                &self,
                since: DateTime<Utc>,
                after: Option<UserId>,
                limit: u32,
            ) -> Result<Vec<RaisedEpoch>, SessionError> {
                (**self).raised_since(since, after, limit).await
            }

            async fn announce(&self, changed: SessionId) -> Result<(), SessionError> {
                (**self).announce(changed).await
            }
        }
    };
}
forward_session_epochs!(Arc);
forward_session_epochs!(Box);

/// An epoch, and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaisedEpoch {
    /// Whose it is.
    pub user: UserId,
    /// The epoch.
    pub epoch: Epoch,
    /// When it was raised.
    pub at: DateTime<Utc>,
}

/// Epochs in this process, for tests: a restart forgets them. There is no other server to announce anything to.
#[derive(Debug)]
pub struct MemorySessionEpochs {
    epochs: Mutex<HashMap<UserId, RaisedEpoch>>,
    clock: Arc<dyn Clock>,
}

impl MemorySessionEpochs {
    /// Nobody was revoked.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { epochs: Mutex::default(), clock }
    }
}

#[async_trait]
impl SessionEpochs for MemorySessionEpochs {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError> {
        let epochs = self.epochs.lock().expect("no holder panics");
        Ok(epochs.get(&user).map(|raised| raised.epoch).unwrap_or_default())
    }

    async fn raise(&self, user: UserId) -> Result<Epoch, SessionError> {
        let at = self.clock.now();
        let mut epochs = self.epochs.lock().expect("no holder panics");
        let raised = epochs.entry(user).or_insert(RaisedEpoch { user, epoch: Epoch::default(), at });
        raised.epoch.0 += 1;
        raised.at = at;
        Ok(raised.epoch)
    }

    async fn raised_since(
        &self,
        since: DateTime<Utc>,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<RaisedEpoch>, SessionError> {
        let epochs = self.epochs.lock().expect("no holder panics");
        let later = |raised: &&RaisedEpoch| match raised.at == since {
            true => after.is_none_or(|after| raised.user > after),
            false => raised.at > since,
        };
        let mut raised: Vec<_> = epochs.values().filter(later).copied().collect();
        raised.sort_by_key(|raised| (raised.at, raised.user));
        raised.truncate(limit as usize);
        Ok(raised)
    }

    async fn announce(&self, _: SessionId) -> Result<(), SessionError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ManualClock, Subject};

    async fn boxed() -> Option<Subject<dyn SessionEpochs>> {
        let clock = ManualClock::new();
        let epochs: Box<dyn SessionEpochs> = Box::new(MemorySessionEpochs::new(Arc::new(clock.clone())));
        Some(Subject::manual(Arc::new(epochs), clock))
    }

    crate::session_epochs_contract!(boxed());
}
