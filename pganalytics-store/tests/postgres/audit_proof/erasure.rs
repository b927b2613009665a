//! What was removed under a signed order, and what was not.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration as StdDuration;

use chrono::{Duration, NaiveDate};
use futures::TryStreamExt;
use pganalytics_core::audit::order::{Order, OrderError, OrderHeading, Removed, Selector};
use pganalytics_core::audit::{AuditEvent, EventProof, LeafRow, PersonalField, Resource};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::UserId;
use pganalytics_core::tlog::CheckpointPolicy;
use pganalytics_crypto::ed25519::verify;
use pganalytics_store::postgres::audit_log::{self, StoredEvent};
use pganalytics_store::postgres::{
    AuditOrderError, AuditOrderExecutor, AuditProver, ErasureOrders, EventProving, Finding, Notice,
    OrderExecuted,
};
use pganalytics_testkit::wait_until;
use sqlx::Connection;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::fixture::{LOG, ProvedLog, event};
use super::orders::{
    CANARY, OrderKey, by_subject, drop_months, erase, heading, issued_at, of_subject, subject,
};
use crate::samples::{at, uuid};

/// Orders that cover these events.
#[derive(Debug)]
struct Ordered {
    events: HashSet<Uuid>,
    removed: Removed,
}

impl Ordered {
    fn of(events: impl IntoIterator<Item = u128>, removed: Removed) -> Arc<Self> {
        Arc::new(Self { events: events.into_iter().map(uuid).collect(), removed })
    }
}

impl ErasureOrders for Ordered {
    fn covers(&self, event: &LeafRow<'_>, removed: Removed) -> bool {
        self.removed == removed && self.events.contains(&event.id)
    }
}

#[tokio::test]
async fn erased_fields_need_an_order() {
    let Some(log) = ProvedLog::sealed().await else { return };
    for number in [4, 5] {
        let erased: i64 = sqlx::query_scalar(
            "SELECT audit_erase_personal(array_agg(at), array_agg(id)) FROM audit_events WHERE id = $1",
        )
        .bind(uuid(number))
        .fetch_one(log.database.pool())
        .await
        .unwrap();
        assert_eq!(erased, 1);
    }
    let both = Ordered::of([4, 5], Removed::PersonalFields);
    let report = log.verifier().await.with_orders(both).verify(|_| {}).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.notices, [Notice::Erased { events: 0, personal: 2 }]);
    for (one, removed) in [(5, Removed::PersonalFields), (4, Removed::Event)] {
        let orders = Ordered::of([one], removed);
        let report = log.verifier().await.with_orders(orders).verify(|_| {}).await.unwrap();
        let Some(Finding::PersonalGone { event, fields }) = report.findings.first() else {
            panic!("{report}")
        };
        assert_eq!(
            (event.id, &fields[..]),
            (uuid(4), &["actor_name", "address", "user_agent", "changes"][..])
        );
    }
}

#[tokio::test]
async fn dropped_partition_needs_an_order() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack("DROP TABLE audit_events_default; DROP TABLE audit_personal_default").await;
    let orders = Ordered::of(0..30, Removed::Event);
    let report = log.verifier().await.with_orders(orders).verify(|_| {}).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.notices, [Notice::Erased { events: 30, personal: 0 }]);
    let orders = Ordered::of((0..30).filter(|number| *number != 7), Removed::Event);
    let report = log.verifier().await.with_orders(orders).verify(|_| {}).await.unwrap();
    let [Finding::MonthGone { rows: 1, first, .. }] = &report.findings[..] else { panic!("{report}") };
    assert_eq!(first.id, uuid(7));
}

/// What an event is proved by, read again from its text.
async fn proof_of(log: &ProvedLog, number: u128) -> EventProof {
    let prover = AuditProver::new(log.database.clone(), log.target.clone());
    match prover.prove(at(number as i64), uuid(number)).await.unwrap() {
        EventProving::Proof(proof) => EventProof::parse(proof.to_string().as_bytes()).unwrap(),
        other => panic!("event {number}: {other:?}"),
    }
}

async fn policy(log: &ProvedLog) -> CheckpointPolicy {
    let keys = log.note_signer().verifier_keys().await.unwrap();
    CheckpointPolicy::new(format!("{LOG}/1").parse().unwrap(), keys).unwrap()
}

#[tokio::test]
async fn erased_person_is_gone_and_everything_is_proved_as_before() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let (key, policy) = (OrderKey::new(), policy(&log).await);
    let (before, checkpoint) = (proof_of(&log, 1).await, log.published(1).await);
    assert_eq!(before.verify(&policy, &verify).unwrap().personal(PersonalField::ActorName), Some(CANARY));
    // What most rows have is remembered there, of a partition and of all of them.
    sqlx::raw_sql("ANALYZE").execute(log.database.pool()).await.unwrap();
    assert!(log.tables_with(CANARY).await.contains(&"pg_statistic".to_owned()));

    let told = Mutex::new(Vec::new());
    let order = key.sign(&erase(1, of_subject(subject()))).await;
    let executor = key.executor(&log).with_batch(2);
    let done = executor.execute(order.as_bytes(), |done| told.lock().unwrap().push(done.personal_erased));
    assert_eq!(done.await.unwrap().personal_erased, 10);
    assert_eq!(*told.lock().unwrap(), [2, 4, 5, 7, 9, 10]);
    assert_eq!(log.tables_with(CANARY).await, [] as [String; 0]);
    assert_eq!(log.tables_with("203.0.113.77").await, [] as [String; 0]);
    assert_eq!(log.personal().await, 5, "nobody else lost anything");

    assert_eq!(log.published(1).await.to_string(), checkpoint.to_string());
    let report = key.verify(&log).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.notices, [Notice::Erased { events: 0, personal: 10 }]);
    // The proof that was given away before is still one, as is that of today without what was erased.
    assert_eq!(before.verify(&policy, &verify).unwrap().row().id, uuid(1));
    for number in [0, 1, 2, 14] {
        let proved = proof_of(&log, number).await.verify(&policy, &verify).unwrap();
        let name = (number == 0).then_some("Ada");
        assert_eq!((proved.row().id, proved.personal(PersonalField::ActorName)), (uuid(number), name));
    }
    let unordered = log.verify().await;
    assert_eq!(unordered.findings_total, 10, "{unordered}");
    assert!(matches!(unordered.findings[0], Finding::PersonalGone { .. }), "{unordered}");

    log.seal().await;
    let report = key.verify(&log).await;
    assert!(report.is_clean(), "{report}");
    let events = log.number("SELECT count(*) FROM audit_events WHERE action LIKE 'audit.order.%'").await;
    assert_eq!(events, 8, "one when it came, one a transaction, one at the end");
    let again = key.execute(&log, &erase(1, of_subject(subject()))).await.unwrap();
    assert_eq!((again.personal_erased, again.executed_before), (0, Some(log.clock.now())));
}

#[tokio::test]
async fn order_that_is_not_to_be_obeyed_erases_nothing() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let (key, stranger) = (OrderKey::new(), OrderKey::new());
    let selectors = of_subject(subject());
    let refused = |order: Order| {
        let (key, log) = (&key, &log);
        async move { key.execute(log, &order).await.unwrap_err() }
    };
    let forged = stranger.sign(&erase(1, selectors)).await;
    let signed = key.sign(&erase(1, [Selector::ActorUser(uuid(7))])).await;
    let changed = signed.replace(&uuid(7).to_string(), &subject().to_string());
    for note in [forged.as_str(), &changed, "", "pga.audit.order.1\n"] {
        let error = key.executor(&log).execute(note.as_bytes(), |_| {}).await.unwrap_err();
        assert!(matches!(error, AuditOrderError::Order(_)), "{error:?}");
    }
    let other_log = OrderHeading { log: "example.com/other".parse().unwrap(), ..heading(1) };
    let error = refused(Order::to_erase(other_log, selectors).unwrap()).await;
    assert!(matches!(error, AuditOrderError::Order(OrderError::OtherLog { .. })), "{error:?}");
    assert_eq!(log.number("SELECT count(*) FROM audit_events WHERE action LIKE 'audit.order.%'").await, 0);

    log.clock.set(issued_at() - Duration::seconds(1));
    let error = refused(erase(1, selectors)).await;
    assert!(matches!(error, AuditOrderError::NotIssued { .. }), "{error:?}");
    log.clock.set(heading(1).expires_at);
    let error = refused(erase(1, selectors)).await;
    assert!(matches!(error, AuditOrderError::Expired { .. }), "{error:?}");
    assert_eq!(log.number("SELECT count(*) FROM audit_orders").await, 0);

    log.clock.set(issued_at());
    key.execute(&log, &erase(1, [Selector::ActorUser(uuid(99))])).await.unwrap();
    let error = refused(erase(1, selectors)).await;
    assert!(matches!(error, AuditOrderError::OtherText { .. }), "{error:?}");
    let denied = "SELECT count(*) FROM audit_events WHERE action = 'audit.order.execute' AND outcome = 'denied' \
        AND reason IN ('not_issued', 'expired', 'other_text')";
    assert_eq!(log.number(denied).await, 3);
    assert_eq!(log.personal().await, 15);
    assert!(key.verify(&log).await.is_clean());
}

#[tokio::test]
async fn stored_order_that_nobody_signed_or_for_others_covers_nothing() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let (key, stranger) = (OrderKey::new(), OrderKey::new());
    let store = "INSERT INTO audit_orders (id, note, received_at, executed_at) VALUES ($1, $2, now(), now())";
    for (number, note) in [
        (1, stranger.sign(&erase(1, of_subject(subject()))).await),
        (2, key.sign(&erase(2, of_subject(uuid(99)))).await),
        (3, key.sign(&erase(3, [Selector::Before(at(1))])).await),
        (4, "nothing".into()),
    ] {
        let stored = sqlx::query(store).bind(uuid(number)).bind(note);
        stored.execute(log.database.pool()).await.unwrap();
    }
    log.attack(&format!("DELETE FROM audit_personal WHERE id = '{}'", uuid(1))).await;
    let report = key.verify(&log).await;
    let [Finding::PersonalGone { event, .. }] = &report.findings[..] else { panic!("{report}") };
    assert_eq!(event.id, uuid(1));
    // An order that takes the place of the forged one is obeyed.
    let done = key.execute(&log, &erase(1, of_subject(subject()))).await.unwrap();
    assert_eq!(done.personal_erased, 9);
    assert!(key.verify(&log).await.is_clean());
}

#[tokio::test]
async fn what_is_held_is_not_erased() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let (key, held) = (OrderKey::new(), |error: AuditOrderError| match error {
        AuditOrderError::Held { hold } => hold,
        other => panic!("{other:?}"),
    });
    let elsewhere = log.holds().place(Some(UserId(uuid(99))), "case 1").await.unwrap();
    let hold = log.holds().place(Some(UserId(subject())), "case 2").await.unwrap();
    // Ada did some of it to the account that is held.
    for (number, selectors) in [
        (1, vec![Selector::ActorUser(subject())]),
        (2, of_subject(uuid(7)).to_vec()),
        (3, vec![Selector::Before(issued_at())]),
        (4, vec![Selector::Event { at: at(1), id: uuid(1) }]),
    ] {
        assert_eq!(held(key.execute(&log, &erase(number, selectors)).await.unwrap_err()), hold.id);
    }
    assert_eq!(held(key.execute(&log, &drop_months(5, &["2026-01"])).await.unwrap_err()), hold.id);
    let done = key.execute(&log, &erase(6, [Selector::Event { at: at(0), id: uuid(0) }])).await.unwrap();
    assert_eq!(done.personal_erased, 1, "what is not held goes");
    assert_eq!(log.personal().await, 14);

    assert_eq!(log.holds().release(hold.id).await.unwrap().unwrap().released_at, Some(log.clock.now()));
    assert_eq!(log.holds().release(hold.id).await.unwrap(), None);
    let everything = log.holds().place(None, "case 3").await.unwrap();
    assert_eq!(held(key.execute(&log, &erase(7, of_subject(subject()))).await.unwrap_err()), everything.id);
    log.holds().release(everything.id).await.unwrap();
    assert_eq!(key.execute(&log, &erase(8, of_subject(subject()))).await.unwrap().personal_erased, 10);
    let holds: Vec<Uuid> = log.holds().list().await.unwrap().iter().map(|hold| hold.id).collect();
    assert_eq!(holds.len(), 3);
    assert!(holds.contains(&elsewhere.id));
    let events =
        "SELECT count(*) FROM audit_events WHERE action IN ('audit.hold.place', 'audit.hold.release')";
    assert_eq!(log.number(events).await, 5);
    assert!(key.verify(&log).await.is_clean());
}

#[tokio::test]
async fn hold_that_is_being_placed_is_waited_for() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let key = OrderKey::new();
    let mut placing = log.database.direct().await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut placing).await.unwrap();
    sqlx::query("INSERT INTO audit_holds (id, subject, reason, placed_at) VALUES ($1, $2, 'case', now())")
        .bind(uuid(1))
        .bind(subject())
        .execute(&mut placing)
        .await
        .unwrap();
    let (executor, order) = (key.executor(&log), key.sign(&erase(1, of_subject(subject()))).await);
    let executing = tokio::spawn(async move { executor.execute(order.as_bytes(), |_| {}).await });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit_holds'::regclass";
    let limit = StdDuration::from_secs(4);
    assert!(wait_until(limit, || async { log.number(waits).await == 1 }).await, "nobody waits");
    sqlx::raw_sql("COMMIT").execute(&mut placing).await.unwrap();
    let error = executing.await.unwrap().unwrap_err();
    assert!(matches!(error, AuditOrderError::Held { hold } if hold == uuid(1)), "{error:?}");
    assert_eq!(log.personal().await, 15);
    placing.close().await.unwrap();
}

/// Executes an order until it has told of so many transactions, and then does this to it. It does not go on before that is done.
/// Yields whether it came to its end.
async fn cut_short(
    executor: AuditOrderExecutor,
    order: String,
    transactions: usize,
    cut: impl AsyncFnOnce(AbortHandle),
) -> bool {
    let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, going_on) = std::sync::mpsc::channel::<()>();
    let going_on = Mutex::new(going_on);
    let executing = tokio::spawn(async move {
        let progress = |_: &OrderExecuted| {
            // Once nobody holds it up any more, it runs to its end.
            let _ = told.send(());
            let _ = tokio::task::block_in_place(|| going_on.lock().unwrap().recv());
        };
        executor.execute(order.as_bytes(), progress).await
    });
    for _ in 1..transactions {
        telling.recv().await.unwrap();
        go_on.send(()).unwrap();
    }
    telling.recv().await.unwrap();
    cut(executing.abort_handle()).await;
    drop(go_on);
    matches!(executing.await, Ok(Ok(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn erasure_that_was_cut_short_goes_on_to_the_same_end() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let key = OrderKey::new();
    let order = key.sign(&erase(1, of_subject(subject()))).await;
    let executor = || key.executor(&log).with_batch(2);
    assert!(!cut_short(executor(), order.clone(), 1, async |task| task.abort()).await);
    assert_eq!(log.personal().await, 13);
    let report = key.verify(&log).await;
    assert!(report.is_clean(), "half of it is covered, too: {report}");
    cut_short(executor(), order.clone(), 2, async |_| {
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let mut connection = log.database.direct().await.unwrap();
        sqlx::raw_sql(kill).execute(&mut connection).await.unwrap();
    })
    .await;
    // The pool gives those up that are broken when they come back.
    let mut connections = Vec::new();
    for _ in 0..5 {
        connections.push(log.database.pool().acquire().await.unwrap());
    }
    drop(connections);
    // Its time is over, but it was begun before.
    log.clock.set(heading(1).expires_at + Duration::days(1));
    let done = executor().execute(order.as_bytes(), |_| {}).await.unwrap();
    assert_eq!((log.personal().await, done.executed_before), (5, None));
    log.seal().await;
    assert_eq!(log.tables_with(CANARY).await, [] as [String; 0]);
    let report = key.verify(&log).await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn order_that_is_executed_twice_at_once_erases_once() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let key = OrderKey::new();
    let order = key.sign(&erase(1, of_subject(subject()))).await;
    let execute = async || {
        match key.executor(&log).with_batch(1).execute(order.as_bytes(), |_| {}).await {
            // The other one came to the end first.
            Err(AuditOrderError::Overtaken) => None,
            done => Some(done.unwrap()),
        }
    };
    let (one, other) = tokio::join!(execute(), execute());
    assert!(one.is_some() || other.is_some());
    assert_eq!(log.personal().await, 5);
    let finished = "SELECT count(*) FROM audit_events WHERE action = 'audit.order.finish'";
    assert_eq!(log.number(finished).await, 1);
    let report = key.verify(&log).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.notices, [Notice::Erased { events: 0, personal: 10 }]);
}

#[tokio::test]
async fn of_two_orders_with_one_id_one_is_executed() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let key = OrderKey::new();
    let (one, other) = (erase(1, of_subject(subject())), erase(1, of_subject(uuid(7))));
    let outcomes = tokio::join!(key.execute(&log, &one), key.execute(&log, &other));
    let (refused, erased) = match outcomes {
        (Ok(done), Err(error)) | (Err(error), Ok(done)) => (error, done.personal_erased),
        outcomes => panic!("{outcomes:?}"),
    };
    assert!(matches!(refused, AuditOrderError::Overtaken | AuditOrderError::OtherText { .. }), "{refused:?}");
    // Both are about ten events; of five, one did what was done to the other.
    assert_eq!((erased, log.personal().await), (10, 5));
    let report = key.verify(&log).await;
    assert!(report.is_clean(), "{report}");
}

/// Two months with partitions of their own, one seal over the end of the first; events 0 to 9 and 10 to 14.
async fn two_months() -> Option<ProvedLog> {
    let log = ProvedLog::empty().await?;
    let (january, february) =
        (NaiveDate::from_ymd_opt(2026, 1, 1).unwrap(), NaiveDate::from_ymd_opt(2026, 2, 1).unwrap());
    let mut connection = log.database.direct().await.unwrap();
    audit_log::ensure_partitions(&mut connection, january, february).await.unwrap();
    for number in 0..15 {
        // One of February comes first, so that the rest of the month is not all behind January.
        log.append_event(&in_month(if number == 0 { 14 } else { number - 1 })).await;
        if number == 5 {
            log.seal().await;
        }
    }
    log.seal().await;
    log.clock.set(issued_at());
    Some(log)
}

fn in_month(number: u128) -> AuditEvent {
    let mut event = by_subject(number);
    if number >= 10 {
        event.at += Duration::days(31);
    }
    event
}

#[tokio::test]
async fn month_is_dropped_under_an_order_once_it_is_sealed() {
    let Some(log) = two_months().await else { return };
    let (key, order) = (OrderKey::new(), drop_months(1, &["2025-12", "2026-01"]));
    let not_sealed = async || match key.execute(&log, &order).await.unwrap_err() {
        AuditOrderError::NotSealed { month } => assert_eq!(month.to_string(), "2026-01"),
        other => panic!("{other:?}"),
    };
    log.append_event(&by_subject(40)).await;
    not_sealed().await;
    log.seal().await;
    let unpublish =
        "UPDATE audit_seals SET published_at = NULL WHERE number = (SELECT max(number) FROM audit_seals)";
    sqlx::query(unpublish).execute(log.database.pool()).await.unwrap();
    not_sealed().await;
    let publish = "UPDATE audit_seals SET published_at = now() WHERE published_at IS NULL";
    sqlx::query(publish).execute(log.database.pool()).await.unwrap();
    assert_eq!(log.number("SELECT count(*) FROM audit_events WHERE at < '2026-02-01'").await, 11);

    let done = key.execute(&log, &order).await.unwrap();
    assert_eq!(done.months_dropped, ["2026-01".parse().unwrap()]);
    assert_eq!(log.number("SELECT count(*) FROM audit_events WHERE at < '2026-02-01'").await, 0);
    assert_eq!(log.number("SELECT count(*) FROM audit_personal WHERE at < '2026-03-01'").await, 5);
    for table in ["audit_events_202601", "audit_personal_202601"] {
        let left = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table);
        let left: bool = left.fetch_one(log.database.pool()).await.unwrap();
        assert!(!left, "{table}");
    }
    let report = key.verify(&log).await;
    assert!(report.is_clean(), "{report}");
    assert!(report.notices.contains(&Notice::Erased { events: 11, personal: 0 }), "{report}");
    let unordered = log.verify().await;
    let gone = unordered.findings.iter().find(|finding| matches!(finding, Finding::MonthGone { .. }));
    let Some(Finding::MonthGone { rows: 11, month, .. }) = gone else { panic!("{unordered}") };
    assert_eq!(month, "2026-01-01");

    // Events of the same seals are still found in them.
    let policy = policy(&log).await;
    let prover = AuditProver::new(log.database.clone(), log.target.clone());
    for number in 10..15 {
        let event = in_month(number);
        let EventProving::Proof(proof) = prover.prove(event.at, event.id.0).await.unwrap() else {
            panic!("event {number}")
        };
        assert_eq!(proof.verify(&policy, &verify).unwrap().row().id, uuid(number));
    }
    assert_eq!(key.execute(&log, &order).await.unwrap().executed_before, Some(log.clock.now()));
    let again = key.execute(&log, &drop_months(2, &["2026-01"])).await.unwrap();
    assert_eq!((again.months_dropped.len(), again.months_left.len()), (0, 0));
}

#[tokio::test]
async fn month_in_the_default_partition_is_left_and_told_of() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let key = OrderKey::new();
    let done = key.execute(&log, &drop_months(1, &["2026-01"])).await.unwrap();
    assert_eq!((done.months_dropped.len(), done.months_left), (0, vec!["2026-01".parse().unwrap()]));
    assert_eq!(log.personal().await, 15);
}

#[tokio::test]
async fn everything_that_is_known_of_a_person_is_read_once() {
    let Some(log) = ProvedLog::of_two().await else { return };
    let mut both = by_subject(20);
    both.resource = Some(Resource::new("user", subject()));
    log.append_event(&both).await;
    log.append_event(&event(21)).await;
    let key = OrderKey::new();
    key.execute(&log, &erase(1, [Selector::Event { at: at(1), id: uuid(1) }])).await.unwrap();
    let mut transaction = log.database.begin().await.unwrap();
    let events = audit_log::events_of_subject(&mut transaction, UserId(subject())).await.unwrap();
    let events: Vec<StoredEvent> = events.try_collect().await.unwrap();
    let ids: Vec<Uuid> = events.iter().map(|stored| stored.event.id.0).collect();
    assert_eq!(ids, [1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 20].map(uuid));
    assert!(events[0].is_erased && events[0].event.actor.name.is_none());
    assert_eq!(events[2].event.actor.name.as_deref(), Some(CANARY));
}
