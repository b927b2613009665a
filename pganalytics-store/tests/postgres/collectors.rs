use pganalytics_core::ids::CollectorId;
use pganalytics_core::random::{OsRandom, RandomExt};
use pganalytics_core::secret::SecretString;
use pganalytics_core::testing::ManualClock;
use pganalytics_store::postgres::collector_config::{self, CollectorConfig};
use pganalytics_store::postgres::collectors::{
    self, Collector, CollectorChanges, CollectorStatus, Registered, Registration, Sighting,
};
use pganalytics_store::postgres::{ColumnSealer, StoreError};
use sqlx::PgConnection;

use crate::common::migrated;
use crate::samples::{HOSTILE, a_user, at, uuid};
use crate::sealing::sealer;

fn id(number: u128) -> CollectorId {
    CollectorId(uuid(number))
}

fn registration(number: u128, node_identity: Option<&'static str>) -> Registration<'static> {
    Registration {
        id: id(number),
        name: "db-1",
        hostname: "db-1.internal",
        node_identity,
        program_version: Some("3.3.0"),
        address: Some("192.0.2.7"),
        certificate_thumbprint: Some("ab12"),
        certificate_expires_at: Some(at(1_000)),
        registration_secret_id: None,
    }
}

fn sighting(seconds: i64) -> Sighting<'static> {
    Sighting {
        at: at(seconds),
        address: None,
        hostname: None,
        program_version: None,
        metrics_stored: 5,
        entries_skipped: 1,
    }
}

fn new(registered: Registered) -> Collector {
    match registered {
        Registered::New(collector) => collector,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn registering_again_with_the_same_identity_finds_the_same_row() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let first = collectors::register(connection, &registration(1, Some("node")), at(0)).await.unwrap();
    let first = new(first);
    assert_eq!((first.id, first.status, first.config_version), (id(1), CollectorStatus::Registered, 0));
    let moved = Registration {
        hostname: "db-2.internal",
        certificate_thumbprint: Some("cd34"),
        ..registration(2, Some("node"))
    };
    let Registered::Again(again) = collectors::register(connection, &moved, at(1)).await.unwrap() else {
        panic!("the node is known")
    };
    assert_eq!((again.id, again.created_at, again.token_epoch), (id(1), at(0), first.token_epoch));
    assert_eq!(again.hostname, "db-2.internal");
    assert_eq!(again.certificate_thumbprint.as_deref(), Some("cd34"));
    assert_eq!(collectors::page(connection, 1, 10).await.unwrap().total, 1);
}

#[tokio::test]
async fn concurrent_registrations_of_one_node_make_one_row() {
    let Some((_test, database)) = migrated().await else { return };
    let calls = (0..4).map(|number| {
        let database = database.clone();
        tokio::spawn(async move {
            let mut connection = database.write().await.unwrap();
            collectors::register(&mut connection, &registration(number, Some("node")), at(0)).await.unwrap()
        })
    });
    let calls = futures::future::join_all(calls).await;
    let fresh = calls.into_iter().filter(|call| matches!(call, Ok(Registered::New(_)))).count();
    assert_eq!(fresh, 1);
}

#[tokio::test]
async fn collectors_without_identity_make_a_row_each() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for number in [1, 2] {
        new(collectors::register(connection, &registration(number, None), at(0)).await.unwrap());
    }
    assert_eq!(collectors::page(connection, 1, 10).await.unwrap().total, 2);
}

#[tokio::test]
async fn revoked_node_cannot_register_itself_back() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    new(collectors::register(connection, &registration(1, Some("node")), at(0)).await.unwrap());
    let revoked = collectors::revoke(connection, id(1), at(5)).await.unwrap().unwrap();
    assert_eq!((revoked.revoked_at, revoked.token_epoch), (Some(at(5)), 1));
    let twice = collectors::revoke(connection, id(1), at(6)).await.unwrap().unwrap();
    assert_eq!(twice, revoked);
    assert!(!collectors::touch(connection, id(1), &sighting(6)).await.unwrap());
    let again = collectors::register(connection, &registration(2, Some("node")), at(7)).await.unwrap();
    assert_eq!(again, Registered::Revoked(id(1)));
    assert_eq!(collectors::find(connection, id(1)).await.unwrap(), Some(revoked));

    collectors::delete(connection, id(1), at(8)).await.unwrap().unwrap();
    new(collectors::register(connection, &registration(2, Some("node")), at(9)).await.unwrap());
}

#[tokio::test]
async fn deleted_collector_is_in_no_list_but_its_tokens_are_known_to_be_void() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    new(collectors::register(connection, &registration(1, None), at(0)).await.unwrap());
    collectors::delete(connection, id(1), at(5)).await.unwrap().unwrap();
    assert_eq!(collectors::delete(connection, id(1), at(6)).await.unwrap(), None);
    assert_eq!(collectors::find(connection, id(1)).await.unwrap(), None);
    assert!(collectors::list(connection, None, 10).await.unwrap().is_empty());
    assert_eq!(collectors::page(connection, 1, 10).await.unwrap().total, 0);
    assert!(!collectors::touch(connection, id(1), &sighting(6)).await.unwrap());
    assert_eq!(collectors::revoke(connection, id(1), at(6)).await.unwrap(), None);
    let standing = collectors::token_standing(connection, id(1)).await.unwrap().unwrap();
    assert_eq!((standing.deleted_at, standing.token_epoch), (Some(at(5)), 1));
    assert_eq!(standing.certificate_expires_at, Some(at(1_000)));
    assert_eq!(collectors::token_standing(connection, id(9)).await.unwrap(), None);
}

#[tokio::test]
async fn pushes_are_counted_and_time_does_not_run_backwards() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let before = new(collectors::register(connection, &registration(1, None), at(0)).await.unwrap());
    let full = Sighting { address: Some("192.0.2.8"), program_version: Some("3.4.0"), ..sighting(20) };
    assert!(collectors::touch(connection, id(1), &full).await.unwrap());
    assert!(collectors::touch(connection, id(1), &sighting(10)).await.unwrap());
    let seen = collectors::find(connection, id(1)).await.unwrap().unwrap();
    assert_eq!((seen.status, seen.last_seen_at), (CollectorStatus::Active, Some(at(20))));
    assert_eq!((seen.metrics_count_total, seen.entries_skipped_total, seen.pushes_total), (10, 2, 2));
    assert_eq!(seen.address.as_deref(), Some("192.0.2.8"));
    assert_eq!(seen.program_version.as_deref(), Some("3.4.0"));
    assert_eq!((seen.version, seen.updated_at), (before.version, before.updated_at));
    assert!(!collectors::touch(connection, id(9), &sighting(1)).await.unwrap());
}

#[tokio::test]
async fn silent_collector_goes_offline_once() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for number in 1..=3 {
        new(collectors::register(connection, &registration(number, None), at(0)).await.unwrap());
    }
    collectors::touch(connection, id(1), &sighting(10)).await.unwrap();
    collectors::touch(connection, id(2), &sighting(50)).await.unwrap();
    assert_eq!(collectors::mark_offline(connection, at(30)).await.unwrap(), [id(1)]);
    assert!(collectors::mark_offline(connection, at(30)).await.unwrap().is_empty());
    let offline = collectors::find(connection, id(1)).await.unwrap().unwrap();
    assert_eq!(offline.status, CollectorStatus::Offline);
    collectors::touch(connection, id(1), &sighting(60)).await.unwrap();
    let back = collectors::find(connection, id(1)).await.unwrap().unwrap();
    assert_eq!(back.status, CollectorStatus::Active);
}

#[tokio::test]
async fn collectors_are_listed_by_key_and_by_page() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for number in 1..=5 {
        collectors::register(connection, &registration(number, None), at(0)).await.unwrap();
    }
    let ids = |rows: Vec<Collector>| -> Vec<CollectorId> { rows.into_iter().map(|row| row.id).collect() };
    assert_eq!(ids(collectors::list(connection, None, 2).await.unwrap()), [id(1), id(2)]);
    assert_eq!(ids(collectors::list(connection, Some(id(2)), 9).await.unwrap()), [id(3), id(4), id(5)]);
    let page = collectors::page(connection, 3, 2).await.unwrap();
    assert_eq!((ids(page.rows), page.total), (vec![id(5)], 5));
}

#[tokio::test]
async fn collector_update_needs_the_current_version() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let before = new(collectors::register(connection, &registration(1, None), at(0)).await.unwrap());
    let changes = CollectorChanges { name: "main", description: Some("orders"), health_check_interval: 30 };
    let after =
        collectors::update(connection, id(1), before.version, &changes, at(4)).await.unwrap().unwrap();
    assert_eq!((after.name.as_str(), after.description.as_deref()), ("main", Some("orders")));
    assert_eq!(
        (after.health_check_interval, after.version, after.updated_at),
        (30, before.version + 1, at(4))
    );
    let stale = collectors::update(connection, id(1), before.version, &changes, at(5)).await.unwrap();
    assert_eq!(stale, None);
}

#[tokio::test]
async fn hostile_text_of_a_collector_comes_back_verbatim() {
    let Some((_test, database)) = migrated().await else { return };
    let sealer = sealer().await;
    let connection = &mut *database.read().await.unwrap();
    for (number, text) in (1_u128..).zip(HOSTILE) {
        let hostile = Registration {
            name: text,
            hostname: text,
            node_identity: Some(text),
            address: Some(text),
            program_version: Some(text),
            ..registration(number, None)
        };
        let made = new(collectors::register(connection, &hostile, at(0)).await.unwrap());
        let found = collectors::find(connection, made.id).await.unwrap().unwrap();
        assert_eq!(found, made);
        assert_eq!((found.name.as_str(), found.node_identity.as_deref()), (text, Some(text)));
        configure(connection, &sealer, made.id, text).await.unwrap();
        let config = collector_config::latest(connection, &sealer, made.id).await.unwrap().unwrap();
        assert_eq!(opened(&sealer, &config).await, text);
    }
}

#[tokio::test]
async fn nul_in_a_collector_is_refused_with_its_field() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let bad = |change: fn(&mut Registration<'static>)| {
        let mut registration = registration(1, None);
        change(&mut registration);
        registration
    };
    for (registration, expected) in [
        (bad(|registration| registration.name = "\0"), "name"),
        (bad(|registration| registration.hostname = "a\0"), "hostname"),
        (bad(|registration| registration.node_identity = Some("\0a")), "node_identity"),
        (bad(|registration| registration.program_version = Some("\0")), "version"),
        (bad(|registration| registration.address = Some("\0")), "address"),
    ] {
        let refused = collectors::register(connection, &registration, at(0)).await;
        assert!(matches!(refused, Err(StoreError::InvalidText { field }) if field == expected), "{expected}");
    }
    let refused =
        collectors::touch(connection, id(1), &Sighting { address: Some("\0"), ..sighting(1) }).await;
    assert!(matches!(refused, Err(StoreError::InvalidText { field: "address" })));
    let text = SecretString::new("a\0b");
    let refused = collector_config::seal_text(&sealer().await, uuid(1), &text).await;
    assert!(matches!(refused, Err(StoreError::InvalidText { field: "config" })));
}

#[tokio::test]
async fn config_versions_follow_each_other_and_stay() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let sealer = sealer().await;
    new(collectors::register(connection, &registration(1, None), at(0)).await.unwrap());
    let author = a_user(connection).await;
    assert_eq!(collector_config::latest(connection, &sealer, id(1)).await.unwrap(), None);
    for (version, text) in [(1, "a = 1"), (2, "a = 2"), (3, "a = 1")] {
        let text = SecretString::new(text);
        let sealed = collector_config::seal_text(&sealer, uuid(100 + version as u128), &text).await.unwrap();
        let stored =
            collector_config::put_next(connection, id(1), &sealed, Some(author), at(version)).await.unwrap();
        assert_eq!(stored, Some(version));
        let latest = collector_config::latest(connection, &sealer, id(1)).await.unwrap().unwrap();
        assert_eq!((latest.version, latest.created_by), (version, Some(author)));
        assert_eq!(opened(&sealer, &latest).await, text.expose());
    }
    let history = collector_config::list(connection, &sealer, id(1), Some(3), 10).await.unwrap();
    assert_eq!(history.iter().map(|config| config.version).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((opened(&sealer, &history[0]).await.as_str(), history[0].created_at), ("a = 2", at(2)));
    assert_eq!(collectors::find(connection, id(1)).await.unwrap().unwrap().config_version, 3);
    assert_eq!(configure(connection, &sealer, id(9), "").await.unwrap(), None);
}

#[tokio::test]
async fn concurrent_configs_get_a_version_each() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let sealer = sealer().await;
    new(collectors::register(connection, &registration(1, None), at(0)).await.unwrap());
    let calls = (0..4).map(|_| {
        let (database, sealer) = (database.clone(), sealer.clone());
        tokio::spawn(async move {
            let mut connection = database.write().await.unwrap();
            configure(&mut connection, &sealer, id(1), "x").await.unwrap().unwrap()
        })
    });
    let mut versions: Vec<i64> =
        futures::future::join_all(calls).await.into_iter().map(|call| call.unwrap()).collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4]);
}

/// Stores a text as the next version.
async fn configure(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    collector: CollectorId,
    text: &str,
) -> Result<Option<i64>, StoreError> {
    let row = OsRandom.uuid_v7(&ManualClock::new());
    let sealed = collector_config::seal_text(sealer, row, &SecretString::new(text)).await?;
    collector_config::put_next(connection, collector, &sealed, None, at(0)).await
}

async fn opened(sealer: &ColumnSealer, config: &CollectorConfig) -> String {
    sealer.open(&config.text).await.unwrap().unwrap().expose().to_owned()
}
