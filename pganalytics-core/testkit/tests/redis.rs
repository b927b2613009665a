//! A Redis for a test.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use pganalytics_testkit::{RedisOptions, SENTINEL_MASTER, redis, redis_cluster, redis_sentinel, redis_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn ask(port: u16, commands: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(commands.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn restart_gives_an_empty_server_on_the_same_port() {
    let Some(mut server) = redis(None).await else { return };
    assert_eq!(server.url(), format!("redis://127.0.0.1:{}/", server.port()));
    assert_eq!(ask(server.port(), "SET a 1\r\nGET a\r\n").await, "+OK\r\n$1\r\n1\r\n");
    server.restart().await;
    assert_eq!(ask(server.port(), "GET a\r\n").await, "$-1\r\n");
}

#[tokio::test]
async fn password_is_asked_for() {
    let Some(server) = redis(Some("s3cret")).await else { return };
    assert!(server.url().contains(":s3cret@"));
    assert!(ask(server.port(), "GET a\r\n").await.starts_with("-NOAUTH"));
    assert_eq!(ask(server.port(), "AUTH s3cret\r\nGET a\r\n").await, "+OK\r\n$-1\r\n");
}

#[tokio::test]
async fn server_with_tls_refuses_a_bare_connection() {
    let Some(server) = redis_with(RedisOptions::new().with_tls()).await else { return };
    assert!(server.url().starts_with("rediss://"));
    assert!(server.authority().unwrap().starts_with(b"-----BEGIN CERTIFICATE-----"));
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    assert!(!reply.starts_with(b"+PONG"));
}

#[tokio::test]
async fn user_is_let_in_and_nobody_else() {
    let options = RedisOptions::new().with_user("app", "s3cret", "~* +@all");
    let Some(server) = redis_with(options).await else { return };
    assert!(ask(server.port(), "PING\r\n").await.starts_with("-NOAUTH"));
    assert_eq!(ask(server.port(), "AUTH app s3cret\r\nPING\r\n").await, "+OK\r\n+PONG\r\n");
}

#[tokio::test]
async fn sentinels_replace_a_killed_master() {
    let Some(cluster) = redis_sentinel(3).await else { return };
    let known =
        ask(cluster.ports()[1], &format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SENTINEL_MASTER}\r\n")).await;
    assert!(known.contains(&cluster.master.port().to_string()), "{known}");
    cluster.master.process().kill_9().await;
    assert!(cluster.failed_over(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn nodes_of_a_cluster_send_to_each_other() {
    let Some(cluster) = redis_cluster().await else { return };
    let mut moved = 0;
    for node in &cluster.nodes {
        moved += usize::from(node.ask("GET key").await.starts_with("-MOVED"));
    }
    assert_eq!(moved, 2);
}
