use chrono::{DateTime, Datelike, Days, Duration, Months, NaiveDate, Utc};
use pganalytics_core::audit::{Actor, ActorKind, AuditEvent, AuditSink, Outcome, Resource};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::random::{OsRandom, RandomExt};
use pganalytics_core::session::SessionId;
use pganalytics_store::postgres::audit_log::{
    self, AuditCursor, AuditFilter, AuditScan, HistoryOrder, PERSONAL_RANGE_MAX, ResourceHistory,
};
use pganalytics_store::postgres::metrics::PartitionOutcome;
use pganalytics_store::postgres::{Database, MigrateError, Migrator, PostgresAuditSink};
use pganalytics_testkit::TestDatabase;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::common::migrated;
use crate::samples::{at, uuid};

const EVENT: &str = "INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, action, outcome) \
    VALUES (now(), gen_random_uuid(), gen_random_uuid(), 0, 'user', 'user.create', 'success')";

fn event(number: u128, action: &str) -> AuditEvent {
    let time = at(i64::try_from(number).unwrap());
    AuditEvent::new(
        EventId(uuid(number)),
        time,
        Actor::anonymous(),
        action.parse().unwrap(),
        Outcome::Success,
    )
}

/// An event of a user on a resource from an address, at a time that has its own partition.
fn recent(number: u128) -> AuditEvent {
    let mut event = event(number, "user.update");
    event.at = DateTime::from_timestamp(SystemClock.now().timestamp(), 0).unwrap();
    event.actor = Actor {
        kind: ActorKind::User,
        id: Some(uuid(7).to_string()),
        name: Some("Ada".into()),
        role: Some("admin".into()),
    };
    event.resource = Some(Resource::new("user", "8"));
    event.changes = Some(serde_json::json!({"before": {"role": "user"}, "after": {"role": "admin"}}));
    event.address = "192.0.2.1".parse().ok();
    event.user_agent = Some("agent".into());
    event
}

async fn filled(events: &[AuditEvent]) -> Option<(TestDatabase, Database)> {
    let (test, database) = migrated().await?;
    PostgresAuditSink::new(database.clone()).append(events).await.unwrap();
    Some((test, database))
}

async fn execute(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map(drop)
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

fn partition_of(table: &str, month: NaiveDate) -> String {
    format!("{table}_{:04}{:02}", month.year(), month.month())
}

fn today() -> NaiveDate {
    SystemClock.now().date_naive()
}

#[tokio::test]
async fn pages_go_back_in_time_without_gap_or_repeat() {
    let mut events: Vec<AuditEvent> = (0..25).map(|number| event(number, "test.event")).collect();
    // Three at the same time are told apart by their ids.
    for event in &mut events[10..13] {
        event.at = at(10);
    }
    let Some((_test, database)) = filled(&events).await else { return };
    let mut connection = database.read().await.unwrap();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let filter = AuditFilter::default();
        let page = audit_log::list(&mut connection, &filter, after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 4);
        after = Some(AuditCursor::from(last));
        listed.extend(page);
    }
    events.sort_by_key(|event| (event.at, event.id));
    events.reverse();
    assert_eq!(listed, events);
}

#[tokio::test]
async fn each_condition_narrows_the_search() {
    let mut events = vec![
        event(0, "user.create"),
        event(1, "user.role.update"),
        event(2, "users.export"),
        event(3, "auth.sign_in"),
        recent(4),
    ];
    events[0].resource = Some(Resource::new("user", "8"));
    events[1].resource = Some(Resource { kind: "user".into(), id: None });
    events[2].actor =
        Actor { id: Some("collector 1".into()), kind: ActorKind::Collector, ..Actor::anonymous() };
    events[3].outcome = Outcome::Denied;
    events[1].request_id = Some("request 1".into());
    let session = Some(SessionId::for_user(UserId(uuid(7)), uuid(9)));
    events[3].session = session;
    let Some((_test, database)) = filled(&events).await else { return };
    let mut connection = database.read().await.unwrap();
    let mut found = async |change: &dyn Fn(&mut AuditFilter<'_>)| {
        let mut filter = AuditFilter::default();
        change(&mut filter);
        let listed = audit_log::list(&mut connection, &filter, None, 10).await.unwrap();
        assert_eq!(audit_log::count(&mut connection, &filter).await.unwrap(), listed.len() as i64);
        let mut numbers: Vec<u128> =
            listed.iter().map(|event| event.id.0.as_u128() - uuid(0).as_u128()).collect();
        numbers.reverse();
        numbers
    };
    assert_eq!(found(&|_| {}).await, [0, 1, 2, 3, 4]);
    assert_eq!(found(&|filter| filter.from = Some(at(2))).await, [2, 3, 4]);
    assert_eq!(found(&|filter| filter.until = Some(at(2))).await, [0, 1]);
    assert_eq!(found(&|filter| filter.user = Some(UserId(uuid(7)))).await, [4]);
    assert_eq!(found(&|filter| filter.actor_kind = Some(ActorKind::Collector)).await, [2]);
    assert_eq!(found(&|filter| filter.actor_id = Some("collector 1")).await, [2]);
    assert_eq!(found(&|filter| filter.action_prefix = Some("user.")).await, [0, 1, 4]);
    assert_eq!(found(&|filter| filter.action_prefix = Some("auth_")).await, [0_u128; 0], "no wildcard");
    assert_eq!(found(&|filter| filter.resource_kind = Some("user")).await, [0, 1, 4]);
    assert_eq!(found(&|filter| filter.resource_id = Some("8")).await, [0, 4]);
    assert_eq!(found(&|filter| filter.outcome = Some(Outcome::Denied)).await, [3]);
    assert_eq!(found(&|filter| filter.request_id = Some("request 1")).await, [1]);
    assert_eq!(found(&|filter| filter.session = session).await, [3]);
    assert_eq!(
        found(&|filter| {
            filter.action_prefix = Some("user.");
            filter.until = Some(at(2));
            filter.resource_id = Some("8");
        })
        .await,
        [0]
    );
}

#[tokio::test]
async fn addresses_and_texts_are_searched_within_a_bounded_time() {
    let mut events: Vec<AuditEvent> = (0..3).map(|number| event(number, "user.update")).collect();
    events[0].address = "192.0.2.1".parse().ok();
    events[1].address = "2001:db8::1".parse().ok();
    events[1].changes = Some(serde_json::json!({"after": {"name": "Quote \" 100% _ÄB"}}));
    let Some((_test, database)) = filled(&events).await else { return };
    let mut connection = database.read().await.unwrap();
    let mut found = async |network: Option<&str>, text: Option<&str>| {
        let mut filter = AuditFilter::default();
        (filter.from, filter.until) = (Some(at(0)), Some(at(0) + PERSONAL_RANGE_MAX));
        filter.network = network.map(|network| network.parse().unwrap());
        filter.text = text;
        let page = audit_log::search(&mut connection, &filter, None, 10).await.unwrap();
        assert_eq!(audit_log::count(&mut connection, &filter).await.unwrap(), page.events.len() as i64);
        let numbers = page.events.iter().map(|found| found.event.id.0.as_u128() - uuid(0).as_u128());
        numbers.collect::<Vec<u128>>()
    };
    assert_eq!(found(Some("192.0.2.0/24"), None).await, [0]);
    assert_eq!(found(Some("2001:db8::/32"), None).await, [1]);
    assert_eq!(found(Some("198.51.100.0/24"), None).await, [0_u128; 0]);
    assert_eq!(found(None, Some("quote \" 100% _")).await, [1]);
    assert_eq!(found(None, Some("QUOTE")).await, [1]);
    assert_eq!(found(None, Some("%")).await, [1]);
    assert_eq!(found(None, Some("100_")).await, [0_u128; 0], "no wildcard");
    assert_eq!(found(Some("192.0.2.0/24"), Some("quote")).await, [0_u128; 0]);

    let late = at(0) + PERSONAL_RANGE_MAX + Duration::microseconds(1);
    for (from, until) in [(None, None), (Some(at(0)), None), (None, Some(at(1))), (Some(at(0)), Some(late))] {
        for field in ["address", "text"] {
            let mut filter = AuditFilter::default();
            (filter.from, filter.until) = (from, until);
            match field {
                "text" => filter.text = Some("x"),
                _ => filter.network = "192.0.2.0/24".parse().ok(),
            }
            let error = audit_log::search(&mut connection, &filter, None, 10).await.unwrap_err();
            let said = error.to_string();
            assert!(said.contains(field) && said.contains("31 days"), "{said}");
        }
    }
}

#[tokio::test]
async fn pages_of_a_search_end_where_the_next_begins() {
    let mut events: Vec<AuditEvent> = (0..20).map(|number| event(number, "test.event")).collect();
    for event in &mut events[8..12] {
        event.at = at(10);
    }
    for event in events.iter_mut().step_by(2) {
        event.outcome = Outcome::Failure;
    }
    let Some((_test, database)) = filled(&events).await else { return };
    let mut connection = database.read().await.unwrap();
    let mut filter = AuditFilter::default();
    filter.outcome = Some(Outcome::Failure);
    for limit in [1, 3, 10, 11] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = audit_log::search(&mut connection, &filter, after, limit).await.unwrap();
            assert!(page.events.len() <= limit as usize);
            listed.extend(page.events.into_iter().map(|found| found.event));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut expected: Vec<AuditEvent> = events.iter().step_by(2).cloned().collect();
        expected.sort_by_key(|event| (event.at, event.id));
        expected.reverse();
        assert_eq!(listed, expected, "{limit}");
    }
}

#[tokio::test]
async fn search_without_an_index_ends_its_page_after_so_many_events() {
    let mut first = event(0, "test.first");
    first.actor.id = Some("somebody".into());
    let Some((_test, database)) = filled(std::slice::from_ref(&first)).await else { return };
    let mut connection = database.direct().await.unwrap();
    let many = "INSERT INTO audit_events (at, id, writer, writer_sequence, actor_kind, action, outcome) \
        SELECT now() - n * interval '1 ms', gen_random_uuid(), gen_random_uuid(), 0, 'system', 'test.many', 'success' \
        FROM generate_series(1, 150000) n";
    execute(&mut connection, many).await.unwrap();
    let mut filter = AuditFilter::default();
    filter.actor_id = Some("somebody");
    let page = audit_log::search(&mut connection, &filter, None, 10).await.unwrap();
    assert_eq!(page.events, [], "not that far");
    let page = audit_log::search(&mut connection, &filter, page.next, 10).await.unwrap();
    assert_eq!(page.events.into_iter().map(|found| found.event).collect::<Vec<_>>(), [first.clone()]);
    assert_eq!(page.next, None);

    let (mut scan, mut found) = (AuditScan::default(), Vec::new());
    while !scan.is_over() {
        found.extend(scan.read(&mut connection, &filter, 10).await.unwrap());
    }
    assert_eq!(found.into_iter().map(|found| found.event).collect::<Vec<_>>(), [first]);
    assert_eq!(scan.read(&mut connection, &filter, 10).await.unwrap(), []);
    assert_eq!(scan.place(), None);
}

#[tokio::test]
async fn history_of_a_resource_is_read_in_both_orders() {
    let mut events: Vec<AuditEvent> = (0..12).map(|number| event(number, "test.event")).collect();
    let long = "x".repeat(400);
    for (event, id) in events.iter_mut().zip(["1", "2", "1", &long].into_iter().cycle()) {
        event.resource = Some(Resource::new("user", id));
    }
    events[4].at = events[6].at;
    events[10].resource = Some(Resource::new("collector", "1"));
    let Some((_test, database)) = filled(&events).await else { return };
    let mut connection = database.read().await.unwrap();
    for (id, mut expected) in
        [("1", vec![0_usize, 2, 4, 6, 8]), (&long, vec![3, 7, 11]), (&long[1..], vec![]), ("", vec![])]
    {
        for order in [HistoryOrder::OldestFirst, HistoryOrder::NewestFirst] {
            for limit in [1, 2, 5, 6] {
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let of = ResourceHistory { kind: "user", id, order };
                    let page = audit_log::history(&mut connection, of, after, limit).await.unwrap();
                    assert!(page.events.len() <= limit as usize);
                    found.extend(page.events.into_iter().map(|found| found.event));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                let expected: Vec<AuditEvent> = expected.iter().map(|index| events[*index].clone()).collect();
                assert_eq!(found, expected, "{id} {order:?} {limit}");
            }
            expected.reverse();
        }
    }
    for (kind, id, field) in [("a\0", "1", "resource_type"), ("user", "\0", "resource_id")] {
        let of = ResourceHistory { kind, id, order: HistoryOrder::default() };
        let error = audit_log::history(&mut connection, of, None, 1).await.unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
    }
}

#[tokio::test]
async fn event_is_found_by_its_id_and_tells_that_it_was_erased() {
    let mut made = recent(1);
    made.id = EventId(OsRandom.uuid_v7_at(made.at));
    let Some((_test, database)) = filled(std::slice::from_ref(&made)).await else { return };
    let mut connection = database.direct().await.unwrap();
    let found = audit_log::find(&mut connection, made.id, None).await.unwrap().unwrap();
    assert_eq!((found.event, found.is_erased), (made.clone(), false));
    for unknown in [OsRandom.uuid_v7_at(made.at), uuid(1), uuid::Uuid::max(), uuid::Uuid::nil()] {
        assert_eq!(
            audit_log::find(&mut connection, EventId(unknown), None).await.unwrap(),
            None,
            "{unknown}"
        );
    }
    let erase = "SELECT audit_erase_personal(array_agg(at), array_agg(id)) FROM audit_events";
    execute(&mut connection, erase).await.unwrap();
    let found = audit_log::find(&mut connection, made.id, None).await.unwrap().unwrap();
    assert!(found.is_erased);
    assert_eq!((found.event.changes, found.event.address, found.event.actor.name), (None, None, None));
    assert_eq!(found.event.actor.id, made.actor.id);
}

#[tokio::test]
async fn searches_of_a_user_and_of_a_resource_use_their_indexes() {
    let Some((_test, database)) = filled(&[recent(1)]).await else { return };
    let mut connection = database.direct().await.unwrap();
    execute(&mut connection, "SET enable_seqscan = off; SET enable_bitmapscan = off").await.unwrap();
    for (condition, index) in [
        (format!("user_id = '{}'", uuid(7)), "user_id"),
        ("left(resource_type, 100) = 'user' AND left(resource_id, 255) = '8'".into(), "resource"),
    ] {
        let explain = AssertSqlSafe(format!(
            "EXPLAIN SELECT * FROM audit_events WHERE {condition} ORDER BY at DESC, id DESC LIMIT 50"
        ));
        let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut connection).await.unwrap();
        let condition = plan.iter().find(|line| line.contains("Index Cond")).expect("an index is used");
        assert!(condition.contains(index), "{plan:?}");
    }
}

#[tokio::test]
async fn view_shows_the_columns_of_the_plan() {
    let event = recent(1);
    let Some((_test, database)) = filled(std::slice::from_ref(&event)).await else { return };
    let shown: serde_json::Value = sqlx::query_scalar("SELECT to_jsonb(l) FROM audit_logs l")
        .fetch_one(&mut *database.read().await.unwrap())
        .await
        .unwrap();
    let mut shown = shown;
    let time = shown.as_object_mut().unwrap().remove("timestamp").unwrap();
    assert_eq!(time.as_str().unwrap().parse::<DateTime<Utc>>().unwrap(), event.at);
    assert_eq!(
        shown,
        serde_json::json!({
            "id": event.id, "user_id": uuid(7), "action": "user.update", "resource_type": "user", "resource_id": "8",
            "changes": event.changes, "ip_address": "192.0.2.1", "user_agent": "agent",
        })
    );
}

#[tokio::test]
async fn app_role_can_only_add_and_read_audit_events() {
    let Some((_test, database)) = filled(&[recent(1)]).await else { return };
    let mut connection = database.direct().await.unwrap();
    execute(&mut connection, "SET ROLE pganalytics_app").await.unwrap();
    let partition = partition_of("audit_events", today());
    for refused in [
        "UPDATE audit_events SET action = 'x'".to_owned(),
        "DELETE FROM audit_events".into(),
        "TRUNCATE audit_events".into(),
        "UPDATE audit_personal SET actor_name = 'x'".into(),
        "DELETE FROM audit_personal".into(),
        "TRUNCATE audit_personal".into(),
        "INSERT INTO audit_events (at, id, xid, writer, writer_sequence, actor_kind, action, outcome) VALUES (now(), \
            gen_random_uuid(), '1', gen_random_uuid(), 0, 'user', 'user.create', 'success')"
            .into(),
        EVENT.replace("audit_events", &partition),
        format!("SELECT * FROM {partition}"),
        format!("DROP TABLE {partition}"),
        format!("ALTER TABLE audit_events DETACH PARTITION {partition}"),
        "ALTER TABLE audit_events DISABLE TRIGGER ALL".into(),
        "SET session_replication_role = replica".into(),
        "SELECT audit_erase_personal(ARRAY[now()], ARRAY[gen_random_uuid()])".into(),
        "SELECT audit_guard('audit_events', 'audit_refuse_change')".into(),
        "INSERT INTO audit_orders (id, note, received_at) VALUES (gen_random_uuid(), '', now())".into(),
        "UPDATE audit_orders SET executed_at = NULL".into(),
        "INSERT INTO audit_holds (id, reason, placed_at) VALUES (gen_random_uuid(), '', now())".into(),
        "DELETE FROM audit_holds".into(),
    ] {
        let error = execute(&mut connection, &refused).await.expect_err(&refused);
        assert_eq!(code(&error).as_deref(), Some("42501"), "{refused}: {error}");
    }
    for granted in
        [EVENT, "SELECT xid FROM audit_events", "SELECT * FROM audit_personal", "SELECT * FROM audit_logs"]
    {
        execute(&mut connection, granted).await.expect(granted);
    }
    let months = audit_log::ensure_partitions(&mut connection, today(), today()).await.unwrap();
    assert!(months.iter().all(|month| month.outcome == PartitionOutcome::Present), "{months:?}");
}

#[tokio::test]
async fn owner_is_refused_what_would_rewrite_the_log() {
    let Some((_test, database)) = filled(&[recent(1), event(2, "test.event")]).await else { return };
    let mut connection = database.direct().await.unwrap();
    // What replication does, and who would evade triggers.
    for role in ["origin", "replica"] {
        execute(&mut connection, &format!("SET session_replication_role = {role}")).await.unwrap();
        for table in ["audit_events", "audit_personal"] {
            for relation in [table.to_owned(), partition_of(table, today()), format!("{table}_default")] {
                for refused in [
                    format!("UPDATE {relation} SET at = at"),
                    format!("DELETE FROM {relation}"),
                    format!("TRUNCATE {relation}"),
                    format!("WITH gone AS (DELETE FROM {relation} RETURNING 1) SELECT * FROM gone"),
                ] {
                    let error = execute(&mut connection, &refused).await.expect_err(&refused);
                    assert_eq!(code(&error).as_deref(), Some("23001"), "{refused}: {error}");
                    let error = error.into_database_error().unwrap();
                    let error = error.downcast_ref::<sqlx::postgres::PgDatabaseError>();
                    assert!(error.hint().is_some(), "{refused}");
                }
            }
        }
    }
    assert_eq!(audit_log::count(&mut connection, &AuditFilter::default()).await.unwrap(), 2);
}

#[tokio::test]
async fn months_are_made_ahead_and_guarded() {
    let Some((_test, database)) = migrated().await else { return };
    let mut connection = database.direct().await.unwrap();
    execute(&mut connection, "SET TIME ZONE 'Pacific/Auckland'").await.unwrap();
    let (first, last) = (today() + Months::new(12), today() + Months::new(14));
    let made = audit_log::ensure_partitions(&mut connection, first, last).await.unwrap();
    assert_eq!(made.len(), 6);
    assert!(made.iter().all(|month| month.outcome == PartitionOutcome::Made), "{made:?}");
    assert!(made.iter().all(|month| month.month.day() == 1));
    let again = audit_log::ensure_partitions(&mut connection, first, last).await.unwrap();
    assert!(again.iter().all(|month| month.outcome == PartitionOutcome::Present), "{again:?}");

    // The last microsecond of a month in UTC.
    let end = made[1].month.and_time(chrono::NaiveTime::MIN).and_utc() - chrono::Duration::microseconds(1);
    let mut last_of_month = event(1, "test.event");
    last_of_month.at = end;
    PostgresAuditSink::new(database.clone()).append(&[last_of_month]).await.unwrap();
    let partition = partition_of("audit_events", made[0].month);
    let statement = AssertSqlSafe(format!("SELECT count(*) FROM {partition}"));
    let count: i64 = sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap();
    assert_eq!(count, 1);
    let error = execute(&mut connection, &format!("DELETE FROM {partition}")).await.unwrap_err();
    assert_eq!(code(&error).as_deref(), Some("23001"), "{error}");

    let far = today() + Days::new(4000);
    let error = audit_log::ensure_partitions(&mut connection, today(), far).await.unwrap_err();
    assert!(error.into_backend().to_string().contains("postgres"));
}

#[tokio::test]
async fn month_with_rows_in_the_default_partition_stays_there() {
    let mut stray = recent(1);
    stray.at = (today() + Months::new(12)).and_time(chrono::NaiveTime::MIN).and_utc();
    let Some((_test, database)) = filled(&[stray.clone()]).await else { return };
    let mut connection = database.read().await.unwrap();
    let month = stray.at.date_naive();
    let months = audit_log::ensure_partitions(&mut connection, month, month + Months::new(1)).await.unwrap();
    let outcomes: Vec<PartitionOutcome> = months.iter().map(|month| month.outcome).collect();
    let pair = [PartitionOutcome::LeftInDefault, PartitionOutcome::Made];
    assert_eq!(outcomes, [pair, pair].concat(), "{months:?}");
    let listed = audit_log::list(&mut connection, &AuditFilter::default(), None, 10).await.unwrap();
    assert_eq!(listed, [stray]);
}

#[tokio::test]
async fn taking_the_schema_back_refuses_to_lose_events() {
    let Some((_test, database)) = filled(&[event(1, "test.event")]).await else { return };
    let error = Migrator::new().down(&database, 6).await.unwrap_err();
    assert!(
        matches!(&error, MigrateError::Failed { file, .. } if file == "007_audit_logging.down.sql"),
        "{error}"
    );
    let mut connection = database.direct().await.unwrap();
    assert_eq!(audit_log::count(&mut connection, &AuditFilter::default()).await.unwrap(), 1);
    // As the hint says.
    execute(&mut connection, "DROP TABLE audit_events_default").await.unwrap();
    Migrator::new().down(&database, 6).await.unwrap();
}
