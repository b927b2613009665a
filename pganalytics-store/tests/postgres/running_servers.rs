use pganalytics_core::ids::InstanceId;
use pganalytics_store::postgres::StoreError;
use pganalytics_store::postgres::running_servers::{self, RunningServer};

use crate::common::migrated;
use crate::samples::{HOSTILE, at, uuid};

fn server(number: u128, heartbeat: i64) -> RunningServer {
    RunningServer {
        instance: InstanceId(uuid(number)),
        version: "3.3.0".into(),
        phase: "serving".into(),
        started_at: at(0),
        heartbeat_at: at(heartbeat),
        encryption_phase: None,
        data_keys_known: None,
    }
}

#[tokio::test]
async fn servers_are_seen_while_their_hearts_beat() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for server in [server(1, 10), server(2, 20), server(3, 30)] {
        running_servers::report(connection, &server).await.unwrap();
    }
    let draining = RunningServer {
        phase: "draining".into(),
        encryption_phase: Some("final".into()),
        data_keys_known: Some(7),
        ..server(1, 25)
    };
    running_servers::report(connection, &draining).await.unwrap();
    assert_eq!(running_servers::list(connection, at(21)).await.unwrap(), [draining, server(3, 30)]);
    assert_eq!(running_servers::sweep(connection, at(21)).await.unwrap(), 1);
    running_servers::delete(connection, InstanceId(uuid(1))).await.unwrap();
    running_servers::delete(connection, InstanceId(uuid(1))).await.unwrap();
    assert_eq!(running_servers::list(connection, at(0)).await.unwrap(), [server(3, 30)]);
}

#[tokio::test]
async fn words_of_a_server_are_stored_verbatim_or_refused() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for text in HOSTILE {
        let said = RunningServer { phase: text.into(), version: text.into(), ..server(1, 0) };
        running_servers::report(connection, &said).await.unwrap();
        assert_eq!(running_servers::list(connection, at(0)).await.unwrap(), [said]);
    }
    let refused =
        running_servers::report(connection, &RunningServer { phase: "\0".into(), ..server(1, 0) }).await;
    assert!(matches!(refused, Err(StoreError::InvalidText { field: "phase" })));
}
