use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use pganalytics_core::audit::order::{Month, Order, OrderedAct};
use pganalytics_core::audit::{Actor, AuditEvent, Outcome, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::{Random, RandomExt};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};

use super::batch::{Selected, Source};
use super::holds::{Held, begin};
use super::month::{Dropped, check_month, drop_month};
use super::{AuditOrderError, OrderTrust};
use crate::postgres::{CommitError, Database, StoreError, UnitOfWork};

/// How many events lose their personal fields in one transaction, unless said otherwise.
const BATCH: u32 = 1000;

/// Executes orders to take something out of the audit log: in many small transactions, each with an event of its own, none of which
/// begins while a hold keeps what the order would take.
///
/// # Guarantees
/// Cut short anywhere, it comes to the same end when it is begun again. A hold that was placed before a transaction is obeyed by it.
/// Nothing is taken that the order does not cover, and no event goes before its month is sealed and the seal is published.
///
/// # Limits
/// Whoever owns the tables can take anything without it, and is found out by [`AuditVerifier`](crate::postgres::AuditVerifier). What
/// was erased stays in backups, in the write-ahead log and in other sinks for as long as these are kept.
#[derive(Clone, Debug)]
pub struct AuditOrderExecutor {
    database: Database,
    trust: OrderTrust,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    actor: Actor,
    batch: u32,
}

/// What executing an order came to, or has come to so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OrderExecuted {
    /// How many events lost their personal fields, this time.
    pub personal_erased: u64,
    /// The months that were dropped, this time.
    pub months_dropped: Vec<Month>,
    /// Months that lie in the default partition and stay there: erase their personal fields instead.
    pub months_left: Vec<Month>,
    /// When it had been executed before; nothing was done then.
    pub executed_before: Option<DateTime<Utc>>,
}

/// An order that is being executed.
struct Run<'e, P> {
    executor: &'e AuditOrderExecutor,
    order: &'e Order,
    progress: P,
    done: OrderExecuted,
    /// The partitions in which something was erased.
    touched: BTreeSet<String>,
}

impl AuditOrderExecutor {
    /// Executes orders that this trusts, in a database whose connections have the rights of its owner, for this actor.
    pub fn new(
        database: Database,
        trust: OrderTrust,
        parts: (Arc<dyn Clock>, Arc<dyn Random>),
        actor: Actor,
    ) -> Self {
        let (clock, random) = parts;
        Self { database, trust, clock, random, actor, batch: BATCH }
    }

    /// Erases the personal fields of so many events in one transaction; at least one.
    #[must_use]
    pub fn with_batch(self, batch: u32) -> Self {
        Self { batch: batch.max(1), ..self }
    }

    /// Executes a signed order to its end, or goes on where it was cut short. Tells after each transaction what was done. An order
    /// that was executed is not executed again.
    ///
    /// # Errors
    /// Why it was not executed to its end. A refusal of an order with a valid signature is recorded.
    pub async fn execute(
        &self,
        note: &[u8],
        progress: impl Fn(&OrderExecuted) + Send + Sync,
    ) -> Result<OrderExecuted, AuditOrderError> {
        let order = self.trust.open(note)?;
        let (done, touched) = (OrderExecuted::default(), BTreeSet::new());
        let run = Run { executor: self, order: &order, progress, done, touched };
        let executed = run.execute(note).await;
        if let Some(reason) = executed.as_ref().err().and_then(AuditOrderError::reason) {
            self.record_refusal(&order, reason).await?;
        }
        executed
    }

    async fn record_refusal(&self, order: &Order, reason: &str) -> Result<(), StoreError> {
        let mut work = begin(&self.database).await?;
        let mut event = self.event(order, "audit.order.execute", Outcome::Denied);
        event.reason = Some(reason.to_owned());
        work.record(event);
        work.commit().await.map_err(CommitError::into_store_error)
    }

    fn event(&self, order: &Order, action: &str, outcome: Outcome) -> AuditEvent {
        let action = action.parse().expect("it is an action");
        let id = EventId(self.random.uuid_v7(&*self.clock));
        AuditEvent::new(id, self.clock.now(), self.actor.clone(), action, outcome)
            .with_resource(Resource::new("audit_order", order.id))
    }
}

impl<P: Fn(&OrderExecuted) + Send + Sync> Run<'_, P> {
    async fn execute(mut self, note: &[u8]) -> Result<OrderExecuted, AuditOrderError> {
        self.done.executed_before = self.receive(note).await?;
        if self.done.executed_before.is_some() {
            return Ok(self.done);
        }
        match &self.order.act {
            OrderedAct::ErasePersonal(selectors) => {
                for source in Source::all(selectors)? {
                    self.erase(&source).await?;
                }
            }
            OrderedAct::DropEvents(months) => {
                for month in months {
                    self.drop_month(*month).await?;
                }
            }
            _ => return Err(AuditOrderError::Unknown),
        }
        self.clean().await?;
        self.finish().await?;
        Ok(self.done)
    }

    /// Stores the order, or finds it stored, and makes sure that it may be executed. Yields when it was.
    async fn receive(&self, note: &[u8]) -> Result<Option<DateTime<Utc>>, AuditOrderError> {
        let (order, now) = (self.order, self.executor.clock.now());
        if order.issued_at > now {
            return Err(AuditOrderError::NotIssued { issued_at: order.issued_at });
        }
        let mut work = begin(&self.executor.database).await?;
        let stored = "SELECT note, executed_at FROM audit_orders WHERE id = $1 FOR UPDATE";
        let stored: Option<(String, Option<DateTime<Utc>>)> = sqlx::query_as(stored)
            .bind(order.id)
            .fetch_optional(work.connection())
            .await
            .map_err(StoreError::from)?;
        // A row that nobody signed is no order, and is replaced.
        let known = stored.as_ref().and_then(|(stored, executed_at)| {
            Some((self.executor.trust.open(stored.as_bytes()).ok()?, *executed_at))
        });
        match known {
            Some((known, _)) if known != *order => return Err(AuditOrderError::OtherText { id: order.id }),
            Some((_, Some(executed_at))) => return Ok(Some(executed_at)),
            Some((_, None)) => {}
            None if order.expires_at <= now => {
                return Err(AuditOrderError::Expired { expires_at: order.expires_at });
            }
            None => self.store(&mut work, note, stored.map(|(stored, _)| stored)).await?,
        }
        self.check_holds(&mut work).await?;
        work.commit().await.map_err(CommitError::into_store_error)?;
        Ok(None)
    }

    /// Stores the order, in the place of what is no order.
    async fn store(
        &self,
        work: &mut UnitOfWork,
        note: &[u8],
        replaced: Option<String>,
    ) -> Result<(), AuditOrderError> {
        let store = "INSERT INTO audit_orders (id, note, received_at) VALUES ($1, $2, $3) \
            ON CONFLICT (id) DO UPDATE \
                SET note = excluded.note, received_at = excluded.received_at, executed_at = NULL \
                WHERE audit_orders.note = $4";
        let stored = sqlx::query(store)
            .bind(self.order.id)
            .bind(String::from_utf8_lossy(note))
            .bind(self.executor.clock.now())
            .bind(replaced)
            .execute(work.connection())
            .await
            .map_err(StoreError::from)?;
        if stored.rows_affected() == 0 {
            return Err(AuditOrderError::Overtaken);
        }
        let Order { by, reason, .. } = self.order;
        let event = self.executor.event(self.order, "audit.order.receive", Outcome::Success);
        work.record(event.with_changes(json!({ "after": { "by": by, "reason": reason } })));
        Ok(())
    }

    /// Looks once at everything that the order would take, so that it is refused as a whole.
    async fn check_holds(&self, work: &mut UnitOfWork) -> Result<(), AuditOrderError> {
        lift_timeout(work).await?;
        let held = Held::lock(work.connection()).await?;
        held.check_all()?;
        match &self.order.act {
            OrderedAct::ErasePersonal(selectors) => {
                for source in Source::all(selectors)? {
                    let found = source.held(work.connection(), &held, self.order.issued_at).await?;
                    source.user().into_iter().chain(found).try_for_each(|user| held.check(user))?;
                }
            }
            OrderedAct::DropEvents(months) => {
                for month in months {
                    check_month(work.connection(), *month, &held).await?;
                }
            }
            _ => return Err(AuditOrderError::Unknown),
        }
        Ok(())
    }

    /// Begins a transaction that takes something, while nobody places a hold.
    async fn begin_taking(&self) -> Result<(UnitOfWork, Held), AuditOrderError> {
        let mut work = self.begin().await?;
        lift_timeout(&mut work).await?;
        let held = Held::lock(work.connection()).await?;
        held.check_all()?;
        Ok((work, held))
    }

    /// Begins a transaction of the order, which nobody else executes meanwhile.
    async fn begin(&self) -> Result<UnitOfWork, AuditOrderError> {
        let mut work = begin(&self.executor.database).await?;
        let mine = "SELECT executed_at IS NULL FROM audit_orders WHERE id = $1 FOR UPDATE";
        let mine = sqlx::query_scalar(mine).bind(self.order.id).fetch_optional(work.connection()).await;
        let mine: Option<bool> = mine.map_err(StoreError::from)?;
        match mine {
            Some(true) => Ok(work),
            Some(false) => Err(AuditOrderError::Overtaken),
            None => Err(AuditOrderError::Removed),
        }
    }

    async fn erase(&mut self, source: &Source) -> Result<(), AuditOrderError> {
        let mut after: Option<Selected> = None;
        loop {
            let (mut work, held) = self.begin_taking().await?;
            let page = (after.as_ref(), i64::from(self.executor.batch));
            let selected = source.next(work.connection(), &held, self.order.issued_at, page).await?;
            let Some(last) = selected.last() else { return Ok(()) };
            let mut users = source.user().into_iter().chain(selected.iter().filter_map(|event| event.held));
            users.try_for_each(|user| held.check(user))?;
            after = Some(last.clone());
            let mut left = selected.into_iter().filter(|event| event.relation.is_some()).peekable();
            if left.peek().is_some() {
                self.erase_these(work, left.collect()).await?;
            }
        }
    }

    async fn erase_these(&mut self, mut work: UnitOfWork, events: Vec<Selected>) -> Result<(), StoreError> {
        let (times, ids): (Vec<_>, Vec<_>) = events.iter().map(|event| (event.at, event.id)).unzip();
        let erase = sqlx::query_scalar("SELECT audit_erase_personal($1, $2)").bind(times).bind(ids);
        let erased: i64 = erase.fetch_one(work.connection()).await?;
        self.commit(work, json!({ "personal_erased": erased })).await?;
        self.done.personal_erased += u64::try_from(erased).unwrap_or(0);
        self.touched.extend(events.into_iter().filter_map(|event| event.relation));
        (self.progress)(&self.done);
        Ok(())
    }

    async fn drop_month(&mut self, month: Month) -> Result<(), AuditOrderError> {
        let (mut work, held) = self.begin_taking().await?;
        match drop_month(work.connection(), month, &held).await? {
            Dropped::Nothing => return Ok(()),
            Dropped::InDefault => {
                self.done.months_left.push(month);
                return Ok(());
            }
            Dropped::Gone => {}
        }
        self.commit(work, json!({ "month_dropped": month.to_string() })).await?;
        self.done.months_dropped.push(month);
        (self.progress)(&self.done);
        Ok(())
    }

    async fn commit(&self, mut work: UnitOfWork, after: Value) -> Result<(), StoreError> {
        let event = self.executor.event(self.order, "audit.order.execute", Outcome::Success);
        work.record(event.with_changes(json!({ "after": after })));
        work.commit().await.map_err(CommitError::into_store_error)
    }

    /// Has the space of what was erased used again, which the tables would otherwise wait long for, and the statistics forget
    /// it: they hold the values that most rows have. A run that was killed may have left that to this one.
    async fn clean(&self) -> Result<(), StoreError> {
        let mut connection = self.executor.database.direct().await?;
        let vacuums = self.touched.iter().map(|relation| format!("VACUUM {relation}"));
        // Of a partitioned table it takes those of all together and of each.
        for statement in vacuums.chain(["ANALYZE audit_personal".to_owned()]) {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(())
    }

    async fn finish(&self) -> Result<(), AuditOrderError> {
        let mut work = self.begin().await?;
        let now = self.executor.clock.now();
        sqlx::query("UPDATE audit_orders SET executed_at = $2 WHERE id = $1")
            .bind(self.order.id)
            .bind(now)
            .execute(work.connection())
            .await
            .map_err(StoreError::from)?;
        let left: Vec<String> = self.done.months_left.iter().map(Month::to_string).collect();
        let event = self.executor.event(self.order, "audit.order.finish", Outcome::Success);
        let now = now.to_rfc3339_opts(SecondsFormat::Micros, true);
        work.record(event.with_changes(json!({ "after": { "executed_at": now, "months_left": left } })));
        work.commit().await.map_err(CommitError::into_store_error)?;
        Ok(())
    }
}

/// Looking through a month may take longer than a request.
async fn lift_timeout(work: &mut UnitOfWork) -> Result<(), StoreError> {
    sqlx::query("SELECT set_config('statement_timeout', '0', true)").execute(work.connection()).await?;
    Ok(())
}
