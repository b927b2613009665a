use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::UserId;
use pganalytics_core::random::OsRandom;
use pganalytics_core::refresh::{
    NewRefreshFamily, RefreshDigest, RefreshOutcome, RefreshSalt, RefreshSuccessor, ShownRefreshToken,
};
use pganalytics_core::revocation::Revoked;
use pganalytics_core::session::{NewSession, Session, SessionLifetimes, SessionStore};
use pganalytics_store::postgres::{Database, PostgresSessionStore, refresh_families, revocations};
use uuid::Uuid;

use crate::common::migrated;

const HOUR: Duration = Duration::from_secs(3600);
const FIRST: ShownRefreshToken =
    ShownRefreshToken { family: RefreshDigest([1; 32]), token: RefreshDigest([2; 32]) };

fn successor(number: u8) -> RefreshSuccessor {
    RefreshSuccessor { token: RefreshDigest([number; 32]), salt: RefreshSalt([number; 32]) }
}

fn sessions(database: &Database) -> PostgresSessionStore {
    PostgresSessionStore::new(database.clone(), Arc::new(SystemClock), Arc::new(OsRandom))
}

async fn begin(database: &Database) -> Session {
    let user = UserId(Uuid::from_u128(1));
    let new = NewSession::new(user, SessionLifetimes::new(HOUR, HOUR), "local");
    let (_, session) = sessions(database).create(new).await.unwrap();
    let family = NewRefreshFamily::new(FIRST, session.id, session.expires_at);
    let mut connection = database.read().await.unwrap();
    assert!(refresh_families::insert(&mut connection, &family, SystemClock.now()).await.unwrap());
    session
}

#[tokio::test]
async fn rotation_counts_with_the_commit_of_its_transaction() {
    let Some((_test, database)) = migrated().await else { return };
    begin(&database).await;
    for commit in [false, true] {
        let mut transaction = database.begin().await.unwrap();
        let outcome =
            refresh_families::rotate(&mut transaction, &FIRST, &successor(3), HOUR, SystemClock.now()).await;
        assert!(matches!(outcome, Ok(RefreshOutcome::Rotated(_))), "{outcome:?}");
        match commit {
            true => transaction.commit().await.unwrap(),
            false => transaction.rollback().await.unwrap(),
        }
    }
    let mut connection = database.read().await.unwrap();
    let again =
        refresh_families::rotate(&mut connection, &FIRST, &successor(4), HOUR, SystemClock.now()).await;
    let RefreshOutcome::Repeated { salt, .. } = again.unwrap() else { panic!("it was replaced") };
    assert_eq!(salt, successor(3).salt);
}

#[tokio::test]
async fn reuse_ends_family_and_session_in_one_commit_and_tells_it() {
    let Some((_test, database)) = migrated().await else { return };
    let session = begin(&database).await;
    let mut connection = database.read().await.unwrap();
    let mark = revocations::mark(&mut connection).await.unwrap();
    let stolen = ShownRefreshToken { token: RefreshDigest([9; 32]), ..FIRST };
    for commit in [false, true] {
        let mut transaction = database.begin().await.unwrap();
        let outcome =
            refresh_families::rotate(&mut transaction, &stolen, &successor(3), HOUR, SystemClock.now()).await;
        assert!(matches!(outcome, Ok(RefreshOutcome::Reused(_))), "{outcome:?}");
        assert!(sessions(&database).find(session.id).await.unwrap().is_some(), "not before the commit");
        match commit {
            true => transaction.commit().await.unwrap(),
            false => transaction.rollback().await.unwrap(),
        }
    }
    assert!(sessions(&database).find(session.id).await.unwrap().is_none());
    let since = revocations::since(&mut connection, &mark).await.unwrap();
    assert_eq!(since.revoked.unwrap(), [Revoked::Session(session.id)]);
    let outcome =
        refresh_families::rotate(&mut connection, &FIRST, &successor(3), HOUR, SystemClock.now()).await;
    assert!(matches!(outcome, Ok(RefreshOutcome::Revoked(_))), "{outcome:?}");
}
