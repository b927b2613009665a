use std::sync::Arc;

use bytes::Bytes;
use pganalytics_core::audit::{Actor, AuditEvent};
use pganalytics_core::keys::{
    DataKeyId, DataKeyStore, DataKeyVersion, DataKeyWrapping, NewDataKey, WrappedKey,
};
use pganalytics_core::random::OsRandom;
use pganalytics_core::testing::{ManualClock, Subject};
use pganalytics_store::postgres::audit_log::{self, AuditFilter};
use pganalytics_store::postgres::{Database, MigrateError, Migrator, PostgresDataKeyStore};

use crate::common::migrated;
use crate::samples::at;

const SECRET: &[u8] = b"wrapped bytes that are easy to recognise";

fn store_on(database: &Database, clock: &ManualClock) -> PostgresDataKeyStore {
    let clock = Arc::new(clock.clone());
    PostgresDataKeyStore::new(database.clone(), clock, Arc::new(OsRandom), Actor::anonymous())
}

async fn postgres() -> Option<Subject<dyn DataKeyStore>> {
    let (test, database) = migrated().await?;
    let clock = ManualClock::new();
    Some(Subject::<dyn DataKeyStore>::manual(Arc::new(store_on(&database, &clock)), clock).keeping(test))
}

pganalytics_core::data_key_store_contract!(postgres());

fn id(version: u32) -> DataKeyId {
    DataKeyId::new("replies", DataKeyVersion(version))
}

fn wrapping(number: u8) -> DataKeyWrapping {
    let wrapped = WrappedKey { blob: [SECRET, &[number]].concat().into(), version: None };
    let recovery = Some(Bytes::from([b"recovery of ", SECRET].concat()));
    DataKeyWrapping::new("data".parse().unwrap(), wrapped).with_recovery(recovery)
}

async fn events(database: &Database) -> Vec<AuditEvent> {
    let mut connection = database.read().await.unwrap();
    let mut filter = AuditFilter::default();
    filter.resource_kind = Some("data_key");
    audit_log::list(&mut connection, &filter, None, 100).await.unwrap()
}

#[tokio::test]
async fn each_change_leaves_an_event_that_shows_no_key() {
    let Some((_test, database)) = migrated().await else { return };
    let store = store_on(&database, &ManualClock::new());
    for version in [1, 2] {
        assert!(store.add(&NewDataKey::new(id(version), wrapping(1), at(0))).await.unwrap());
    }
    assert!(store.rewrap(&id(1), &wrapping(1).wrapped, &wrapping(2)).await.unwrap());
    assert!(store.retire(&id(1), at(1)).await.unwrap());
    assert!(store.destroy(&id(1), at(2)).await.unwrap());
    // What changes nothing leaves nothing.
    assert!(!store.add(&NewDataKey::new(id(2), wrapping(1), at(0))).await.unwrap());
    assert!(!store.rewrap(&id(2), &wrapping(2).wrapped, &wrapping(3)).await.unwrap());
    assert!(!store.destroy(&id(2), at(2)).await.unwrap());

    let events = events(&database).await;
    let mut actions: Vec<String> = events.iter().map(|event| event.action.to_string()).collect();
    actions.sort();
    let expected = ["data_key.add", "data_key.add", "data_key.destroy", "data_key.retire", "data_key.rewrap"];
    assert_eq!(actions, expected);
    let shown = format!("{events:?}");
    assert!(!shown.contains(&hex::encode(SECRET)) && !shown.contains("easy to recognise"), "{shown}");
}

#[tokio::test]
async fn keys_of_other_programs_are_not_dropped_with_their_table() {
    let Some((_test, database)) = migrated().await else { return };
    let store = store_on(&database, &ManualClock::new());
    let theirs = DataKeyId::new("customers.index", DataKeyVersion(1));
    assert!(store.add(&NewDataKey::new(theirs, wrapping(1), at(0))).await.unwrap());
    // Adding the key was recorded, which nobody drops by mistake either.
    sqlx::raw_sql("DROP TABLE audit_events_default").execute(database.pool()).await.unwrap();
    let error = Migrator::new().down(&database, 5).await.unwrap_err();
    assert!(
        matches!(&error, MigrateError::Failed { file, .. } if file == "006_encryption.down.sql"),
        "{error}"
    );
    assert_eq!(store.list().await.unwrap().len(), 1);
}
