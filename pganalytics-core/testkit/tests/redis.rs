//! A Redis for a test.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use pganalytics_testkit::redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn ask(port: u16, commands: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(format!("{commands}QUIT\r\n").as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn restart_gives_an_empty_server_on_the_same_port() {
    let Some(mut server) = redis(None).await else { return };
    assert_eq!(server.url(), format!("redis://127.0.0.1:{}/", server.port()));
    assert_eq!(ask(server.port(), "SET a 1\r\nGET a\r\n").await, "+OK\r\n$1\r\n1\r\n+OK\r\n");
    server.restart().await;
    assert_eq!(ask(server.port(), "GET a\r\n").await, "$-1\r\n+OK\r\n");
}

#[tokio::test]
async fn password_is_asked_for() {
    let Some(server) = redis(Some("s3cret")).await else { return };
    assert!(server.url().contains(":s3cret@"));
    assert!(ask(server.port(), "GET a\r\n").await.starts_with("-NOAUTH"));
    assert_eq!(ask(server.port(), "AUTH s3cret\r\nGET a\r\n").await, "+OK\r\n$-1\r\n+OK\r\n");
}
