//! Orders that are signed, and events of more than one person.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use pganalytics_core::audit::order::{Month, Order, OrderHeading, Selector};
use pganalytics_core::audit::{Actor, ActorKind, AuditEvent, AuditSink, Resource};
use pganalytics_core::keys::DataKey;
use pganalytics_core::random::OsRandom;
use pganalytics_core::tlog::{NoteKeyKind, NoteSigner, VerifierKey, VerifierKeys};
use pganalytics_crypto::ed25519::{Ed25519SeedSigner, verify};
use pganalytics_store::postgres::{
    AuditHolds, AuditOrderError, AuditOrderExecutor, AuditReport, OrderExecuted, OrderTrust,
    PostgresAuditSink, StoredOrders,
};
use uuid::Uuid;

use super::fixture::{LOG, ProvedLog, event};
use crate::samples::{at, uuid};

/// What of an erased person must not be found anywhere.
pub(crate) const CANARY: &str = "canary4711";

/// Whose events are erased.
pub(crate) fn subject() -> Uuid {
    uuid(0xabcdef)
}

/// Everything that is known of a person.
pub(crate) fn of_subject(user: Uuid) -> [Selector; 2] {
    [Selector::ActorUser(user), Selector::ResourceUser(user)]
}

/// An event that the subject did.
pub(crate) fn by_subject(number: u128) -> AuditEvent {
    let mut event = event(number);
    event.actor = Actor {
        kind: ActorKind::User,
        id: Some(subject().to_string()),
        name: Some(CANARY.into()),
        role: None,
    };
    event.user_agent = Some(CANARY.into());
    event.address = "203.0.113.77".parse().ok();
    event.with_changes(serde_json::json!({ "after": { "email": CANARY } }))
}

/// An event that somebody else did to the subject's account.
pub(crate) fn to_subject(number: u128) -> AuditEvent {
    event(number)
        .with_resource(Resource::new("user", subject()))
        .with_changes(serde_json::json!({ "after": { "email": CANARY } }))
}

/// A key that signs orders.
pub(crate) struct OrderKey(Arc<Ed25519SeedSigner>);

impl OrderKey {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Ed25519SeedSigner::new(&DataKey::generate())))
    }

    pub(crate) async fn sign(&self, order: &Order) -> String {
        let signer = NoteSigner::new("example.com/orders".parse().unwrap(), self.0.clone());
        signer.sign_note(order.to_text().unwrap()).await.unwrap().to_string()
    }

    pub(crate) fn trust(&self) -> OrderTrust {
        let name = "example.com/orders".parse().unwrap();
        let key = VerifierKey::new(name, NoteKeyKind::Ed25519, self.0.public_key());
        OrderTrust::new(LOG.parse().unwrap(), VerifierKeys::new([key]).unwrap(), Arc::new(verify))
    }

    pub(crate) fn executor(&self, log: &ProvedLog) -> AuditOrderExecutor {
        AuditOrderExecutor::new(
            log.database.clone(),
            self.trust(),
            (log.clock.clone(), Arc::new(OsRandom)),
            operator(),
        )
    }

    /// Signs and executes an order.
    pub(crate) async fn execute(
        &self,
        log: &ProvedLog,
        order: &Order,
    ) -> Result<OrderExecuted, AuditOrderError> {
        self.executor(log).execute(self.sign(order).await.as_bytes(), |_| {}).await
    }

    /// Verifies the log with the orders that its database has.
    pub(crate) async fn verify(&self, log: &ProvedLog) -> AuditReport {
        let mut connection = log.database.direct().await.unwrap();
        let orders = StoredOrders::read(&mut connection, &self.trust()).await.unwrap();
        log.verifier().await.with_orders(Arc::new(orders)).verify(|_| {}).await.unwrap()
    }
}

pub(crate) fn operator() -> Actor {
    Actor { kind: ActorKind::Operator, id: None, name: Some("ops".into()), role: None }
}

/// When orders are issued: later than all events of the tests.
pub(crate) fn issued_at() -> DateTime<Utc> {
    at(0) + Duration::days(90)
}

pub(crate) fn heading(number: u128) -> OrderHeading {
    OrderHeading {
        id: uuid(number),
        log: LOG.parse().unwrap(),
        issued_at: issued_at(),
        expires_at: issued_at() + Duration::days(30),
        by: "data protection officer".into(),
        reason: "case 4711".into(),
    }
}

pub(crate) fn erase(number: u128, selectors: impl IntoIterator<Item = Selector>) -> Order {
    Order::to_erase(heading(number), selectors).unwrap()
}

pub(crate) fn drop_months(number: u128, months: &[&str]) -> Order {
    let months: Vec<Month> = months.iter().map(|month| month.parse().unwrap()).collect();
    Order::to_drop(heading(number), months).unwrap()
}

impl ProvedLog {
    /// A sealed log in which every third event is by the subject, and every third to their account: 5 of 15 each. The clock shows
    /// a time after orders were issued.
    pub(crate) async fn of_two() -> Option<Self> {
        let log = Self::empty().await?;
        for number in 0..15 {
            let event = match number % 3 {
                0 => event(number),
                1 => by_subject(number),
                _ => to_subject(number),
            };
            log.append_event(&event).await;
            if number % 6 == 5 {
                log.seal().await;
            }
        }
        log.seal().await;
        log.clock.set(issued_at() + Duration::minutes(1));
        Some(log)
    }

    pub(crate) async fn append_event(&self, event: &AuditEvent) {
        PostgresAuditSink::new(self.database.clone()).append(std::slice::from_ref(event)).await.unwrap();
    }

    pub(crate) fn holds(&self) -> AuditHolds {
        AuditHolds::new(self.database.clone(), (self.clock.clone(), Arc::new(OsRandom)), operator())
    }

    /// How many events have personal fields.
    pub(crate) async fn personal(&self) -> i64 {
        self.number("SELECT count(*) FROM audit_personal WHERE at < '2026-03-01'").await
    }

    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(self.database.pool()).await.unwrap()
    }

    /// The tables in which a text is, partitions and statistics included.
    pub(crate) async fn tables_with(&self, text: &str) -> Vec<String> {
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
                OR c.oid = 'pg_statistic'::regclass",
        )
        .fetch_all(self.database.pool())
        .await
        .unwrap();
        assert!(tables.len() > 20, "{tables:?}");
        let mut found = Vec::new();
        for table in tables {
            let query =
                format!("SELECT EXISTS (SELECT FROM {table} AS t WHERE t::text LIKE '%' || $1 || '%')");
            let is_there = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).bind(text);
            if is_there.fetch_one(self.database.pool()).await.unwrap() {
                found.push(table);
            }
        }
        found
    }
}
