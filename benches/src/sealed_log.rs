//! An audit log in a durable database, its sealer and what anchors it, for the benchmarks of sealing and verifying.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use futures::TryStreamExt;
use pganalytics_core::audit::{AuditEvent, AuditSink};
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::random::OsRandom;
use pganalytics_core::signing::MemorySigningKeyStore;
use pganalytics_core::tlog::NoteSigner;
use pganalytics_crypto::ed25519::{self, Ed25519Signer, Ed25519SignerConfig};
use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
use pganalytics_store::LocalBackupTarget;
use pganalytics_store::postgres::{
    AuditSealer, AuditTrust, AuditVerifier, Database, Migrator, PostgresAuditSink, PostgresConfig,
};
use pganalytics_testkit::{LocalPostgres, Profile, private_postgres};
use sqlx::PgConnection;

use crate::audit_sink::event;
use crate::sealing::Sealing;

const LOG: &str = "example.com/audit";

/// As many events as the queue on disk delivers at once.
const BATCH: usize = 1000;

pub(crate) struct SealedLog {
    pub(crate) postgres: LocalPostgres,
    pub(crate) database: Database,
    sealing: Sealing,
    signer: NoteSigner,
    target: Arc<dyn BackupTarget>,
    sealer: AuditSealer,
    written: usize,
    _folder: tempfile::TempDir,
}

impl SealedLog {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
        let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
        Migrator::new().up(&database, None).await?;
        let (folder, sealing) = (tempfile::tempdir()?, Sealing::start().await?);
        database.audit_writer().authenticate(&sealing.cipher).await?;
        let target: Arc<dyn BackupTarget> = Arc::new(LocalBackupTarget::open(folder.path().join("anchors"))?);
        let signer = signer(&folder.path().join("keys")).await?;
        let sealer = AuditSealer::new(
            (database.clone(), Arc::clone(&target)),
            LOG.parse()?,
            vec![signer.clone()],
            Arc::new(sealing.cipher.clone()),
            (Arc::new(SystemClock), Arc::new(OsRandom)),
        );
        Ok(Self { postgres, database, sealing, signer, target, sealer, written: 0, _folder: folder })
    }

    /// Stores events as the server does.
    pub(crate) async fn write(&mut self, events: usize) -> anyhow::Result<()> {
        let sink = PostgresAuditSink::new(self.database.clone());
        let events: Vec<AuditEvent> = (self.written..self.written + events).map(event).collect();
        for batch in events.chunks(BATCH) {
            sink.append(batch).await?;
        }
        self.written += events.len();
        Ok(())
    }

    /// Seals everything that was written, and yields how many events that were.
    pub(crate) async fn seal(&self) -> anyhow::Result<u64> {
        let mut leaves = 0;
        while let Some(sealed) = self.sealer.seal().await? {
            leaves += sealed.leaves;
            if !sealed.more {
                break;
            }
        }
        Ok(leaves)
    }

    pub(crate) async fn verifier(&self) -> anyhow::Result<AuditVerifier> {
        let keys = self.signer.verifier_keys().await?;
        let trust = AuditTrust::new(LOG.parse()?, keys, Arc::new(ed25519::verify));
        let verifier =
            AuditVerifier::new(self.database.clone(), Arc::clone(&self.target), trust, Arc::new(SystemClock));
        Ok(verifier.with_cipher(Arc::new(self.sealing.cipher.clone())))
    }
}

/// Reads rows as binary COPY sends them, and drops them.
pub(crate) async fn read_all(connection: &mut PgConnection, rows: &str) -> anyhow::Result<usize> {
    let mut rows = connection.copy_out_raw(&format!("COPY ({rows}) TO STDOUT (FORMAT binary)")).await?;
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        bytes += row.len();
    }
    Ok(bytes)
}

async fn signer(keys: &Path) -> anyhow::Result<NoteSigner> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let files = FileKeyManagerConfig::new(keys).creating(["sign".parse()?]);
    let manager = Arc::new(FileKeyManager::open(&files, Arc::clone(&clock))?);
    let (store, config) = (Arc::new(MemorySigningKeyStore::new()), Ed25519SignerConfig::new("sign".parse()?));
    let signer = Ed25519Signer::connect(store, manager, clock, config).await?;
    Ok(NoteSigner::new(LOG.parse()?, Arc::new(signer)))
}
