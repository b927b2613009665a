use std::sync::{Arc, Mutex};
use std::time::Duration;

use pganalytics_store::postgres::{
    AppRole, Compatibility, Database, MigrateError, MigrationEvent, MigrationState, Migrator, PostgresConfig,
};
use pganalytics_testkit::{Profile, TestDatabase, empty_database, private_postgres};
use sqlx::{AssertSqlSafe, Connection};

use crate::common::{connect, migrated};

async fn empty() -> Option<(TestDatabase, Database)> {
    let test = empty_database().await?;
    let database = connect(test.url()).await;
    Some((test, database))
}

async fn execute(database: &Database, statement: &str) -> Result<u64, sqlx::Error> {
    let mut connection = database.read().await.unwrap();
    let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut *connection).await?;
    Ok(done.rows_affected())
}

/// Everything by which two schemas can differ, a line each.
async fn catalog(database: &Database) -> Vec<String> {
    let dump = "
        SELECT format('column %s.%s %s null=%s default=%s identity=%s generated=%s', table_name, column_name,
                      data_type || coalesce(udt_name, ''), is_nullable, column_default, is_identity, is_generated)
        FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL
        SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL
        SELECT format('index %s', indexdef) FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL
        SELECT format('relation %s %s %s %s %s', relname, relkind, reloptions, relacl, relpersistence)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'I')
        UNION ALL
        SELECT format('function %s %s %s', proname, pg_get_functiondef(oid), proacl)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL
        SELECT format('trigger %s', pg_get_triggerdef(oid)) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT format('type %s %s', typname, typtype)
        FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
        ORDER BY 1";
    let mut connection = database.read().await.unwrap();
    sqlx::query_scalar(dump).fetch_all(&mut *connection).await.unwrap()
}

/// A row in a table of each migration.
const DATA: &str = "
    INSERT INTO users (id, username, username_key, role, created_at, updated_at)
        VALUES ('00000000-0000-7000-8000-000000000001', 'Ada', 'ada', 'admin', now(), now());
    INSERT INTO external_identities VALUES ('idp', 's1', '00000000-0000-7000-8000-000000000001', now());
    INSERT INTO registration_secrets (id, name, secret_hash, created_by, created_at, updated_at)
        VALUES ('00000000-0000-7000-8000-000000000002', 's', sha256('s'), '00000000-0000-7000-8000-000000000001',
                now(), now());
    INSERT INTO collectors (id, name, hostname, status, registration_secret_id, created_at, updated_at)
        VALUES ('00000000-0000-7000-8000-000000000003', 'c', 'h', 'registered',
                '00000000-0000-7000-8000-000000000002', now(), now());
    INSERT INTO alert_rules (id, name, rule_type, condition, severity, created_at, updated_at)
        VALUES ('00000000-0000-7000-8000-000000000004', 'r', 'threshold', '{}', 'low', now(), now());
    INSERT INTO alerts (id, rule_id, collector_id, status, severity, triggered_at)
        VALUES ('00000000-0000-7000-8000-000000000005', '00000000-0000-7000-8000-000000000004',
                '00000000-0000-7000-8000-000000000003', 'firing', 'low', now());
    INSERT INTO leases VALUES ('sealer', NULL, 1, now());";

#[tokio::test]
async fn up_down_up_on_data_makes_the_same_schema() {
    let Some((_test, database)) = empty().await else { return };
    let migrator = Migrator::new();
    let nothing = catalog(&database).await;
    let applied = migrator.up(&database, None).await.unwrap();
    let first = catalog(&database).await;
    assert!(first.len() > 100, "the dump sees the schema: {}", first.len());
    execute(&database, DATA).await.unwrap();

    let reverted = migrator.down(&database, 0).await.unwrap();
    assert_eq!(reverted.files.len(), applied.files.len());
    execute(&database, "DROP TABLE schema_migrations").await.unwrap();
    assert_eq!(catalog(&database).await, nothing);

    migrator.up(&database, None).await.unwrap();
    assert_eq!(catalog(&database).await, first);
    execute(&database, DATA).await.unwrap();
}

#[tokio::test]
async fn each_step_can_be_taken_alone() {
    let Some((_test, database)) = empty().await else { return };
    let migrator = Migrator::new();
    let versions: Vec<i32> =
        migrator.status(&database).await.unwrap().iter().map(|status| status.version).collect();
    for version in &versions {
        let report = migrator.up(&database, Some(*version)).await.unwrap();
        assert_eq!(report.files.len(), 1, "{report:?}");
    }
    for version in versions.iter().rev().skip(1).chain([&0]) {
        let report = migrator.down(&database, *version).await.unwrap();
        assert_eq!(report.files.len(), 1, "{report:?}");
    }
    let unknown = migrator.up(&database, Some(4711)).await.unwrap_err();
    assert!(matches!(unknown, MigrateError::UnknownTarget { version: 4711 }));
}

#[tokio::test]
async fn concurrent_migrations_run_once() {
    let Some((test, _)) = empty().await else { return };
    let ran = Arc::new(Mutex::new(Vec::new()));
    let runs = (0..4).map(|_| {
        let (url, ran) = (test.url().to_owned(), Arc::clone(&ran));
        tokio::spawn(async move {
            // Each with a pool of its own, as programs have.
            let database = Database::new(&PostgresConfig::new(url)).unwrap();
            let migrator = Migrator::new().with_listener(move |event| {
                if let MigrationEvent::Finished(file) = event {
                    ran.lock().unwrap().push(file.clone());
                }
            });
            migrator.up(&database, None).await.unwrap().files.len()
        })
    });
    let mut counts = Vec::new();
    for run in futures::future::join_all(runs).await {
        counts.push(run.unwrap());
    }
    counts.sort_unstable();
    let all = Migrator::new().status(&connect(test.url()).await).await.unwrap();
    assert_eq!(counts, [0, 0, 0, all.len()], "one migrates all, the others find nothing to do");
    let expected: Vec<String> = all.iter().map(|status| format!("{}.up.sql", status.name)).collect();
    assert_eq!(*ran.lock().unwrap(), expected);
    assert!(all.iter().all(|status| matches!(status.state, MigrationState::Applied { .. })), "{all:?}");
}

#[tokio::test]
async fn waiting_for_another_migration_is_told_and_bounded() {
    let Some((_test, database)) = empty().await else { return };
    let mut holder = database.direct().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(1885823341)").execute(&mut holder).await.unwrap();
    let waits = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&waits);
    let migrator = Migrator::new().with_patience(Duration::from_millis(300)).with_listener(move |event| {
        if let MigrationEvent::Waiting(_) = event {
            *seen.lock().unwrap() += 1;
        }
    });
    let error = migrator.up(&database, None).await.unwrap_err();
    assert!(matches!(error, MigrateError::Busy { .. }), "{error}");
    assert!(*waits.lock().unwrap() > 0);

    holder.close().await.unwrap();
    assert!(!migrator.up(&database, None).await.unwrap().files.is_empty());
}

#[tokio::test]
async fn failing_file_is_rolled_back_and_can_be_run_again() {
    let Some((_test, database)) = empty().await else { return };
    // A table in the way of the last file stops the run in its midst.
    execute(&database, "CREATE TABLE leases ()").await.unwrap();
    let error = Migrator::new().up(&database, None).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Failed { file, .. } if file == "005_sessions.up.sql"), "{error}");
    let sessions: Option<String> = {
        let mut connection = database.read().await.unwrap();
        sqlx::query_scalar("SELECT to_regclass('sessions')::text").fetch_one(&mut *connection).await.unwrap()
    };
    assert_eq!(sessions, None, "what came before it in the same file was rolled back");

    execute(&database, "DROP TABLE leases").await.unwrap();
    let report = Migrator::new().up(&database, None).await.unwrap();
    assert_eq!(report.files, ["005_sessions.up.sql", "006_encryption.up.sql", "007_audit_logging.up.sql"]);
}

#[tokio::test]
async fn failing_file_is_named() {
    let Some((_test, database)) = empty().await else { return };
    execute(&database, "CREATE DOMAIN users AS text").await.unwrap();
    let error = Migrator::new().up(&database, None).await.unwrap_err();
    assert!(error.to_string().starts_with("`001_users.up.sql` failed"), "{error}");
    let cause = std::error::Error::source(&error).expect("PostgreSQL's words are the source");
    let chain = format!("{cause} {:?}", cause.source());
    assert!(chain.contains("users"), "{chain}");
}

#[tokio::test]
async fn too_new_schema_is_refused() {
    let Some((_test, database)) = migrated().await else { return };
    record(&database, 900, "900_future", "99.0.0").await;
    let migrator = Migrator::new();
    let refusals =
        [migrator.check_compatible(&database).await.err(), migrator.up(&database, None).await.err()];
    for refusal in refusals {
        let refusal = refusal.expect("refused");
        assert!(
            matches!(&refusal, MigrateError::ProgramTooOld { name, needed, .. }
                if name == "900_future" && needed == "99.0.0"),
            "{refusal}"
        );
        assert!(refusal.to_string().contains("needs pganalytics 99.0.0 or newer"), "{refusal}");
    }
}

#[tokio::test]
async fn newer_schema_that_allows_this_program_is_accepted() {
    let Some((_test, database)) = migrated().await else { return };
    record(&database, 900, "900_future", "3.3.0").await;
    let migrator = Migrator::new();
    assert_eq!(migrator.check_compatible(&database).await.unwrap(), Compatibility::Ready);
    // The newer program took this right away; an older one that is started once more must not give it back.
    execute(&database, "REVOKE INSERT ON users FROM pganalytics_app").await.unwrap();
    let report = migrator.up(&database, None).await.unwrap();
    assert_eq!((report.files.len(), report.app_role), (0, AppRole::LeftAlone));
    let granted: bool =
        sqlx::query_scalar("SELECT has_table_privilege('pganalytics_app', 'users', 'INSERT')")
            .fetch_one(&mut *database.read().await.unwrap())
            .await
            .unwrap();
    assert!(!granted);
    let status = migrator.status(&database).await.unwrap();
    assert_eq!(status.last().unwrap().state, MigrationState::Unknown);

    let refusal = migrator.down(&database, 0).await.unwrap_err();
    assert!(matches!(refusal, MigrateError::UnknownMigration { .. }), "{refusal}");
    assert_eq!(migrator.check_compatible(&database).await.unwrap(), Compatibility::Ready);
}

async fn record(database: &Database, version: i32, name: &str, min_app_version: &str) {
    let mut connection = database.write().await.unwrap();
    sqlx::query("INSERT INTO schema_migrations VALUES ($1, $2, 'x', $3, now(), 'a newer program')")
        .bind(version)
        .bind(name)
        .bind(min_app_version)
        .execute(&mut *connection)
        .await
        .unwrap();
    connection.commit().await.unwrap();
}

#[tokio::test]
async fn missing_steps_are_reported_as_pending() {
    let Some((_test, database)) = empty().await else { return };
    let migrator = Migrator::new();
    let Compatibility::Pending(all) = migrator.check_compatible(&database).await.unwrap() else {
        panic!("an empty database lacks everything")
    };
    migrator.up(&database, Some(2)).await.unwrap();
    let rest = migrator.check_compatible(&database).await.unwrap();
    assert_eq!(rest, Compatibility::Pending(all[2..].to_vec()));
}

#[tokio::test]
async fn changed_file_is_named() {
    let Some((_test, database)) = migrated().await else { return };
    execute(&database, "UPDATE schema_migrations SET checksum = 'other' WHERE version = 2").await.unwrap();
    let migrator = Migrator::new();
    let errors = [migrator.up(&database, None).await.err(), migrator.down(&database, 0).await.err()];
    for error in errors {
        let error = error.expect("refused");
        assert!(
            matches!(&error, MigrateError::ChecksumMismatch { file, .. } if file == "002_collectors.up.sql"),
            "{error}"
        );
    }
    let status = migrator.status(&database).await.unwrap();
    assert_eq!(status[1].state, MigrationState::Changed);
}

#[tokio::test]
async fn migrating_is_a_future_that_can_be_spawned() {
    let Some((_test, database)) = migrated().await else { return };
    let report = tokio::spawn(async move { Migrator::new().up(&database, None).await });
    assert_eq!(report.await.unwrap().unwrap().app_role, AppRole::Granted);
}

#[tokio::test]
async fn app_role_cannot_rewrite_history_or_change_tables() {
    let Some((_test, database)) = migrated().await else { return };
    execute(&database, DATA).await.unwrap();
    let mut connection = database.direct().await.unwrap();
    sqlx::raw_sql("SET ROLE pganalytics_app").execute(&mut connection).await.unwrap();
    for refused in [
        "UPDATE audit_events SET action = 'x'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "ALTER TABLE audit_events ADD COLUMN x int",
        "ALTER TABLE users DROP COLUMN role",
        "ALTER TABLE users DISABLE TRIGGER ALL",
        "DROP TABLE users",
        "TRUNCATE users",
        "CREATE TABLE mine ()",
        "CREATE TRIGGER t BEFORE INSERT ON audit_events EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "DELETE FROM schema_migrations",
        "UPDATE schema_migrations SET min_app_version = '0.0.0'",
    ] {
        let error = sqlx::raw_sql(refused).execute(&mut connection).await.expect_err(refused);
        let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{refused}: {error}");
    }
    let granted = [
        "INSERT INTO audit_events (id, at, writer, writer_sequence, actor_kind, action, outcome)
             VALUES ('00000000-0000-7000-8000-000000000009', now(), gen_random_uuid(), 0, 'user', 'user.create', 'success')",
        "SELECT * FROM audit_events",
        "UPDATE users SET full_name = 'Ada'",
        "INSERT INTO users (id, username, username_key, role, created_at, updated_at)
             VALUES ('00000000-0000-7000-8000-000000000008', 'Bob', 'bob', 'user', now(), now())",
        "DELETE FROM collector_config",
        "BEGIN; LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE; COMMIT",
        "SELECT * FROM schema_migrations",
    ];
    for statement in granted {
        sqlx::raw_sql(statement).execute(&mut connection).await.expect(statement);
    }
}

#[tokio::test]
async fn owner_without_the_right_to_create_roles_can_migrate() {
    // A server of its own: the role belongs to the whole server, and other tests make it.
    let Some(server) = private_postgres(Profile::Fast).await else { return };
    let superuser = connect(&server.url()).await;
    execute(&superuser, "CREATE ROLE managed LOGIN; ALTER SCHEMA public OWNER TO managed").await.unwrap();
    let url = server.url();
    let (_superuser, address) = url.split_once('@').unwrap();
    let owner = connect(&format!("postgres://managed@{address}")).await;

    let report = Migrator::new().up(&owner, None).await.unwrap();
    assert!(!report.files.is_empty());
    assert_eq!(report.app_role, AppRole::Missing);

    execute(&superuser, "CREATE ROLE pganalytics_app NOLOGIN").await.unwrap();
    let report = Migrator::new().up(&owner, None).await.unwrap();
    assert!(report.files.is_empty());
    assert_eq!(report.app_role, AppRole::Granted);
    execute(&superuser, "SET ROLE pganalytics_app; SELECT * FROM users; RESET ROLE").await.unwrap();
}
