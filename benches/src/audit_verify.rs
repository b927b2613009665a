//! Proving the audit log against its anchors, with every checksum and personal field, beside reading the same rows back in the
//! same order over one connection.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use futures::TryStreamExt;
use pganalytics_core::audit::{AuditEvent, AuditSink};
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::signing::MemorySigningKeyStore;
use pganalytics_core::tlog::{Checkpoint, NoteSigner, SignedCheckpoint, TileStore, TreeEdge, TreeGrowth};
use pganalytics_crypto::ed25519::{self, Ed25519Signer, Ed25519SignerConfig};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use pganalytics_store::LocalBackupTarget;
use pganalytics_store::postgres::{
    AuditTrust, AuditVerifier, Database, Migrator, PostgresAuditSink, PostgresConfig,
};
use pganalytics_testkit::{Profile, private_postgres};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::audit_sink::event;
use crate::report::{Better, Round, Summary};
use crate::sealing::Sealing;

pub(crate) const NAME: &str = "verify/ordered_read";

const SEALS: usize = 50;
const SEALED_AT_ONCE: usize = 2000;
const LOG: &str = "example.com/audit";

const LEAF_COLUMNS: &str = "e.at, e.id, e.writer, e.writer_sequence, e.actor_kind, e.actor_id, e.actor_role, e.action, \
    e.resource_type, e.resource_id, e.outcome, e.reason, e.request_id, e.session_id, e.provider, \
    e.actor_name_commitment, e.address_commitment, e.user_agent_commitment, e.changes_commitment, e.mac, e.era, e.xid";
const PERSONAL_COLUMNS: &str = "p.actor_name, p.actor_name_salt, p.address, p.address_salt, p.user_agent, \
    p.user_agent_salt, p.changes, p.changes_salt";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Summary> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
    Migrator::new().up(&database, None).await?;
    let (folder, sealing) = (tempfile::tempdir()?, Sealing::start().await?);
    let cipher = Arc::new(sealing.cipher.clone());
    database.audit_writer().authenticate(&*cipher).await?;
    let target: Arc<dyn BackupTarget> = Arc::new(LocalBackupTarget::open(folder.path().join("anchors"))?);
    let signer = signer(&folder.path().join("keys")).await?;
    let mut connection = database.direct().await?;
    write_log(&database, &mut connection, &target, &signer).await?;
    sqlx::raw_sql("VACUUM ANALYZE audit_events, audit_personal").execute(&mut connection).await?;
    let trust = AuditTrust::new(LOG.parse()?, signer.verifier_keys().await?, Arc::new(ed25519::verify));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let verifier = AuditVerifier::new(database.clone(), target, trust, clock).with_cipher(cipher);
    let mut measured = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        let started = Instant::now();
        let report = verifier.verify(|_| {}).await?;
        let ours = started.elapsed();
        ensure!(report.is_clean() && report.rows as usize == SEALS * SEALED_AT_ONCE, "{report}");
        let started = Instant::now();
        let bytes = read_all(&mut connection).await?;
        let peer = started.elapsed();
        ensure!(bytes > SEALS * SEALED_AT_ONCE * 500, "each row is read");
        if round > 0 {
            let speed =
                |elapsed: std::time::Duration| (SEALS * SEALED_AT_ONCE) as f64 / elapsed.as_secs_f64();
            measured.push(Round { ours: speed(ours), peer: speed(peer) });
        }
    }
    Ok(Summary::of(NAME, "events/s", Better::More, &measured))
}

async fn signer(keys: &std::path::Path) -> anyhow::Result<NoteSigner> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let files = FileKeyManagerConfig::new(keys).creating(["sign".parse()?]);
    let manager = Arc::new(FileKeyManager::open(&files, Arc::clone(&clock))?);
    let (store, config) = (Arc::new(MemorySigningKeyStore::new()), Ed25519SignerConfig::new("sign".parse()?));
    let signer = Ed25519Signer::connect(store, manager, clock, config).await?;
    Ok(NoteSigner::new(LOG.parse()?, Arc::new(signer)))
}

async fn read_all(connection: &mut PgConnection) -> anyhow::Result<usize> {
    let mut rows = connection
        .copy_out_raw(&format!(
            "COPY (SELECT {LEAF_COLUMNS}, {PERSONAL_COLUMNS} FROM audit_events e \
             LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id ORDER BY e.xid, e.at, e.id) \
             TO STDOUT (FORMAT binary)"
        ))
        .await?;
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        bytes += row.len();
    }
    Ok(bytes)
}

/// Stores events, and seals them now and then; nobody else writes meanwhile.
async fn write_log(
    database: &Database,
    connection: &mut PgConnection,
    target: &Arc<dyn BackupTarget>,
    signer: &NoteSigner,
) -> anyhow::Result<()> {
    let era = format!(
        "INSERT INTO audit_eras SELECT 1, '{LOG}/1', system_identifier, now() FROM pg_control_system()"
    );
    sqlx::raw_sql(AssertSqlSafe(era)).execute(&mut *connection).await?;
    let events: Vec<AuditEvent> = (0..SEALS * SEALED_AT_ONCE).map(event).collect();
    let (sink, mut edge, mut before) =
        (PostgresAuditSink::new(database.clone()), TreeEdge::new(), "1:1:".to_owned());
    for batch in events.chunks(SEALED_AT_ONCE) {
        sink.append(batch).await?;
        (edge, before) = seal(connection, target, signer, (edge, &before)).await?;
    }
    Ok(())
}

async fn seal(
    connection: &mut PgConnection,
    target: &Arc<dyn BackupTarget>,
    signer: &NoteSigner,
    (edge, before): (TreeEdge, &str),
) -> anyhow::Result<(TreeEdge, String)> {
    let snapshot: String =
        sqlx::query_scalar("SELECT pg_current_snapshot()::text").fetch_one(&mut *connection).await?;
    let copy = format!(
        "COPY (SELECT {LEAF_COLUMNS} FROM audit_events e WHERE pg_visible_in_snapshot(e.xid, '{snapshot}') \
         AND NOT pg_visible_in_snapshot(e.xid, '{before}') ORDER BY e.xid, e.at, e.id) TO STDOUT (FORMAT binary)"
    );
    let rows: Vec<_> = connection.copy_out_raw(&copy).await?.try_collect().await?;
    let (rows, mut growth) = (rows.concat(), TreeGrowth::new(edge));
    let mut rest = &rows[19..];
    while rest[..2] != [0xff, 0xff] {
        let mut end = 2;
        for _ in 0..22 {
            let length = rest[end..].first_chunk().context("a field has a length")?;
            end += 4 + usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        }
        growth.append([&[1], &rest[2..end]].concat().into())?;
        rest = &rest[end..];
    }
    let checkpoint = Checkpoint::new(format!("{LOG}/1").parse()?, growth.size(), growth.root())?;
    let signed = SignedCheckpoint::new(signer.sign_note(checkpoint.to_text()?).await?)?;
    let store = TileStore::new(Arc::clone(target))?.with_prefix("era-1".parse()?);
    store.extend(&growth, &signed).await?;
    sqlx::query(
        "INSERT INTO audit_seals SELECT 1, coalesce(max(number), 0) + 1, 1, $1::pg_snapshot, $2, $3, $4, now(), now() \
         FROM audit_seals",
    )
    .bind(&snapshot)
    .bind(i64::try_from(growth.old_size().0)?)
    .bind(i64::try_from(growth.size().0 - growth.old_size().0)?)
    .bind(signed.to_string())
    .execute(connection)
    .await?;
    Ok((growth.into_edge(), snapshot))
}
