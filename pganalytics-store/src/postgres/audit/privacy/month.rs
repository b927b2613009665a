use pganalytics_core::audit::order::Month;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::AuditOrderError;
use super::batch::{held_user, is_held};
use super::holds::Held;
use crate::postgres::StoreError;

/// What became of a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    Gone,
    /// There was nothing of it.
    Nothing,
    /// It has no partition, and rows in the default one, which holds other months too and stays.
    InDefault,
}

/// Drops the partitions of a month, that of the personal fields first. Writers and readers wait meanwhile: it takes no longer than
/// looking some things up by indexes.
pub(super) async fn drop_month(
    connection: &mut PgConnection,
    month: Month,
    held: &Held,
) -> Result<Dropped, AuditOrderError> {
    let lock = "LOCK TABLE ONLY audit_events, ONLY audit_personal IN ACCESS EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *connection).await.map_err(StoreError::from)?;
    check_month(connection, month, held).await?;
    let personal = partition(connection, "audit_personal", month).await?;
    let events = partition(connection, "audit_events", month).await?;
    if let Some(events) = &events
        && has_unsealed(connection, events).await?
    {
        return Err(AuditOrderError::NotSealed { month });
    }
    for partition in [&personal, &events].into_iter().flatten() {
        let drop = sqlx::query(AssertSqlSafe(format!("DROP TABLE {partition}")));
        drop.execute(&mut *connection).await.map_err(StoreError::from)?;
    }
    Ok(match personal.or(events) {
        Some(_) => Dropped::Gone,
        None if is_in_default(connection, month).await? => Dropped::InDefault,
        None => Dropped::Nothing,
    })
}

/// Refuses a month in which there are events of a user who is held.
pub(super) async fn check_month(
    connection: &mut PgConnection,
    month: Month,
    held: &Held,
) -> Result<(), AuditOrderError> {
    let users = held.users();
    if users.is_empty() {
        return Ok(());
    }
    let one = concat!(
        "SELECT ",
        held_user!(),
        " FROM audit_events e WHERE e.at >= $2 AND e.at < $3 AND ",
        is_held!(),
        " LIMIT 1"
    );
    let one = sqlx::query_scalar(one).bind(users).bind(month.start()).bind(month.end());
    let found: Option<Option<Uuid>> = one.fetch_optional(connection).await.map_err(StoreError::from)?;
    found.flatten().map_or(Ok(()), |user| held.check(user))
}

/// The partition of a month as it is written in a statement; nothing if there is none.
async fn partition(
    connection: &mut PgConnection,
    parent: &'static str,
    month: Month,
) -> Result<Option<String>, AuditOrderError> {
    let relation = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_inherits i \
        JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE i.inhparent = $1::text::regclass AND c.relname = $2";
    let name = format!("{parent}_{}", month.first_day().format("%Y%m"));
    let relation = sqlx::query_scalar(relation).bind(parent).bind(name);
    let relation: Option<String> =
        relation.fetch_optional(&mut *connection).await.map_err(StoreError::from)?;
    let Some(relation) = relation else { return Ok(None) };
    let strays = format!("SELECT EXISTS (SELECT FROM {relation} WHERE at < $1 OR at >= $2)");
    let strays = sqlx::query_scalar(AssertSqlSafe(strays)).bind(month.start()).bind(month.end());
    match strays.fetch_one(connection).await.map_err(StoreError::from)? {
        true => Err(AuditOrderError::OtherPartition { month }),
        false => Ok(Some(relation)),
    }
}

/// Whether a partition has rows that no published seal covers. Those are from its snapshot's xmin on, so that the index finds them.
async fn has_unsealed(connection: &mut PgConnection, partition: &str) -> Result<bool, StoreError> {
    let unsealed = format!(
        "SELECT EXISTS ( \
            SELECT FROM generate_series((SELECT min(era)::int FROM {partition}), (SELECT max(era)::int FROM {partition})) \
                AS known (era) \
            LEFT JOIN LATERAL ( \
                SELECT s.snapshot FROM audit_seals s \
                WHERE s.rows_era = known.era::smallint AND s.published_at IS NOT NULL \
                ORDER BY s.era DESC, s.number DESC LIMIT 1 \
            ) AS last ON true \
            CROSS JOIN LATERAL ( \
                SELECT FROM {partition} e \
                WHERE e.era = known.era::smallint AND e.xid >= coalesce(pg_snapshot_xmin(last.snapshot), '0'::xid8) \
                    AND pg_visible_in_snapshot(e.xid, last.snapshot) IS NOT TRUE \
                LIMIT 1 \
            ) AS unsealed \
        )"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(unsealed)).fetch_one(connection).await?)
}

async fn is_in_default(connection: &mut PgConnection, month: Month) -> Result<bool, StoreError> {
    let strays = "SELECT EXISTS (SELECT FROM audit_events WHERE at >= $1 AND at < $2) \
        OR EXISTS (SELECT FROM audit_personal WHERE at >= $1 AND at < $2)";
    let strays = sqlx::query_scalar(strays).bind(month.start()).bind(month.end());
    Ok(strays.fetch_one(connection).await?)
}
