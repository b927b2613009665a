//! A log that is written, sealed and verified.

use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use pganalytics_core::audit::{Actor, ActorKind, AuditEvent, AuditSink, Outcome, Resource};
use pganalytics_core::backup::{BackupTarget, MemoryBackupTarget, ObjectPath};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::ids::EventId;
use pganalytics_core::keys::{FieldCipher, KeyName};
use pganalytics_core::random::OsRandom;
use pganalytics_core::signing::MemorySigningKeyStore;
use pganalytics_core::testing::ManualClock;
use pganalytics_core::tlog::{
    AuthenticTree, Checkpoint, NoteSigner, SignedCheckpoint, TileReader, TileStore, TreeEdge, TreeGrowth,
};
use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig};
use pganalytics_crypto::env_key_manager::{EnvKeyManager, EnvKeyManagerConfig};
use pganalytics_store::postgres::{
    AuditRecovery, AuditReport, AuditTrust, AuditVerifier, Database, Finding, PostgresAuditSink,
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
        AuditRecovery::new(
            self.database.clone(),
            self.target.clone(),
            (self.trust().await, self.note_signer()),
            self.clock.clone(),
            Arc::new(OsRandom),
        )
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

// A sealer as simple as can be.

const LEAF: &str = "at, id, writer, writer_sequence, actor_kind, actor_id, actor_role, action, resource_type, \
    resource_id, outcome, reason, request_id, session_id, provider, actor_name_commitment, address_commitment, \
    user_agent_commitment, changes_commitment, mac, era, xid";

const EVERYTHING: &str = "9223372036854775807:9223372036854775807:";

impl ProvedLog {
    /// Seals what there is; nothing is sealed if the log has gone on without this database.
    pub(crate) async fn seal(&self) {
        let mut transaction = self.database.begin().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
             INSERT INTO audit_eras SELECT 1, '{LOG}/1', system_identifier, now() FROM pg_control_system() \
             WHERE NOT EXISTS (SELECT FROM audit_eras)"
        )))
        .execute(&mut *transaction)
        .await
        .unwrap();
        let (era, snapshot): (i16, String) =
            sqlx::query_as("SELECT max(era), pg_current_snapshot()::text FROM audit_eras")
                .fetch_one(&mut *transaction)
                .await
                .unwrap();
        let begun: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM audit_seals WHERE era = $1)")
            .bind(era)
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        if !begun {
            for old in 1..era {
                self.seal_rows(&mut transaction, (era, old), EVERYTHING).await;
            }
        }
        self.seal_rows(&mut transaction, (era, era), &snapshot).await;
        transaction.commit().await.unwrap();
    }

    async fn seal_rows(&self, transaction: &mut PgConnection, (era, rows_era): (i16, i16), snapshot: &str) {
        let before: Option<String> = sqlx::query_scalar(
            "SELECT snapshot::text FROM audit_seals WHERE rows_era = $1 ORDER BY era DESC, number DESC LIMIT 1",
        )
        .bind(rows_era)
        .fetch_optional(&mut *transaction)
        .await
        .unwrap();
        let before = before.unwrap_or("1:1:".into());
        let copy = format!(
            "COPY (SELECT {LEAF} FROM audit_events WHERE era = {rows_era} \
             AND pg_visible_in_snapshot(xid, '{snapshot}') AND NOT pg_visible_in_snapshot(xid, '{before}') \
             ORDER BY xid, at, id) TO STDOUT (FORMAT binary)"
        );
        let rows: Vec<_> =
            transaction.copy_out_raw(&copy).await.unwrap().boxed().try_collect().await.unwrap();
        let rows = rows.concat();
        let reader = self.reader(era);
        let store =
            TileStore::new(self.target.clone()).unwrap().with_prefix(Self::path(&format!("era-{era}")));
        let edge = match reader.checkpoint().await.unwrap() {
            None => TreeEdge::new(),
            Some(published) => {
                let tree = AuthenticTree::open(reader, published.unverified().clone()).await.unwrap();
                tree.edge().await.unwrap()
            }
        };
        let mut growth = TreeGrowth::new(edge);
        let mut rest = &rows[19..];
        while rest[..2] != [0xff, 0xff] {
            let mut end = 2;
            for _ in 0..22 {
                let length = i32::from_be_bytes(*rest[end..].first_chunk().unwrap());
                end += 4 + usize::try_from(length).unwrap_or(0);
            }
            growth.append([&[1], &rest[2..end]].concat().into()).unwrap();
            rest = &rest[end..];
        }
        if growth.size() == growth.old_size() {
            return;
        }
        let origin = format!("{LOG}/{era}").parse().unwrap();
        let checkpoint = Checkpoint::new(origin, growth.size(), growth.root()).unwrap();
        let signed = self.note_signer().sign_note(checkpoint.to_text().unwrap()).await.unwrap();
        let signed = SignedCheckpoint::new(signed).unwrap();
        store.extend(&growth, &signed).await.unwrap();
        sqlx::query(
            "INSERT INTO audit_seals SELECT $1, coalesce(max(number), 0) + 1, $2, $3::pg_snapshot, $4, $5, $6, \
             now(), now() FROM audit_seals WHERE era = $1",
        )
        .bind(era)
        .bind(rows_era)
        .bind(snapshot)
        .bind(growth.old_size().0 as i64)
        .bind((growth.size().0 - growth.old_size().0) as i64)
        .bind(signed.to_string())
        .execute(transaction)
        .await
        .unwrap();
    }
}
