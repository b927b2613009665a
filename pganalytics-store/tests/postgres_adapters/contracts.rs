//! The adapters against the contracts of their ports.

use std::sync::Arc;

use pganalytics_core::testing::{ManualClock, Subject};

use crate::common::migrated;

mod session_store {
    use pganalytics_core::random::OsRandom;
    use pganalytics_core::session::SessionStore;
    use pganalytics_store::postgres::PostgresSessionStore;

    use super::*;

    async fn postgres() -> Option<Subject<dyn SessionStore>> {
        let (test, database) = migrated().await?;
        let clock = ManualClock::new();
        let store = PostgresSessionStore::new(database, Arc::new(clock.clone()), Arc::new(OsRandom));
        Some(Subject::<dyn SessionStore>::manual(Arc::new(store), clock).keeping(test))
    }

    pganalytics_core::session_contract!(postgres());
}

mod session_epochs {
    use pganalytics_core::session::SessionEpochs;
    use pganalytics_store::postgres::PostgresSessionEpochs;

    use super::*;

    async fn postgres() -> Option<Subject<dyn SessionEpochs>> {
        let (test, database) = migrated().await?;
        let clock = ManualClock::new();
        let epochs = PostgresSessionEpochs::new(database, Arc::new(clock.clone()));
        Some(Subject::<dyn SessionEpochs>::manual(Arc::new(epochs), clock).keeping(test))
    }

    pganalytics_core::session_epochs_contract!(postgres());
}

mod one_time_store {
    use pganalytics_core::one_time::OneTimeStore;
    use pganalytics_store::postgres::PostgresOneTimeStore;

    use super::*;

    async fn postgres() -> Option<Subject<dyn OneTimeStore>> {
        let (test, database) = migrated().await?;
        let clock = ManualClock::new();
        let store = PostgresOneTimeStore::new(database, Arc::new(clock.clone()));
        Some(Subject::<dyn OneTimeStore>::manual(Arc::new(store), clock).keeping(test))
    }

    pganalytics_core::one_time_contract!(postgres());
}

mod refresh_token_store {
    use pganalytics_core::refresh::RefreshTokenStore;
    use pganalytics_store::postgres::PostgresRefreshTokenStore;

    use super::*;

    async fn postgres() -> Option<Subject<dyn RefreshTokenStore>> {
        let (test, database) = migrated().await?;
        let clock = ManualClock::new();
        let store = PostgresRefreshTokenStore::new(database, Arc::new(clock.clone()));
        Some(Subject::<dyn RefreshTokenStore>::manual(Arc::new(store), clock).keeping(test))
    }

    pganalytics_core::refresh_token_store_contract!(postgres());
}

mod leader {
    use pganalytics_core::leader::Leader;
    use pganalytics_store::postgres::PostgresLeader;

    use super::*;

    async fn postgres() -> Option<Subject<dyn Leader>> {
        let (test, database) = migrated().await?;
        Some(Subject::<dyn Leader>::real_time(Arc::new(PostgresLeader::new(database))).keeping(test))
    }

    pganalytics_core::leader_contract!(postgres());
}

mod idempotency_store {
    use pganalytics_core::idempotency::IdempotencyStore;
    use pganalytics_store::postgres::{PostgresIdempotency, UnitOfWorkLimits};

    use super::*;

    async fn postgres() -> Option<Subject<dyn IdempotencyStore>> {
        let (test, database) = migrated().await?;
        let store = PostgresIdempotency::new(database, UnitOfWorkLimits::default());
        Some(Subject::<dyn IdempotencyStore>::real_time(Arc::new(store)).keeping(test))
    }

    pganalytics_core::idempotency_contract!(postgres());
}

mod notifier {
    use pganalytics_core::notifier::Notifier;
    use pganalytics_store::postgres::{PostgresNotifier, PostgresNotifierConfig};

    use super::*;

    async fn postgres() -> Option<Subject<dyn Notifier>> {
        let (test, database) = migrated().await?;
        let notifier = PostgresNotifier::new(database, PostgresNotifierConfig::default());
        Some(Subject::<dyn Notifier>::real_time(Arc::new(notifier)).keeping(test))
    }

    pganalytics_core::notifier_contract!(postgres());
}
