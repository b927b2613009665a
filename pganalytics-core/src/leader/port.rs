use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::{BackendError, port_error};
use crate::ids::InstanceId;

/// The longest name of a role, in bytes.
pub const ROLE_MAX_BYTES: usize = 100;

/// Gives a role to one holder at a time, for a limited time.
///
/// A holder that was stopped (SIGSTOP, a paused machine) may still believe in its lease after it ended. Whatever must not
/// be done by two therefore carries the lease's [`Fence`], and is refused where a higher one was seen.
///
/// # Contract
/// 1. `one_of_many_acquires`: of any number of concurrent `acquire` calls for a free role exactly one gets a lease.
/// 2. `a_held_role_is_not_given_away`: while a lease lasts, `acquire` by another holder is `None`.
/// 3. `acquiring_again_renews`: `acquire` by the holder yields its lease with the same fence and a new end.
/// 4. `an_ended_lease_is_given_to_another`: after its end anybody may acquire the role.
/// 5. `fences_grow`: each new holding of a role has a higher fence than all before, also after a release and a restart, and also
///    for the holder whose own lease ended.
/// 6. `renewing_moves_the_end`: `renew` of a lease that lasts yields it with a new end; of one that ended or was taken over, `None`.
/// 7. `a_released_role_is_free_at_once`: `release` by its holder frees it; by anybody else, or with the lease of a former
///    holding, it changes nothing.
/// 8. `roles_are_independent`: leases of different roles do not touch each other.
/// 9. `the_holder_is_known`: `holder` names who holds the role, `None` when nobody does.
/// 10. `an_invalid_role_is_refused`: a role has 1 to [`ROLE_MAX_BYTES`] of printable ASCII, else it is `InvalidRole`.
///
/// Ends are measured by the backend's clock, not the caller's.
#[async_trait]
pub trait Leader: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Acquires a role for `ttl`, or renews it for its holder.
    async fn acquire(
        &self,
        role: &str,
        holder: InstanceId,
        ttl: Duration,
    ) -> Result<Option<Lease>, LeaderError>;

    /// Moves the end of a lease.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Option<Lease>, LeaderError>;

    /// Gives a role up.
    async fn release(&self, lease: &Lease) -> Result<(), LeaderError>;

    /// Who holds the role now.
    async fn holder(&self, role: &str) -> Result<Option<Lease>, LeaderError>;
}

/// The number of a holding; grows with each one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub i64);

/// A holding.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// What is held.
    pub role: String,
    /// By whom.
    pub holder: InstanceId,
    /// The number of the holding.
    pub fence: Fence,
    /// When it ends, by the backend's clock.
    pub expires_at: DateTime<Utc>,
}

impl Lease {
    /// All parts. For adapters.
    pub fn new(role: impl Into<String>, holder: InstanceId, fence: Fence, expires_at: DateTime<Utc>) -> Self {
        Self { role: role.into(), holder, fence, expires_at }
    }
}

/// Why it could not be said who leads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaderError {
    /// The role's name breaks the rules: 1 to 100 printable ASCII characters.
    #[error("{role:?} is no role: 1 to 100 printable ASCII characters")]
    InvalidRole {
        /// The name.
        role: String,
    },
    /// The backend could not answer. The caller must take its lease for lost when its end comes.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(LeaderError);

/// The check of clause 10, for adapters.
///
/// # Errors
/// `InvalidRole`.
pub fn check_role(role: &str) -> Result<(), LeaderError> {
    let printable = role.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if role.is_empty() || role.len() > ROLE_MAX_BYTES || !printable {
        return Err(LeaderError::InvalidRole { role: role.into() });
    }
    Ok(())
}

macro_rules! forward_leader {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<L: Leader + ?Sized> Leader for $pointer<L> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn acquire(
                &self,
                role: &str,
                holder: InstanceId,
                ttl: Duration,
            ) -> Result<Option<Lease>, LeaderError> {
                (**self).acquire(role, holder, ttl).await
            }

            async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Option<Lease>, LeaderError> {
                (**self).renew(lease, ttl).await
            }

            async fn release(&self, lease: &Lease) -> Result<(), LeaderError> {
                (**self).release(lease).await
            }

            async fn holder(&self, role: &str) -> Result<Option<Lease>, LeaderError> {
                (**self).holder(role).await
            }
        }
    };
}
forward_leader!(Arc);
forward_leader!(Box);
