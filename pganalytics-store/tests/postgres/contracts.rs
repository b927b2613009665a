//! The stores that this crate puts behind ports of the core, against the ports' contracts.

use std::sync::Arc;

use chrono::DateTime;
use pganalytics_core::signing::{NewSigningKey, PublicKey, SignatureAlgorithm, SigningKeyStore};
use pganalytics_core::testing::token_store::TokenStoreFixture;
use pganalytics_core::testing::{ManualClock, Subject};
use pganalytics_core::tokens::TokenStore;
use pganalytics_core::users::UserStore;
use pganalytics_store::postgres::{PostgresSigningKeyStore, PostgresTokenStore, PostgresUserStore};

use crate::common::migrated;
use crate::samples::{create_user, new_user};
use crate::sealing::sealer;

mod user_store {
    use super::*;

    async fn postgres() -> Option<Subject<dyn UserStore>> {
        let (test, database) = migrated().await?;
        let clock = ManualClock::new();
        let store: Arc<dyn UserStore> =
            Arc::new(PostgresUserStore::new(database, sealer().await, Arc::new(clock.clone())));
        Some(Subject::manual(store, clock).keeping(test))
    }

    pganalytics_core::user_store_contract!(postgres());
}

mod token_store {
    use super::*;

    async fn postgres() -> Option<TokenStoreFixture> {
        let (test, database) = migrated().await?;
        let clock = ManualClock::new();
        let mut owners = Vec::new();
        for (number, name) in [(1, "owner"), (2, "stranger")] {
            let mut connection = database.write().await.unwrap();
            owners.push(create_user(&mut connection, &new_user(number, name)).await.unwrap().id);
            connection.commit().await.unwrap();
        }
        let store: Arc<dyn TokenStore> =
            Arc::new(PostgresTokenStore::new(database, sealer().await, Arc::new(clock.clone())));
        let subject = Subject::manual(store, clock).keeping(test);
        Some(TokenStoreFixture::new(subject, [owners[0], owners[1]]))
    }

    pganalytics_core::token_store_contract!(postgres());
}

mod signing_key_store {
    use super::*;

    async fn postgres() -> Option<Subject<dyn SigningKeyStore>> {
        let (test, database) = migrated().await?;
        let store: Arc<dyn SigningKeyStore> = Arc::new(PostgresSigningKeyStore::new(database));
        Some(Subject::manual(store, ManualClock::new()).keeping(test))
    }

    pganalytics_core::signing_key_store_contract!(postgres());

    /// Beside keys of another use, which are none of its business.
    mod of_another_use {
        use super::*;

        async fn postgres() -> Option<Subject<dyn SigningKeyStore>> {
            let (test, database) = migrated().await?;
            let of_tokens = PostgresSigningKeyStore::new(database);
            let public = PublicKey {
                id: "token-key".parse().unwrap(),
                algorithm: SignatureAlgorithm::Ed25519,
                bytes: vec![7; 32],
            };
            let key = NewSigningKey::new(public, vec![7; 48].into(), DateTime::UNIX_EPOCH);
            assert!(of_tokens.insert_first(&key).await.unwrap());
            let store: Arc<dyn SigningKeyStore> = Arc::new(of_tokens.used_for("audit-log"));
            Some(Subject::manual(store, ManualClock::new()).keeping(test))
        }

        pganalytics_core::signing_key_store_contract!(postgres());
    }
}
