//! A log that is written, sealed and verified.

use std::ops::Range;
use std::sync::Arc;

use pganalytics_core::audit::{Actor, ActorKind, AuditEvent, AuditSink, Outcome, Resource};
use pganalytics_core::backup::{BackupTarget, MemoryBackupTarget, ObjectPath};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::ids::EventId;
use pganalytics_core::keys::{FieldCipher, KeyName};
use pganalytics_core::random::OsRandom;
use pganalytics_core::signing::MemorySigningKeyStore;
use pganalytics_core::testing::ManualClock;
use pganalytics_core::tlog::{NoteSigner, SignedCheckpoint, TileReader};
use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig};
use pganalytics_crypto::env_key_manager::{EnvKeyManager, EnvKeyManagerConfig};
use pganalytics_store::postgres::{
    AuditRecovery, AuditReport, AuditSealer, AuditTrust, AuditVerifier, Database, Finding, PostgresAuditSink,
};
use pganalytics_testkit::TestDatabase;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::common::{connect, migrated};
use crate::samples::{at, uuid};
use crate::sealing::cipher;

pub(crate) const LOG: &str = "example.com/audit";

/// A database whose events are sealed into a target.
pub(crate) struct ProvedLog {
    pub(crate) database: Database,
    pub(crate) target: Arc<dyn BackupTarget>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) cipher: Arc<dyn FieldCipher>,
    pub(crate) signer: Arc<Ed25519Signer>,
    url: String,
    _test: TestDatabase,
}

/// A signer with a key of its own.
pub(crate) async fn signer() -> Arc<Ed25519Signer> {
    let key: KeyName = "sign".parse().unwrap();
    let variables = [("KEY_SIGN_V1".into(), "zu1mGNVOtk7/Kx9Ue6A0KnVDqOHJfQ2bB5rcXw8L4sI=".into())];
    let manager = EnvKeyManager::new(&EnvKeyManagerConfig::new("KEY", [key.clone()]), variables).unwrap();
    let (store, config) = (Arc::new(MemorySigningKeyStore::new()), Ed25519SignerConfig::new(key));
    Arc::new(Ed25519Signer::connect(store, Arc::new(manager), Arc::new(SystemClock), config).await.unwrap())
}

impl ProvedLog {
    /// A log of three seals with ten events each.
    pub(crate) async fn sealed() -> Option<Self> {
        let log = Self::empty().await?;
        for seal in 0..3 {
            log.append(seal * 10..seal * 10 + 10).await;
            log.seal().await;
        }
        Some(log)
    }

    pub(crate) async fn empty() -> Option<Self> {
        let (test, database) = migrated().await?;
        let cipher: Arc<dyn FieldCipher> = Arc::new(cipher().await);
        database.audit_writer().authenticate(&*cipher).await.unwrap();
        let clock = Arc::new(ManualClock::new());
        let target = Arc::new(MemoryBackupTarget::new(clock.clone()));
        Some(Self {
            database,
            target,
            clock,
            cipher,
            signer: signer().await,
            url: test.url().into(),
            _test: test,
        })
    }

    /// Stores events in one transaction each.
    pub(crate) async fn append(&self, numbers: Range<u128>) {
        let sink = PostgresAuditSink::new(self.database.clone());
        for number in numbers {
            sink.append(&[event(number)]).await.unwrap();
        }
    }

    /// Stores events in one transaction.
    pub(crate) async fn append_at_once(&self, numbers: Range<u128>) {
        let events: Vec<AuditEvent> = numbers.map(event).collect();
        PostgresAuditSink::new(self.database.clone()).append(&events).await.unwrap();
    }

    pub(crate) fn note_signer(&self) -> NoteSigner {
        NoteSigner::new(LOG.parse().unwrap(), self.signer.clone())
    }

    pub(crate) async fn trust(&self) -> AuditTrust {
        let keys = self.note_signer().verifier_keys().await.unwrap();
        AuditTrust::new(LOG.parse().unwrap(), keys, Arc::new(pganalytics_crypto::ed25519::verify))
    }

    pub(crate) async fn verifier(&self) -> AuditVerifier {
        let (database, target) = (self.database.clone(), self.target.clone());
        AuditVerifier::new(database, target, self.trust().await, self.clock.clone())
            .with_cipher(self.cipher.clone())
            .with_workers(2)
    }

    pub(crate) async fn verify(&self) -> AuditReport {
        self.verifier().await.verify(|_| {}).await.unwrap()
    }

    /// The one finding there is.
    pub(crate) async fn finding(&self) -> Finding {
        let report = self.verify().await;
        assert_eq!(report.findings_total, report.findings.len() as u64, "{report}");
        let [finding] = &report.findings[..] else { panic!("{report}") };
        finding.clone()
    }

    /// The database as it is now, as a backup would hold it: its address.
    pub(crate) async fn backup(&mut self) -> String {
        let url = self.url.clone();
        let (server, name) = url.rsplit_once('/').unwrap();
        self.database.pool().close().await;
        let mut connection = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
        let copy = format!("CREATE DATABASE {name}_b TEMPLATE {name}");
        sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        self.connect(&url).await;
        format!("{url}_b")
    }

    /// Goes on with another database.
    pub(crate) async fn connect(&mut self, url: &str) {
        self.database.pool().close().await;
        self.database = connect(url).await;
        url.clone_into(&mut self.url);
        self.database.audit_writer().authenticate(&*self.cipher).await.unwrap();
    }

    pub(crate) async fn recovery(&self) -> AuditRecovery {
        self.recovery_by(self.target.clone()).await
    }

    /// A recovery that reaches the target in this way.
    pub(crate) async fn recovery_by(&self, target: Arc<dyn BackupTarget>) -> AuditRecovery {
        AuditRecovery::new(
            self.database.clone(),
            target,
            (self.trust().await, self.note_signer()),
            self.clock.clone(),
            Arc::new(OsRandom),
        )
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Does what only a superuser can, past all triggers.
    pub(crate) async fn attack(&self, statement: &str) {
        let mut connection = self.database.direct().await.unwrap();
        let statement = format!("SET session_replication_role = replica; {UNGUARD}; {statement}");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    pub(crate) fn path(name: &str) -> ObjectPath {
        name.parse().unwrap()
    }

    pub(crate) async fn published(&self, era: i16) -> SignedCheckpoint {
        self.reader(era).checkpoint().await.unwrap().unwrap()
    }

    fn reader(&self, era: i16) -> TileReader {
        TileReader::new(self.target.clone()).with_prefix(Self::path(&format!("era-{era}")))
    }
}

const UNGUARD: &str = "DO $$ DECLARE guarded regclass; BEGIN \
    FOR guarded IN SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'audit_guard' LOOP \
        EXECUTE format('ALTER TABLE ONLY %s DISABLE TRIGGER audit_guard', guarded); \
    END LOOP; END $$";

/// An event with every personal field.
pub(crate) fn event(number: u128) -> AuditEvent {
    let actor = Actor {
        kind: ActorKind::User,
        id: Some(uuid(7).to_string()),
        name: Some("Ada".into()),
        role: Some("admin".into()),
    };
    let action = "user.update".parse().unwrap();
    let seconds = i64::try_from(number).unwrap();
    let mut event = AuditEvent::new(EventId(uuid(number)), at(seconds), actor, action, Outcome::Success)
        .with_resource(Resource::new("user", number))
        .with_changes(serde_json::json!({ "before": { "role": "user" }, "after": { "role": "admin" } }));
    event.address = "192.0.2.1".parse().ok();
    event.user_agent = Some("agent".into());
    event
}

impl ProvedLog {
    pub(crate) fn sealer(&self) -> AuditSealer {
        AuditSealer::new(
            (self.database.clone(), self.target.clone()),
            LOG.parse().unwrap(),
            vec![self.note_signer()],
            self.cipher.clone(),
            (self.clock.clone(), Arc::new(OsRandom)),
        )
    }

    /// Seals all that there is.
    pub(crate) async fn seal(&self) {
        let sealer = self.sealer();
        while sealer.seal().await.unwrap().is_some_and(|sealed| sealed.more) {}
    }
}
