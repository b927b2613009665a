use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::postgres::database::Database;
use crate::postgres::error::StoreError;

/// Where plain text remains after the columns were dropped and the tables written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remains {
    /// Every backup and dump from before this time holds it.
    pub backups_before: DateTime<Utc>,
    /// The position in the write-ahead log up to which it may hold it.
    pub wal_until: String,
    /// The files of the log that are still in `pg_wal`; `None` where this user may not list them.
    pub wal_files: Option<Vec<String>>,
    /// What archives the log, with all that it ever took; `None` if nothing does.
    pub archive: Option<String>,
    /// Servers that copy this one: replication slots and standbys. A physical standby drops it as it follows; whatever else
    /// reads the log keeps what it has taken.
    pub replication: Vec<String>,
    /// Catalogues that hold samples of columns and that this user may not write anew; their owner does so with `VACUUM FULL`.
    pub catalogues: Vec<&'static str>,
}

/// The tables with sealed columns.
const TABLES: [(&str, &str); 4] = [
    ("users", "VACUUM (FULL, ANALYZE) users"),
    ("collector_config", "VACUUM (FULL, ANALYZE) collector_config"),
    ("alert_rules", "VACUUM (FULL, ANALYZE) alert_rules"),
    ("api_tokens", "VACUUM (FULL, ANALYZE) api_tokens"),
];

/// Where the samples of columns lie.
const CATALOGUES: [(&str, &str); 2] = [
    ("pg_statistic", "VACUUM FULL pg_catalog.pg_statistic"),
    ("pg_statistic_ext_data", "VACUUM FULL pg_catalog.pg_statistic_ext_data"),
];

/// Writes tables, indexes and statistics anew, since dropping a column leaves its values where they are.
pub(super) async fn rewrite(
    database: &Database,
    now: DateTime<Utc>,
    announce: impl Fn(&'static str),
) -> Result<Remains, StoreError> {
    // No time limit of the pool is long enough for a large table. But whoever waits for a lock holds up all who come after.
    let mut connection = database.direct().await?;
    sqlx::raw_sql("SET lock_timeout = '30s'").execute(&mut connection).await?;
    for (table, statement) in TABLES {
        announce(table);
        sqlx::raw_sql(statement).execute(&mut connection).await?;
    }
    let mut catalogues = Vec::new();
    for (catalogue, statement) in CATALOGUES {
        announce(catalogue);
        let may: bool = sqlx::query_scalar(MAY_VACUUM).fetch_one(&mut connection).await?;
        if may {
            sqlx::raw_sql(statement).execute(&mut connection).await?;
        } else {
            catalogues.push(catalogue);
        }
    }
    let wal_until = sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text").fetch_one(&mut connection);
    let remains = Remains {
        backups_before: now,
        wal_until: wal_until.await?,
        wal_files: wal_files(&mut connection).await?,
        archive: sqlx::query_scalar(ARCHIVE).fetch_optional(&mut connection).await?,
        replication: sqlx::query_scalar(REPLICATION).fetch_all(&mut connection).await?,
        catalogues,
    };
    sqlx::query("UPDATE column_encryption SET rewritten_at = $1").bind(now).execute(&mut connection).await?;
    Ok(remains)
}

/// Owners of a database may clean its catalogues.
const MAY_VACUUM: &str = "SELECT pg_has_role(current_user, datdba, 'USAGE') FROM pg_database \
                          WHERE datname = current_database()";

const ARCHIVE: &str = "SELECT coalesce(nullif(current_setting('archive_command'), ''), \
                           nullif(current_setting('archive_library', true), ''), 'an archive') \
                       WHERE current_setting('archive_mode') <> 'off'";

const REPLICATION: &str = "SELECT format('replication slot %s (%s)', slot_name, slot_type) FROM pg_replication_slots \
                           UNION ALL \
                           SELECT format('standby %s', application_name) FROM pg_stat_replication ORDER BY 1";

async fn wal_files(connection: &mut PgConnection) -> Result<Option<Vec<String>>, StoreError> {
    let may: bool = sqlx::query_scalar("SELECT has_function_privilege('pg_ls_waldir()', 'EXECUTE')")
        .fetch_one(&mut *connection)
        .await?;
    if !may {
        return Ok(None);
    }
    let files = "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' ORDER BY 1";
    Ok(Some(sqlx::query_scalar(files).fetch_all(connection).await?))
}
