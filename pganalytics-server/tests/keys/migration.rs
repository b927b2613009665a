//! The change from plain columns to sealed ones while servers run.

use std::path::Path;

use pganalytics_auth::local::{PasswordHasher, PasswordHasherConfig};
use pganalytics_core::secret::SecretString;
use pganalytics_core::users::PasswordHash;
use pganalytics_testkit::{Child, wait_until};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::caller::Caller;
use crate::cluster::{Cluster, LIMIT, PASSWORD, client};
use crate::older::{self, Older};
use crate::program::{between, refused, succeed};
use crate::sealed_columns::{are_as_installed, opened, plain};

const RUN: [&str; 3] = ["keys", "migrate", "--run"];

/// An installation of before, whose schema was migrated but whose columns were not.
async fn migrated_installation() -> Option<(Cluster, Older)> {
    let cluster = Cluster::empty().await?;
    let older = Older::install(&cluster).await;
    cluster.run(&["migrate", "up"]).await;
    cluster.run(&["keys", "init"]).await;
    Some((cluster, older))
}

async fn phase(cluster: &Cluster) -> String {
    let phase = sqlx::query_scalar("SELECT phase FROM column_encryption");
    phase.fetch_one(&mut cluster.connect().await).await.unwrap()
}

async fn sign_in(cluster: &Cluster, password: &str) -> u16 {
    let login = json!({ "username": "admin", "password": password });
    let url = format!("{}/api/v1/auth/login", cluster.urls()[0]);
    client().post(url).json(&login).send().await.unwrap().status().as_u16()
}

async fn is_accepted(cluster: &Cluster, older: &Older) -> bool {
    let me = format!("{}/api/v1/auth/me", cluster.urls()[0]);
    client().get(me).bearer_auth(older.token.expose()).send().await.unwrap().status() == 200
}

async fn hash(password: &str) -> String {
    let hasher = PasswordHasher::new(PasswordHasherConfig::default()).unwrap();
    hasher.hash(&SecretString::new(password)).await.unwrap().expose().to_owned()
}

async fn change_password(caller: &Caller, old: &str, new: &str) {
    let body = json!({ "old_password": old, "new_password": new });
    let changed = caller.post("/api/v1/auth/change-password").json(&body).send().await.unwrap();
    assert_eq!(changed.status(), 200, "{}", changed.text().await.unwrap());
}

/// What the owner does who has exported the audit log.
const DROP_EVENTS: &str = "DO $$ DECLARE child regclass; BEGIN
    FOR child IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'audit_events'::regclass LOOP
        EXECUTE format('DROP TABLE %s', child);
    END LOOP; END $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_server_writes_during_migration() {
    let Some((mut cluster, mut older)) = migrated_installation().await else { return };
    cluster.spawn_all(1).await;
    assert_eq!(sign_in(&cluster, PASSWORD).await, 200, "a password that is not sealed yet");
    assert!(is_accepted(&cluster, &older).await, "a token that is not sealed yet");

    // While the old server is there, everything can be sealed but nothing is taken from it.
    older.beat().await;
    let slowly = [&RUN[..], &["--batch", "3", "--pause-ms", "20"]].concat();
    let migrating = Child::spawn("migrator", cluster.command(&slowly)).unwrap();
    let mut round = 0;
    while migrating.is_running() {
        round += 1;
        for number in (1..=older::ROWS).step_by(7) {
            older.set_password(number, &format!("$argon2id$changed-{round}-{number}")).await.unwrap();
        }
        older.add_config(1, 1 + round, &format!("# {round}")).await;
        older.beat().await;
    }
    let said = migrating.log();
    assert!(said.contains("these servers know no sealed columns"), "{said}");
    assert_eq!(phase(&cluster).await, "dual");
    assert!(round >= 2, "the old server wrote {round} times meanwhile");

    // Each sees what the other writes.
    let changed = "changed by the old server";
    older.set_password(0, &hash(changed).await).await.unwrap();
    assert_eq!([sign_in(&cluster, changed).await, sign_in(&cluster, PASSWORD).await], [200, 401]);
    let caller = Caller::sign_in_with(&cluster, changed).await;
    change_password(&caller, changed, PASSWORD).await;
    let seen: String = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1")
        .bind(older::id(0))
        .fetch_one(&mut older.connection)
        .await
        .unwrap();
    let hasher = PasswordHasher::new(PasswordHasherConfig::default()).unwrap();
    let verdict = hasher.verify(&SecretString::new(PASSWORD), &PasswordHash::new(seen)).await.unwrap();
    assert!(format!("{verdict:?}").starts_with("Right"), "{verdict:?}");

    older.leave().await;
    let expected = plain(&cluster).await;
    succeed(&cluster, &RUN).await;
    assert_eq!(phase(&cluster).await, "sealed");
    assert_eq!(
        opened(&cluster).await,
        expected,
        "nothing is lost, and nothing is older than what was written last"
    );

    let error = older.set_password(0, "$argon2id$").await.unwrap_err();
    assert!(error.to_string().contains("column password_hash of table users is sealed"), "{error}");
    assert_eq!(sign_in(&cluster, PASSWORD).await, 200);
    assert!(is_accepted(&cluster, &older).await);
    // What a server writes now leaves no plain text.
    let caller = Caller::sign_in(&cluster).await;
    change_password(&caller, PASSWORD, "sealed alone, 1 and 2").await;
    let plain: Option<String> = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1")
        .bind(older::id(0))
        .fetch_one(&mut older.connection)
        .await
        .unwrap();
    assert_eq!(plain, None);

    succeed(&cluster, &["keys", "migrate", "--finalise"]).await;
    let phases = "SELECT changes -> 'after' ->> 'phase', count(*) FROM audit_logs WHERE action = 'encryption.change' \
                  GROUP BY 1 ORDER BY 1";
    assert_eq!(cluster.rows(phases).await, [("final".into(), 1), ("sealed".into(), 1)]);
    assert_eq!(sign_in(&cluster, "sealed alone, 1 and 2").await, 200, "under the server that ran meanwhile");
    assert!(is_accepted(&cluster, &older).await);
}

/// Waits until a statement of a migrator waits for a lock.
async fn is_blocked(cluster: &Cluster) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    assert!(
        wait_until(LIMIT, || async { cluster.number(waiting).await > 0 }).await,
        "a migrator waits for a lock"
    );
}

/// Kills a command that waits for what `lock` takes.
async fn kill_while_locked(cluster: &Cluster, lock: &'static str, arguments: &[&str]) {
    let mut holder = PgConnection::connect(&cluster.database_url()).await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut holder).await.unwrap();
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let command = Child::spawn("migrator", cluster.command(arguments)).unwrap();
    is_blocked(cluster).await;
    command.kill_9().await;
    holder.close().await.unwrap();
    // The killed one's session finds out when it has the lock.
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    assert!(wait_until(LIMIT, || async { cluster.number(gone).await <= 1 }).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migration_006_survives_kill() {
    let Some((cluster, older)) = migrated_installation().await else { return };
    drop(older);
    let slowly = [&RUN[..], &["--batch", "2", "--pause-ms", "5"]].concat();

    // In the midst of a batch, then at random times.
    kill_while_locked(&cluster, "SELECT FROM users WHERE username = 'user9' FOR UPDATE", &slowly).await;
    for _ in 0..10 {
        let migrating = Child::spawn("migrator", cluster.command(&slowly)).unwrap();
        let time = between(50, 900);
        if migrating.wait(time).await.is_none() {
            migrating.kill_9().await;
        }
        // Until the columns are dropped, the plain values are all there.
        are_as_installed(&plain(&cluster).await);
    }
    // Before the switch: it waits for writers.
    if phase(&cluster).await == "dual" {
        let writer = "SELECT pg_advisory_xact_lock_shared(7411385902663)";
        kill_while_locked(&cluster, writer, &RUN).await;
        assert_eq!(phase(&cluster).await, "dual");
    }
    succeed(&cluster, &RUN).await;
    are_as_installed(&opened(&cluster).await);

    // Before the columns are dropped, and after, before the last thing is written anew.
    let finalise = ["keys", "migrate", "--finalise"];
    kill_while_locked(&cluster, "LOCK TABLE api_tokens IN ACCESS SHARE MODE", &finalise).await;
    assert_eq!(phase(&cluster).await, "sealed");
    kill_while_locked(&cluster, "LOCK TABLE pg_catalog.pg_statistic IN ACCESS SHARE MODE", &finalise).await;
    assert_eq!(phase(&cluster).await, "final");
    let said = succeed(&cluster, &["keys", "migrate", "--dry-run"]).await;
    assert!(!said.contains("written anew"), "{said}");
    succeed(&cluster, &finalise).await;
    let said = succeed(&cluster, &["keys", "migrate", "--dry-run"]).await;
    assert!(said.starts_with("phase final, tables written anew\n"), "{said}");
    are_as_installed(&opened(&cluster).await);

    // And all the way back, which is killed as well.
    let undo = ["keys", "migrate", "--undo", "--batch", "2", "--pause-ms", "5"];
    for _ in 0..3 {
        let undoing = Child::spawn("migrator", cluster.command(&undo)).unwrap();
        let time = between(50, 600);
        if undoing.wait(time).await.is_none() {
            undoing.kill_9().await;
        }
    }
    let down = ["migrate", "down", "--to", "5", "--yes"];
    let said = refused(&cluster, &down, 1).await;
    assert!(said.contains("table audit_events holds events"), "{said}");
    sqlx::raw_sql(DROP_EVENTS).execute(&mut cluster.connect().await).await.unwrap();
    succeed(&cluster, &down).await;
    are_as_installed(&plain(&cluster).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_directory_holds_no_plain_text() {
    let Some((cluster, mut older)) = migrated_installation().await else { return };
    for statement in [
        "ALTER SYSTEM SET wal_recycle = off",
        "SELECT pg_reload_conf()",
        // Dead rows, indexes and samples of the columns.
        "UPDATE users SET password_hash = password_hash || 'x'",
        "UPDATE users SET password_hash = rtrim(password_hash, 'x')",
        "UPDATE alert_rules SET webhook_url = (SELECT min(webhook_url) FROM alert_rules) WHERE number % 2 = 0",
        "CREATE INDEX alert_rules_webhook_url_idx ON alert_rules (webhook_url)",
        "ANALYZE",
        "CHECKPOINT",
    ] {
        sqlx::raw_sql(statement).execute(&mut older.connection).await.unwrap();
    }
    let data = cluster.data_folder();
    let before = files_with_canaries(&data, &|path| !path.starts_with(data.join("pg_wal")));
    assert!(before.len() >= 6, "tables, indexes and statistics hold plain text: {before:?}");

    succeed(&cluster, &RUN).await;
    let said = succeed(&cluster, &["keys", "migrate", "--finalise"]).await;
    assert!(said.contains("in every backup and dump from before"), "{said}");
    let listed = said.lines().find(|line| line.contains("pg_wal holds: ")).unwrap();
    let listed: Vec<&str> = listed.split_once("holds: ").unwrap().1.split(' ').collect();
    assert!(!files_with_canaries(&data.join("pg_wal"), &|_| true).is_empty(), "{listed:?}");
    sqlx::raw_sql("CHECKPOINT").execute(&mut older.connection).await.unwrap();
    let after = files_with_canaries(&data, &|path| !path.starts_with(data.join("pg_wal")));
    assert_eq!(after, Vec::<String>::new());

    let backup = cluster.folder().join("backup");
    let mut command = std::process::Command::new(cluster.program("pg_basebackup"));
    command.args(["--wal-method=none", "--checkpoint=fast", "--dbname", &cluster.database_url(), "--pgdata"]);
    let made = command.arg(&backup).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(files_with_canaries(&backup, &|_| true), Vec::<String>::new());

    // The log that finalise has listed is the last that holds plain text, and it goes.
    let gone = wait_until(LIMIT, || async {
        let mut connection = cluster.connect().await;
        for statement in ["SELECT pg_switch_wal()", "CHECKPOINT"] {
            sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        }
        listed.iter().all(|file| !data.join("pg_wal").join(file).exists())
    });
    assert!(gone.await, "{listed:?} are removed");
    assert_eq!(files_with_canaries(&data, &|_| true), Vec::<String>::new());
    are_the_same_rules_sealed(&cluster).await;
}

/// The webhooks still open after all this.
async fn are_the_same_rules_sealed(cluster: &Cluster) {
    let values = opened(cluster).await;
    let webhooks = values["alert_rules"].values();
    assert!(webhooks.clone().all(|url| url.starts_with(b"https://example.org/canary-of-a-webhook-")));
    assert_eq!(webhooks.len(), usize::try_from(older::ROWS).unwrap());
}

/// The files below a folder that hold a canary, of those that are to be looked at.
fn files_with_canaries(folder: &Path, is_looked_at: &dyn Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !is_looked_at(&path) {
            continue;
        }
        if path.is_dir() {
            found.extend(files_with_canaries(&path, is_looked_at));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.windows(9).any(|window| window == b"canary-of")
        {
            found.push(path.display().to_string());
        }
    }
    found
}
