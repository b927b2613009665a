//! Several sign-in providers, asked one after the other.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use pganalytics_core::auth::{Attempt, AuthError, AuthOutcome, AuthProvider, ProviderId};

const NAME: &str = "chain";

/// What happens when a provider cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// The attempt fails with its error: nobody gets in who would have been refused. The default.
    #[default]
    Stop,
    /// The next provider is asked, and what it accepts is accepted: local administrators get in while the directory is away.
    /// So does somebody whom the directory would refuse by now but a later provider still knows. A later refusal counts for
    /// nothing: the outcome is then the error, since the provider that is away might have accepted.
    Next,
}

/// An [`AuthProvider`] over others: the first that does not say [`AuthOutcome::NotMine`] decides.
///
/// A provider that refuses unknown users ends the chain for them; give it to the chain last, or let it pass them on
/// ([`UnknownUsers::PassOn`](crate::local::UnknownUsers)). [`AuthError::Busy`] always ends the chain: it passes within
/// seconds.
#[derive(Debug)]
pub struct ProviderChain {
    id: ProviderId,
    providers: Vec<Arc<dyn AuthProvider>>,
    on_outage: OnOutage,
}

impl ProviderChain {
    /// A chain of that name. Identities name the provider that accepted, never the chain.
    pub fn new(id: ProviderId, providers: Vec<Arc<dyn AuthProvider>>) -> Self {
        Self { id, providers, on_outage: OnOutage::default() }
    }

    /// Sets what happens when a provider cannot be asked.
    #[must_use]
    pub fn with_on_outage(self, on_outage: OnOutage) -> Self {
        Self { on_outage, ..self }
    }
}

#[async_trait]
impl AuthProvider for ProviderChain {
    fn name(&self) -> &'static str {
        NAME
    }

    fn id(&self) -> &ProviderId {
        &self.id
    }

    async fn attempt(&self, attempt: &Attempt) -> Result<AuthOutcome, AuthError> {
        let mut outage = None;
        for provider in &self.providers {
            match provider.attempt(attempt).await {
                Ok(AuthOutcome::NotMine) => {}
                Ok(AuthOutcome::Refused(refusal)) => {
                    return outage.map_or(Ok(AuthOutcome::Refused(refusal)), Err);
                }
                Err(error @ AuthError::Backend(_)) if self.on_outage == OnOutage::Next => {
                    tracing::warn!(
                        provider = %provider.id(),
                        error = &error as &dyn Error,
                        "sign-in provider cannot be asked, the next one is"
                    );
                    outage.get_or_insert(error);
                }
                decided => return decided,
            }
        }
        outage.map_or(Ok(AuthOutcome::NotMine), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use pganalytics_core::auth::{Identity, Refusal};
    use pganalytics_core::clock::Clock;
    use pganalytics_core::error::BackendError;
    use pganalytics_core::secret::SecretString;
    use pganalytics_core::testing::ManualClock;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Says {
        Accepted,
        Refused,
        NotMine,
        Outage,
        Busy,
    }

    #[derive(Debug)]
    struct Scripted {
        id: ProviderId,
        says: Says,
        asked: AtomicUsize,
    }

    #[async_trait]
    impl AuthProvider for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        fn id(&self) -> &ProviderId {
            &self.id
        }

        async fn attempt(&self, _: &Attempt) -> Result<AuthOutcome, AuthError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            match self.says {
                Says::Accepted => {
                    let identity = Identity::new(self.id.clone(), "1", "grace", ManualClock::new().now());
                    Ok(AuthOutcome::Accepted(Box::new(identity)))
                }
                Says::Refused => Ok(AuthOutcome::Refused(Refusal::Credentials)),
                Says::NotMine => Ok(AuthOutcome::NotMine),
                Says::Outage => Err(AuthError::Backend(BackendError::later("scripted", "away"))),
                Says::Busy => Err(AuthError::Busy),
            }
        }
    }

    /// The outcome in short, and how many providers were asked.
    async fn run(on_outage: OnOutage, script: &[Says]) -> (String, usize) {
        let providers: Vec<_> = script
            .iter()
            .enumerate()
            .map(|(index, says)| {
                let id = ProviderId(format!("provider-{index}"));
                Arc::new(Scripted { id, says: *says, asked: AtomicUsize::new(0) })
            })
            .collect();
        let chain = ProviderChain::new(
            ProviderId("all".into()),
            providers.iter().map(|provider| provider.clone() as Arc<dyn AuthProvider>).collect(),
        )
        .with_on_outage(on_outage);
        let attempt =
            Attempt::Password { username: "grace".into(), password: SecretString::new("correct horse") };
        let outcome = match chain.attempt(&attempt).await {
            Ok(AuthOutcome::Accepted(identity)) => format!("accepted by {}", identity.provider),
            Ok(AuthOutcome::Refused(_)) => "refused".into(),
            Ok(AuthOutcome::NotMine) => "not mine".into(),
            Ok(AuthOutcome::Continue(_)) => "continue".into(),
            Err(AuthError::Busy) => "busy".into(),
            Err(error) => error.to_string(),
        };
        (outcome, providers.iter().map(|provider| provider.asked.load(Ordering::Relaxed)).sum())
    }

    #[tokio::test]
    async fn the_first_that_does_not_pass_decides() {
        use Says::{Accepted, NotMine, Refused};
        for (script, outcome, asked) in [
            (&[][..], "not mine", 0),
            (&[NotMine, NotMine], "not mine", 2),
            (&[NotMine, Accepted, Refused], "accepted by provider-1", 2),
            (&[Refused, Accepted], "refused", 1),
            (&[Accepted, Refused], "accepted by provider-0", 1),
        ] {
            for on_outage in [OnOutage::Stop, OnOutage::Next] {
                assert_eq!(run(on_outage, script).await, (outcome.into(), asked), "{script:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_outage_does_not_fall_through_by_default() {
        use Says::{Accepted, NotMine, Outage};
        let away = "scripted could not answer";
        assert_eq!(run(OnOutage::Stop, &[Outage, Accepted]).await, (away.into(), 1));
        assert_eq!(run(OnOutage::Stop, &[NotMine, Outage, Accepted]).await, (away.into(), 2));
    }

    #[tokio::test]
    async fn an_outage_that_falls_through_never_becomes_a_refusal() {
        use Says::{Accepted, NotMine, Outage, Refused};
        let away = "scripted could not answer";
        for (script, outcome, asked) in [
            (&[Outage, Accepted][..], "accepted by provider-1", 2),
            (&[Outage, Refused, Accepted], away, 2),
            (&[Outage, NotMine], away, 2),
            (&[Outage, Outage], away, 2),
            (&[Refused, Outage], "refused", 1),
        ] {
            assert_eq!(run(OnOutage::Next, script).await, (outcome.into(), asked), "{script:?}");
        }
    }

    #[tokio::test]
    async fn a_busy_provider_ends_the_chain() {
        for on_outage in [OnOutage::Stop, OnOutage::Next] {
            assert_eq!(run(on_outage, &[Says::Busy, Says::Accepted]).await, ("busy".into(), 1));
        }
    }
}
