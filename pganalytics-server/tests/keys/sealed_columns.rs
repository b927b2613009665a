//! The columns of an installation as they are sealed, opened with its keys.

use std::collections::BTreeMap;

use pganalytics_core::audit::Actor;
use pganalytics_core::keys::Sealed;
use pganalytics_core::keys::SealedValue;
use pganalytics_server::config::{FileKeyManagerConfig, KeyManagerConfig, ServerConfig};
use pganalytics_server::secret_ref::SecretRef;
use pganalytics_server::wiring;
use pganalytics_store::postgres::{
    AlertWebhook, ApiTokenDigest, ColumnSealer, ConfigText, StoredColumn, UserPassword,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::older;

/// The values of each column, by the ids of their rows.
pub(crate) type Values = BTreeMap<&'static str, BTreeMap<Uuid, Vec<u8>>>;

async fn sealer(cluster: &Cluster) -> ColumnSealer {
    let mut config = ServerConfig::default();
    config.database.url = SecretRef::File(cluster.folder().join("database-url"));
    config.keys = KeyManagerConfig::File(FileKeyManagerConfig {
        path: cluster.folder().join("keys"),
        ..FileKeyManagerConfig::default()
    });
    let database = wiring::database(&config.database).unwrap();
    wiring::column_sealer(&config, &database, Actor::system("test")).await.unwrap()
}

/// Opens every value of every sealed column, and demands that there is one wherever there should be.
pub(crate) async fn opened(cluster: &Cluster) -> Values {
    let sealer = sealer(cluster).await;
    let mut connection = cluster.connect().await;
    BTreeMap::from([
        of::<UserPassword>(&sealer, &mut connection, "SELECT id, password_hash_sealed FROM users").await,
        of::<ConfigText>(&sealer, &mut connection, "SELECT id, text_sealed FROM collector_config").await,
        of::<AlertWebhook>(&sealer, &mut connection, "SELECT id, webhook_url_sealed FROM alert_rules").await,
        of::<ApiTokenDigest>(&sealer, &mut connection, "SELECT id, digest_sealed FROM api_tokens").await,
    ])
}

async fn of<C: StoredColumn>(
    sealer: &ColumnSealer,
    connection: &mut PgConnection,
    query: &'static str,
) -> (&'static str, BTreeMap<Uuid, Vec<u8>>) {
    let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(query).fetch_all(connection).await.unwrap();
    let mut values = BTreeMap::new();
    for (row, sealed) in rows {
        let value = Sealed::<C::Value, C>::from_bytes(sealed).open(&**sealer.cipher(), row).await.unwrap();
        values.insert(row, value.to_plain().as_ref().to_vec());
    }
    (C::FIELD.table, values)
}

/// What the columns hold in plain text.
pub(crate) async fn plain(cluster: &Cluster) -> Values {
    let mut values = Values::new();
    for (table, query) in [
        ("users", "SELECT id, convert_to(password_hash, 'UTF8') FROM users"),
        ("collector_config", "SELECT id, convert_to(text, 'UTF8') FROM collector_config"),
        ("alert_rules", "SELECT id, convert_to(webhook_url, 'UTF8') FROM alert_rules"),
        ("api_tokens", "SELECT id, digest FROM api_tokens"),
    ] {
        let rows: Vec<(Uuid, Vec<u8>)> =
            sqlx::query_as(query).fetch_all(&mut cluster.connect().await).await.unwrap();
        values.insert(table, rows.into_iter().collect());
    }
    values
}

/// Demands that every value is as it was written at first.
pub(crate) fn are_as_installed(values: &Values) {
    let rows = usize::try_from(older::ROWS).unwrap();
    assert_eq!([values["users"].len(), values["api_tokens"].len()], [rows + 1; 2]);
    assert_eq!([values["collector_config"].len(), values["alert_rules"].len()], [rows; 2]);
    let mut configs: Vec<&[u8]> = values["collector_config"].values().map(Vec::as_slice).collect();
    configs.sort_unstable();
    let mut expected: Vec<String> = (1..=older::ROWS).map(older::config).collect();
    expected.sort_unstable();
    assert!(configs.into_iter().eq(expected.iter().map(String::as_bytes)));
    for number in 1..=older::ROWS {
        let row = older::id(number);
        assert_eq!(values["users"][&row], older::password(number).into_bytes());
        assert_eq!(values["alert_rules"][&row], older::webhook(number).into_bytes());
        assert_eq!(values["api_tokens"][&row], older::digest(number));
    }
}
