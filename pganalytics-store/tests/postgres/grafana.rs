//! What `deploy/grafana/audit.json` asks PostgreSQL, asked as its role on rows that the sink has stored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use pganalytics_core::audit::{Actor, ActorKind, AuditEvent, AuditSink, Outcome, Resource};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::EventId;
use pganalytics_store::postgres::{Database, PostgresAuditSink};
use pganalytics_testkit::TestDatabase;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::common::migrated;
use crate::samples::{HOSTILE, at, uuid};

const DASHBOARD: &str = include_str!("../../../deploy/grafana/audit.json");
const DATA_SOURCE: &str = include_str!("../../../deploy/grafana/provisioning/datasources/pganalytics.yaml");
const PROVIDER: &str = include_str!("../../../deploy/grafana/provisioning/dashboards/pganalytics.yaml");
const README: &str = include_str!("../../../deploy/grafana/README.md");

/// What dashboards must not show, and the relations that hold it.
const PERSONAL: [&str; 10] = [
    "actor_name",
    "actor_id",
    "address",
    "ip_address",
    "user_agent",
    "changes",
    "session_id",
    "audit_events",
    "audit_personal",
    "audit_logs",
];

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is missing in {value}"))
}

/// All panels, also those within rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    list(dashboard, "panels")
        .iter()
        .flat_map(|panel| std::iter::once(panel).chain(list(panel, "panels")))
        .collect()
}

fn panel<'v>(dashboard: &'v Value, title: &str) -> &'v Value {
    panels(dashboard).into_iter().find(|panel| text(panel, "title") == title).expect(title)
}

/// The queries to PostgreSQL by the titles of their panels, which have one each.
fn queries(dashboard: &Value) -> BTreeMap<&str, &str> {
    panels(dashboard)
        .into_iter()
        .flat_map(|panel| list(panel, "targets").iter().map(move |target| (text(panel, "title"), target)))
        .filter(|(_, target)| text(&target["datasource"], "type") == "grafana-postgresql-datasource")
        .map(|(title, target)| (title, text(target, "rawSql")))
        .collect()
}

/// What Grafana makes of a query before PostgreSQL sees it: the browser puts the variables in, then the data source expands its
/// macros. Only what the dashboard uses is known here.
struct Grafana {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    variables: BTreeMap<&'static str, Vec<String>>,
}

impl Grafana {
    /// As the dashboard opens, with an hour chosen.
    fn new() -> Self {
        let variables = dashboard()["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|variable| text(variable, "type") != "datasource")
            .map(|variable| {
                let name: &'static str = text(variable, "name").to_owned().leak();
                // All, without a value of its own for that, stands for each option.
                let all = text(variable, "type") == "custom";
                let options = text(variable, "query").split(',').filter(|_| all).map(str::to_owned);
                (name, if all { options.collect() } else { vec![String::new()] })
            })
            .collect();
        Self { from: at(-60), to: at(3_540), variables }
    }

    fn with(mut self, variable: &'static str, value: &str) -> Self {
        assert!(self.variables.insert(variable, vec![value.to_owned()]).is_some(), "{variable}");
        self
    }

    fn expand(&self, query: &str) -> String {
        let mut sql = query.replace("$__interval_ms", "60000").replace("$__interval", "1m");
        for (name, values) in &self.variables {
            let quoted: Vec<String> =
                values.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
            sql = sql.replace(&format!("${{{name}:sqlstring}}"), &quoted.join(","));
        }
        sql = replace_calls(&sql, "$__timeFilter(", |arguments| {
            let [from, to] =
                [self.from, self.to].map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
            format!("{} BETWEEN '{from}' AND '{to}'", arguments[0])
        });
        replace_calls(&sql, "$__timeGroupAlias(", |arguments| {
            // The third argument only tells Grafana how to fill gaps.
            assert!(matches!(arguments, [_, "1m"] | [_, "1m", "0"]), "{arguments:?}");
            format!("floor(extract(epoch from {})/60)*60 AS \"time\"", arguments[0])
        })
    }
}

fn replace_calls(sql: &str, call: &str, with: impl Fn(&[&str]) -> String) -> String {
    let mut parts = sql.split(call);
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (arguments, rest) = part.split_once(')').expect("a macro's call ends");
        let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
        replaced.push_str(&with(&arguments));
        replaced.push_str(rest);
    }
    replaced
}

/// A database with events, and a connection that may do what Grafana's may.
struct Viewed {
    _test: TestDatabase,
    database: Database,
    connection: PgConnection,
}

impl Viewed {
    /// The first events are sealed, the others are not.
    async fn new(sealed: &[AuditEvent], unsealed: &[AuditEvent]) -> Option<Self> {
        let (test, database) = migrated().await?;
        let sink = PostgresAuditSink::new(database.clone());
        sink.append(sealed).await.unwrap();
        let mut owner = database.direct().await.unwrap();
        sqlx::query(
            "INSERT INTO audit_eras (era, origin, system_identifier, opened_at) VALUES (1, 'log', 1, $1)",
        )
        .bind(at(0))
        .execute(&mut owner)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO audit_seals (era, number, rows_era, snapshot, first_leaf, leaves, whole, checkpoint, sealed_at, published_at) \
             VALUES (1, 1, 1, pg_current_snapshot(), 0, $1, true, 'log', $2, $3)",
        )
        .bind(i64::try_from(sealed.len()).unwrap())
        .bind(at(200))
        .bind(at(202))
        .execute(&mut owner)
        .await
        .unwrap();
        sink.append(unsealed).await.unwrap();
        let connection = viewer(&database).await;
        Some(Self { _test: test, database, connection })
    }

    async fn ask(&mut self, title: &str, grafana: &Grafana) -> Vec<Value> {
        let dashboard = dashboard();
        let query = grafana.expand(queries(&dashboard)[title]);
        let rows = format!("SELECT to_jsonb(shown) FROM ({query}) AS shown");
        sqlx::query_scalar(AssertSqlSafe(rows))
            .fetch_all(&mut self.connection)
            .await
            .unwrap_or_else(|error| panic!("{title}: {error}\n{query}"))
    }

    /// The numbers of the events that a panel lists.
    async fn numbers(&mut self, title: &str, grafana: &Grafana) -> Vec<u128> {
        let rows = self.ask(title, grafana).await;
        rows.iter().map(|row| number(text(row, "id"))).collect()
    }
}

async fn viewer(database: &Database) -> PgConnection {
    let mut connection = database.direct().await.unwrap();
    sqlx::raw_sql("SET TIME ZONE 'UTC'; SET ROLE pganalytics_grafana")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

fn number(id: &str) -> u128 {
    id.parse::<uuid::Uuid>().unwrap().as_u128() - uuid(0).as_u128()
}

fn user(number: u128) -> Actor {
    Actor {
        kind: ActorKind::User,
        id: Some(uuid(number).to_string()),
        name: Some("Ada".into()),
        role: Some("admin".into()),
    }
}

fn event(number: u128, seconds: i64, actor: Actor, action: &str, outcome: Outcome) -> AuditEvent {
    let mut event =
        AuditEvent::new(EventId(uuid(number)), at(seconds), actor, action.parse().unwrap(), outcome);
    event.address = "192.0.2.1".parse().ok();
    event.user_agent = Some("agent".into());
    event.changes = Some(json!({"after": {"email": "ada@example.org"}}));
    event.request_id = Some(format!("request {number}"));
    event
}

fn on(kind: &str, id: &str, event: AuditEvent) -> AuditEvent {
    event.with_resource(Resource::new(kind, id))
}

fn because(reason: &str, provider: Option<&str>, mut event: AuditEvent) -> AuditEvent {
    event.reason = Some(reason.to_owned());
    event.provider = provider.map(str::to_owned);
    event
}

/// Seven events that are sealed.
fn sealed() -> Vec<AuditEvent> {
    use Outcome::{Denied, Failure, Success};
    let nobody = Actor::anonymous;
    let job = Actor { kind: ActorKind::System, id: Some("alerts".into()), ..Actor::anonymous() };
    vec![
        on("user", "20", event(1, 0, user(1_001), "user.create", Success)),
        on("user", "20", event(2, 30, user(1_001), "user.role.update", Success)),
        because(
            "forbidden",
            None,
            on("route", "/api/v1/users", event(3, 61, user(1_002), "request.get", Denied)),
        ),
        because("bad_credentials", Some("local"), event(4, 62, nobody(), "session.create", Denied)),
        because("bad_credentials", Some("ldap"), event(5, 125, nobody(), "session.create", Denied)),
        event(6, 126, nobody(), "session.create", Denied),
        because("failed", None, on("alert", "5", event(7, 130, job, "alert.update", Failure))),
    ]
}

/// One that is not sealed, and one after the chosen time.
fn unsealed() -> Vec<AuditEvent> {
    vec![
        on("user", "20", event(8, 190, user(1_001), "user.delete", Outcome::Success)),
        on("user", "21", event(9, 4_000, user(1_001), "user.update", Outcome::Success)),
    ]
}

fn time(seconds: i64) -> String {
    at(seconds).to_rfc3339_opts(SecondsFormat::Micros, false)
}

/// A point of a series, in the minute of that number.
fn point(minute: i64, metric: impl AsRef<str>, value: u32) -> Value {
    json!({"time": at(0).timestamp() + 60 * minute, "metric": metric.as_ref(), "value": value})
}

#[tokio::test]
async fn panels_count_what_was_recorded_in_the_chosen_time() {
    let Some(mut viewed) = Viewed::new(&sealed(), &unsealed()).await else { return };
    let (first, second) = (uuid(1_001).to_string(), uuid(1_002).to_string());
    for (title, expected) in [
        ("Events", vec![json!({"Events": 8, "Refused": 4, "Failed sign-ins": 3})]),
        (
            "Events per minute by action",
            vec![
                point(0, "user.create", 1),
                point(0, "user.role.update", 1),
                point(1, "request.get", 1),
                point(1, "session.create", 1),
                point(2, "alert.update", 1),
                point(2, "session.create", 2),
                point(3, "user.delete", 1),
            ],
        ),
        (
            "Activity by user",
            vec![
                point(0, &first, 2),
                point(1, &second, 1),
                point(1, "anonymous", 1),
                point(2, "anonymous", 2),
                point(2, "system", 1),
                point(3, &first, 1),
            ],
        ),
        (
            "Failed sign-ins",
            vec![point(1, "bad_credentials", 1), point(2, "bad_credentials", 1), point(2, "no reason", 1)],
        ),
        (
            "Failed sign-ins by reason",
            vec![
                json!({"reason": "bad_credentials", "provider": "ldap", "events": 1, "last": time(125)}),
                json!({"reason": "bad_credentials", "provider": "local", "events": 1, "last": time(62)}),
                json!({"reason": "no reason", "provider": null, "events": 1, "last": time(126)}),
            ],
        ),
        (
            "Refusals by action",
            vec![
                json!({"action": "session.create", "events": 3, "users": 0, "last": time(126)}),
                json!({"action": "request.get", "events": 1, "users": 1, "last": time(61)}),
            ],
        ),
        ("Seals", vec![json!({"time": time(200), "Sealed events": 7, "Time to anchor": 2})]),
    ] {
        assert_eq!(viewed.ask(title, &Grafana::new()).await, expected, "{title}");
    }
}

#[tokio::test]
async fn each_panel_shows_something() {
    let Some(mut viewed) = Viewed::new(&sealed(), &unsealed()).await else { return };
    let grafana = Grafana::new().with("resource_type", "user").with("resource_id", "20");
    for title in queries(&dashboard()).into_keys() {
        let rows = viewed.ask(title, &grafana).await;
        assert!(!rows.is_empty(), "{title}");
    }
}

#[tokio::test]
async fn search_shows_all_but_what_is_personal() {
    let Some(mut viewed) = Viewed::new(&sealed(), &unsealed()).await else { return };
    let rows = viewed.ask("Search", &Grafana::new()).await;
    let numbers: Vec<u128> = rows.iter().map(|row| number(text(row, "id"))).collect();
    assert_eq!(numbers, [8, 7, 6, 5, 4, 3, 2, 1]);
    let sealed: Vec<bool> = rows.iter().map(|row| row["sealed"] == true).collect();
    assert_eq!(sealed, [false, true, true, true, true, true, true, true]);
    assert_eq!(
        rows[5],
        json!({
            "time": time(61), "id": uuid(3), "user": uuid(1_002), "actor_kind": "user", "actor_role": "admin",
            "action": "request.get", "resource_type": "route", "resource_id": "/api/v1/users", "outcome": "denied",
            "reason": "forbidden", "provider": null, "request_id": "request 3", "sealed": true,
        })
    );
}

#[tokio::test]
async fn each_variable_narrows_the_panels_that_it_is_for() {
    let Some(mut viewed) = Viewed::new(&sealed(), &unsealed()).await else { return };
    let first: &str = &uuid(1_001).to_string();
    for (variable, value, expected) in [
        ("user", first, &[8, 2, 1][..]),
        ("user", &uuid(9).to_string(), &[]),
        ("action", "user.", &[8, 2, 1]),
        ("action", "session.create", &[6, 5, 4]),
        ("action", "create", &[]),
        ("resource_type", "alert", &[7]),
        ("resource_type", "ale", &[]),
        ("resource_id", "20", &[8, 2, 1]),
        ("outcome", "denied", &[6, 5, 4, 3]),
        ("outcome", "failure", &[7]),
    ] {
        let grafana = Grafana::new().with(variable, value);
        assert_eq!(viewed.numbers("Search", &grafana).await, expected, "{variable} = {value}");
        for title in ["Events per minute by action", "Activity by user"] {
            let counted: f64 =
                viewed.ask(title, &grafana).await.iter().map(|row| row["value"].as_f64().unwrap()).sum();
            assert_eq!(counted, expected.len() as f64, "{title}: {variable} = {value}");
        }
    }
    let grafana = Grafana::new().with("user", first).with("action", "user.").with("outcome", "denied");
    assert_eq!(viewed.numbers("Search", &grafana).await, [0_u128; 0]);
}

#[tokio::test]
async fn history_of_a_resource_is_of_all_times_and_of_that_resource_alone() {
    let Some(mut viewed) = Viewed::new(&sealed(), &unsealed()).await else { return };
    let title = "Change history of a resource";
    assert_eq!(viewed.numbers(title, &Grafana::new()).await, [0_u128; 0]);
    let of = |kind, id| Grafana::new().with("resource_type", kind).with("resource_id", id);
    assert_eq!(viewed.numbers(title, &of("user", "20")).await, [8, 2, 1]);
    assert_eq!(viewed.numbers(title, &of("alert", "20")).await, [0_u128; 0]);
    let rows = viewed.ask(title, &of("user", "21")).await;
    assert_eq!(
        rows,
        [json!({
            "time": time(4_000), "action": "user.update", "outcome": "success", "reason": null, "user": uuid(1_001),
            "actor_kind": "user", "actor_role": "admin", "request_id": "request 9", "sealed": false, "id": uuid(9),
        })]
    );
}

#[tokio::test]
async fn whatever_is_typed_into_a_variable_stays_a_value() {
    let typed = || HOSTILE.into_iter().filter(|typed| !typed.is_empty()).zip(1_u128..);
    let events: Vec<AuditEvent> = typed()
        .map(|(typed, number)| on(typed, typed, event(number, 1, user(7), "user.update", Outcome::Success)))
        .collect();
    let Some(mut viewed) = Viewed::new(&events, &[]).await else { return };
    for (typed, number) in typed() {
        let grafana = Grafana::new().with("resource_type", typed).with("resource_id", typed);
        for title in ["Search", "Change history of a resource"] {
            assert_eq!(viewed.numbers(title, &grafana).await, [number], "{title}: {typed:?}");
        }
        for variable in ["action", "outcome"] {
            let grafana = Grafana::new().with(variable, typed);
            assert_eq!(viewed.numbers("Search", &grafana).await, [0_u128; 0], "{variable}: {typed:?}");
        }
    }
}

#[tokio::test]
async fn users_beyond_the_ten_busiest_are_counted_together() {
    let mut events = Vec::new();
    for who in 1..=12 {
        for _ in 0..who {
            events.push(event(events.len() as u128, 1, user(1_000 + who), "user.update", Outcome::Success));
        }
    }
    let Some(mut viewed) = Viewed::new(&events, &[]).await else { return };
    let mut expected: Vec<Value> =
        (3..=12).map(|who| point(0, uuid(1_000 + u128::from(who)).to_string(), who)).collect();
    expected.push(point(0, "others", 3));
    assert_eq!(viewed.ask("Activity by user", &Grafana::new()).await, expected);
}

#[tokio::test]
async fn seal_lag_is_the_age_of_what_no_seal_covers() {
    let Some(mut viewed) = Viewed::new(&sealed(), &unsealed()).await else { return };
    let lag = async |viewed: &mut Viewed| {
        let rows = viewed.ask("Seal lag", &Grafana::new()).await;
        assert_eq!(rows.len(), 1);
        rows[0].clone()
    };
    let is_age_of = |shown: &Value, seconds: i64| {
        let age = (SystemClock.now() - at(seconds)).as_seconds_f64();
        (age - shown.as_f64().unwrap()).abs() < 60.0
    };
    let shown = lag(&mut viewed).await;
    assert_eq!(shown["Unsealed events"], 2);
    assert!(is_age_of(&shown["Longest wait for a seal"], 200), "the event is older, its row is not: {shown}");
    assert!(is_age_of(&shown["Last seal"], 200), "{shown}");
    assert!(is_age_of(&shown["Last anchored"], 202), "{shown}");

    // Transaction ids of an era say nothing of those of another: what begins anew has no seal yet.
    let mut owner = viewed.database.direct().await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO audit_eras (era, origin, system_identifier, opened_at) VALUES (2, 'next', 1, now());
         ALTER TABLE audit_events ALTER era SET DEFAULT 2",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let later = event(10, 180, user(7), "user.update", Outcome::Success);
    PostgresAuditSink::new(viewed.database.clone()).append(&[later]).await.unwrap();
    let shown = lag(&mut viewed).await;
    assert_eq!(shown["Unsealed events"], 3);
    assert!(is_age_of(&shown["Longest wait for a seal"], 200), "{shown}");

    let seal = "INSERT INTO audit_seals (era, number, rows_era, snapshot, first_leaf, leaves, whole, checkpoint, sealed_at) \
        VALUES (2, 1, 1, pg_current_snapshot(), 0, 2, false, 'next', now()), (2, 2, 2, pg_current_snapshot(), 2, 1, true, 'next', now())";
    sqlx::raw_sql(seal).execute(&mut owner).await.unwrap();
    let shown = lag(&mut viewed).await;
    assert_eq!((&shown["Unsealed events"], &shown["Longest wait for a seal"]), (&json!(0), &json!(0)));
    assert!(
        is_age_of(&shown["Last anchored"], 202),
        "what is sealed but not anchored does not count: {shown}"
    );
    let unsealed = viewed.ask("Search", &Grafana::new()).await.iter().any(|row| row["sealed"] != true);
    assert!(!unsealed);
}

#[tokio::test]
async fn log_without_a_seal_has_no_last_one() {
    let Some((_test, database)) = migrated().await else { return };
    PostgresAuditSink::new(database.clone()).append(&sealed()).await.unwrap();
    let shown: Value = sqlx::query_scalar("SELECT to_jsonb(l) FROM audit_seal_lag l")
        .fetch_one(&mut viewer(&database).await)
        .await
        .unwrap();
    assert_eq!(shown["unsealed_events"], 7);
    assert_eq!((&shown["sealed_at"], &shown["published_at"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn grafana_role_reads_what_dashboards_show_and_nothing_else() {
    let Some((_test, database)) = migrated().await else { return };
    let mut owner = database.direct().await.unwrap();
    let rights = "
        SELECT format('%s %s', c.relname, privilege)
        FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (
            has_table_privilege('pganalytics_grafana', c.oid, privilege)
            OR privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                AND has_any_column_privilege('pganalytics_grafana', c.oid, privilege))
        UNION ALL
        SELECT proname || ' EXECUTE' FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND prosecdef
            AND has_function_privilege('pganalytics_grafana', oid, 'EXECUTE')
        ORDER BY 1";
    let rights: Vec<String> = sqlx::query_scalar(rights).fetch_all(&mut owner).await.unwrap();
    assert_eq!(rights, ["audit_dashboard SELECT", "audit_seal_lag SELECT", "audit_seals SELECT"]);

    let mut connection = viewer(&database).await;
    for table in ["audit_events", "audit_personal", "audit_logs", "users"] {
        let refused =
            sqlx::raw_sql(AssertSqlSafe(format!("SELECT 1 FROM {table}"))).execute(&mut connection).await;
        let error = refused.expect_err(table).into_database_error().unwrap();
        assert_eq!(error.code().as_deref(), Some("42501"), "{error}");
    }
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid IN ('audit_dashboard'::regclass, 'audit_seal_lag'::regclass)",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(columns.len() > 10, "{columns:?}");
    assert!(!columns.iter().any(|column| PERSONAL.contains(&column.as_str())), "{columns:?}");
}

#[tokio::test]
async fn login_that_the_readme_makes_may_read_the_dashboard() {
    let Some((_test, database)) = migrated().await else { return };
    let mut owner = database.direct().await.unwrap();
    let sql = README.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    // Roles are of the whole cluster: nobody else is to see this one.
    let mut transaction = owner.begin().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut *transaction).await.unwrap();
    sqlx::raw_sql("SET LOCAL ROLE grafana").execute(&mut *transaction).await.unwrap();
    let dashboard = dashboard();
    for (title, query) in queries(&dashboard) {
        let query = Grafana::new().expand(query);
        sqlx::raw_sql(AssertSqlSafe(query)).execute(&mut *transaction).await.expect(title);
    }
    transaction.rollback().await.unwrap();
}

#[test]
fn provisioning_names_what_the_readme_explains_and_holds_no_password() {
    let value = |file: &'static str, name: &str| {
        let lines = file.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        let values: Vec<&str> = lines.collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0]
    };
    assert_eq!(value(DATA_SOURCE, "type"), text(&dashboard()["templating"]["list"][0], "query"));
    let password = value(DATA_SOURCE, "password");
    let password = password.strip_prefix("$__file{").and_then(|rest| rest.strip_suffix('}')).unwrap();
    let authority = value(DATA_SOURCE, "sslRootCertFile");
    for path in [password, authority, value(PROVIDER, "path")] {
        assert!(README.contains(path), "{path}");
    }
    let variables: BTreeSet<&str> =
        DATA_SOURCE.lines().filter_map(|line| Some(line.split_once(": $PGA_")?.1)).collect();
    assert_eq!(variables.len(), 4, "{variables:?}");
    for variable in variables {
        assert!(README.contains(&format!("PGA_{variable}=")), "{variable}");
    }
}

#[test]
fn queries_name_nothing_personal_and_quote_their_variables() {
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    assert!(queries.len() >= 10, "{queries:?}");
    for (title, query) in queries {
        let words: BTreeSet<&str> = query.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        assert!(!PERSONAL.iter().any(|personal| words.contains(personal)), "{title}: {query}");
        assert!(
            !query.contains(';') && !query.contains("SELECT *") && !query.contains(".*"),
            "{title}: {query}"
        );
        let expanded = Grafana::new().expand(query);
        assert!(
            !expanded.contains('$'),
            "{title}: a variable without `:sqlstring`, or an unknown macro: {expanded}"
        );
    }
}

#[test]
fn variables_are_defined_once_and_used() {
    let dashboard = dashboard();
    let defined: Vec<&str> =
        list(&dashboard["templating"], "list").iter().map(|variable| text(variable, "name")).collect();
    assert_eq!(defined.iter().collect::<BTreeSet<_>>().len(), defined.len());
    let panels = dashboard["panels"].to_string();
    let used: BTreeSet<&str> = panels
        .split("${")
        .skip(1)
        .map(|rest| rest.split(['}', ':', '.']).next().unwrap_or_default())
        .filter(|name| !name.starts_with("__"))
        .collect();
    assert_eq!(used, defined.iter().copied().collect());
    // What a link sets must be there, too.
    let set = panels.split("var-").skip(1).map(|rest| rest.split('=').next().unwrap_or_default());
    for name in set {
        assert!(defined.contains(&name), "{name}");
    }
}

#[test]
fn dashboard_is_put_together_as_grafana_wants_it() {
    let dashboard = dashboard();
    assert_eq!(dashboard["schemaVersion"], 41);
    assert_eq!(dashboard["id"], Value::Null, "Grafana numbers it");
    let uid = text(&dashboard, "uid");
    assert!((8..=40).contains(&uid.len()), "{uid}");
    let panels = panels(&dashboard);
    for field in ["id", "title"] {
        let values: BTreeSet<String> = panels.iter().map(|panel| panel[field].to_string()).collect();
        assert_eq!(values.len(), panels.len(), "each panel has a {field} of its own");
    }
    for panel in panels.iter().filter(|panel| text(panel, "type") != "row") {
        let title = text(panel, "title");
        let targets = list(panel, "targets");
        let ids: BTreeSet<&str> = targets.iter().map(|target| text(target, "refId")).collect();
        assert!(!targets.is_empty() && ids.len() == targets.len(), "{title}: {ids:?}");
        for target in targets {
            assert_eq!(target["datasource"], panel["datasource"], "{title}");
            let (variable, query) = match text(&target["datasource"], "type") {
                "prometheus" => ("${DS_PROMETHEUS}", "expr"),
                _ => ("${DS_POSTGRESQL}", "rawSql"),
            };
            assert_eq!(text(&target["datasource"], "uid"), variable, "{title}");
            assert!(!text(target, query).is_empty(), "{title}");
            if query == "rawSql" {
                let series = text(panel, "type") == "timeseries";
                assert_eq!(text(target, "format"), if series { "time_series" } else { "table" }, "{title}");
                assert_eq!((&target["rawQuery"], targets.len()), (&json!(true), 1), "{title}");
            }
        }
    }
}

#[test]
fn panels_do_not_overlap() {
    let dashboard = dashboard();
    let rows = list(&dashboard, "panels").iter().filter(|panel| text(panel, "type") == "row");
    for group in std::iter::once(&dashboard).chain(rows) {
        let mut taken = BTreeSet::new();
        for panel in list(group, "panels") {
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + w <= 24 && w > 0 && h > 0, "{}", panel["gridPos"]);
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{} covers another panel", text(panel, "title"));
            }
        }
    }
    assert_eq!(panel(&dashboard, "Search")["gridPos"]["w"], 24, "it has the most columns");
}

#[test]
fn metrics_of_the_dashboard_are_measured() {
    let mut sources = String::new();
    for part in ["core", "store", "server"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../pganalytics-{part}/src"));
        read_sources(&root, &mut sources);
    }
    let dashboard = dashboard();
    let expressions: Vec<&str> = panels(&dashboard)
        .into_iter()
        .flat_map(|panel| list(panel, "targets"))
        .filter_map(|target| target["expr"].as_str())
        .collect();
    assert!(expressions.len() > 3, "{expressions:?}");
    for expression in expressions {
        let name = expression
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .find(|word| word.starts_with("pganalytics_"))
            .expect(expression);
        assert!(sources.contains(&format!("\"{name}\"")), "nothing measures {name}");
    }
}

fn read_sources(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}
