use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::testing::ManualClock;
use pganalytics_core::users::UserStore;
use pganalytics_store::postgres::{Compatibility, Database, Migrator, PostgresConfig, PostgresUserStore};
use pganalytics_testkit::{TestDatabase, free_port, require_backends, wait_until};

use crate::common::migrated;
use crate::samples::new_user;

const SERVER_CONNECTIONS: usize = 2;

/// A PgBouncer before a test's database, stopped with this value.
struct Pooler {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        killed.expect("stop the pooler");
    }
}

impl Pooler {
    async fn start(database: &TestDatabase) -> Option<Self> {
        if Command::new("pgbouncer").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(!require_backends(), "PgBouncer is not installed");
            eprintln!("skipped: PgBouncer is not installed (package pgbouncer)");
            return None;
        }
        let (server, _) = database.url().split_once("://").unwrap().1.rsplit_once('/').unwrap();
        let (user, address) = server.split_once('@').unwrap();
        let (host, server_port) = address.rsplit_once(':').unwrap();
        let (host, port) = (host.replace("%2F", "/").replace("%2f", "/"), free_port());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n{name} = host={host} port={server_port} user={user}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n",
            name = database.name(),
        );
        std::fs::write(&file, settings).unwrap();
        let process = spawn(folder.path(), &file);
        let url = format!("postgres://{user}@127.0.0.1:{port}/{}", database.name());
        let pooler = Self { process, url, _folder: folder };
        let ready = wait_until(Duration::from_secs(10), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        });
        assert!(ready.await, "the pooler starts");
        Some(pooler)
    }
}

/// PgBouncer refuses to be root, and must not outlive a test that is killed.
fn spawn(folder: &Path, file: &Path) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if nix::unistd::geteuid().is_root() {
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder, readable).unwrap();
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("pgbouncer").arg("--quiet").arg(file);
    command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("setpriv is part of util-linux")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_behind_a_transaction_pooler() {
    let Some((test, _)) = migrated().await else { return };
    let Some(pooler) = Pooler::start(&test).await else { return };
    let mut config = PostgresConfig::new(pooler.url.clone());
    config.direct_url = Some(test.url().to_owned().into());
    config.transaction_pooler = true;
    config.acquire_timeout = Duration::from_secs(30);
    let database = Database::connect(&config).await.unwrap();
    assert_eq!(Migrator::new().check_compatible(&database).await.unwrap(), Compatibility::Ready);
    assert!(Migrator::new().up(&database, None).await.unwrap().files.is_empty());

    // More clients than server connections, so that each statement may meet another client's leavings.
    let clients = (0..4 * SERVER_CONNECTIONS as u128).map(|client| {
        let store = PostgresUserStore::new(database.clone(), Arc::new(ManualClock::new()));
        tokio::spawn(async move {
            for number in 0..20 {
                let new = new_user(client * 1_000 + number, &format!("user {client} {number}"));
                let user = store.insert(&new).await.unwrap();
                assert_eq!(store.find(user.id).await.unwrap().as_ref(), Some(&user));
                store.record_sign_in(user.id, user.created_at).await.unwrap();
                assert!(store.credential(&user.username).await.unwrap().is_some());
            }
        })
    });
    for client in futures::future::join_all(clients).await {
        client.unwrap();
    }
}
