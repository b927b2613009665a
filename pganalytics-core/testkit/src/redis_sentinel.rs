use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::redis::{START_LIMIT, assert_port_taken, find_program, new_folder, redis_with, reply};
use crate::{Child, Redis, RedisOptions, free_port, wait_until};

const PORT_ATTEMPTS: usize = 5;

/// The name by which the sentinels know the master.
pub const SENTINEL_MASTER: &str = "main";

/// A master, a replica and the sentinels that watch them. A master that is silent for half a second is replaced.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The master, until there is a failover.
    pub master: Redis,
    /// The replica, until there is a failover.
    pub replica: Redis,
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    port: u16,
    process: Child,
    _folder: TempDir,
}

impl RedisSentinel {
    /// The sentinels' ports on 127.0.0.1.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(|sentinel| sentinel.port).collect()
    }

    /// A sentinel's process, to be paused or killed.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn sentinel(&self, index: usize) -> &Child {
        &self.sentinels[index].process
    }

    /// Waits until the replica is the master, and every sentinel that answers says so; `false` when not after `limit`.
    pub async fn failed_over(&self, limit: Duration) -> bool {
        let question = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SENTINEL_MASTER}");
        let port = self.replica.port().to_string();
        wait_until(limit, async || {
            let role = reply(self.replica.port(), None, "INFO replication").await;
            if !role.is_some_and(|role| role.contains("role:master")) {
                return false;
            }
            for sentinel in &self.sentinels {
                let named = reply(sentinel.port, None, &question).await;
                if named.is_some_and(|named| !named.contains(&port)) {
                    return false;
                }
            }
            true
        })
        .await
    }
}

/// A master and a replica that this many sentinels watch, of which a majority decides. `None` when Redis is not installed.
///
/// # Panics
/// When one of them does not start, or Redis is not installed but required.
pub async fn redis_sentinel(sentinels: usize) -> Option<RedisSentinel> {
    let master = redis_with(RedisOptions::new()).await?;
    let port = master.port().to_string();
    let replica =
        redis_with(RedisOptions::new().with_setting("replicaof", &format!("127.0.0.1 {port}"))).await?;
    // Whoever takes over must have the data.
    let linked = wait_until(START_LIMIT, async || {
        replica.ask("INFO replication").await.contains("master_link_status:up")
    });
    assert!(linked.await, "the replica does not find its master: {}", replica.process().log());
    let mut started = Vec::new();
    for _ in 0..sentinels {
        started.push(start_sentinel(master.port(), sentinels / 2 + 1).await?);
    }
    let cluster = RedisSentinel { master, replica, sentinels: started };
    let others =
        format!("num-other-sentinels\r\n${}\r\n{}\r\n", (sentinels - 1).to_string().len(), sentinels - 1);
    let known = wait_until(START_LIMIT, async || {
        for sentinel in &cluster.sentinels {
            let state = reply(sentinel.port, None, &format!("SENTINEL MASTER {SENTINEL_MASTER}")).await;
            let complete =
                |state: &str| state.contains("num-slaves\r\n$1\r\n1\r\n") && state.contains(&others);
            if !state.is_some_and(|state| complete(&state)) {
                return false;
            }
        }
        true
    });
    assert!(known.await, "the sentinels do not find each other: {}", cluster.sentinels[0].process.log());
    Some(cluster)
}

async fn start_sentinel(master: u16, quorum: usize) -> Option<Sentinel> {
    let program = find_program()?;
    for _ in 0..PORT_ATTEMPTS {
        let (port, folder) = (free_port(), new_folder());
        let file = folder.path().join("sentinel.conf");
        let settings = [
            "bind 127.0.0.1".to_owned(),
            format!("port {port}"),
            format!("dir {}", folder.path().display()),
            format!("sentinel monitor {SENTINEL_MASTER} 127.0.0.1 {master} {quorum}"),
            format!("sentinel down-after-milliseconds {SENTINEL_MASTER} 500"),
            format!("sentinel failover-timeout {SENTINEL_MASTER} 2000"),
        ];
        fs::write(&file, settings.join("\n")).expect("write into a temporary folder");
        let mut command = Command::new(&program);
        command.arg(&file).arg("--sentinel");
        let process = Child::spawn("sentinel", command).expect("run the Redis server");
        let settled = wait_until(START_LIMIT, async || {
            !process.is_running() || reply(port, None, "PING").await.is_some_and(|pong| pong.contains("PONG"))
        });
        if settled.await && process.is_running() {
            return Some(Sentinel { port, process, _folder: folder });
        }
        assert_port_taken(&process);
    }
    panic!("the sentinel found each of {PORT_ATTEMPTS} free ports taken");
}
