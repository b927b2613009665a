//! Requests of a fixed form over connections that stay open.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const CONNECTIONS: usize = 16;
const REQUESTS_A_CONNECTION: usize = 6_000;
const CAPACITY_WINDOW: Duration = Duration::from_secs(4);
const DEADLINE: Duration = Duration::from_secs(60);

/// Sends one request again and again, and yields how many the process answered per second of its processor time.
pub(crate) async fn requests_per_cpu_second(pid: u32, address: &str, request: &str) -> anyhow::Result<f64> {
    let before = cpu_seconds(pid)?;
    let clients = (0..CONNECTIONS).map(|_| async {
        let mut connection = Connection::open(address).await?;
        for _ in 0..REQUESTS_A_CONNECTION {
            connection.ask(request, "200").await?;
        }
        anyhow::Ok(())
    });
    tokio::time::timeout(DEADLINE, try_join_all(clients)).await??;
    let spent = cpu_seconds(pid)? - before;
    ensure!(spent > 0.0, "the server spent no processor time");
    Ok((CONNECTIONS * REQUESTS_A_CONNECTION) as f64 / spent)
}

/// Sends one request again and again, and yields how many were answered per second.
pub(crate) async fn requests_per_second(address: &str, request: &str) -> anyhow::Result<f64> {
    let connections = try_join_all((0..CONNECTIONS).map(|_| Connection::open(address))).await?;
    let started = Instant::now();
    let clients = connections.into_iter().map(|mut connection| async move {
        let mut answered = 0;
        while started.elapsed() < CAPACITY_WINDOW {
            connection.ask(request, "200").await?;
            answered += 1;
        }
        anyhow::Ok(answered)
    });
    let answered: Vec<u32> = tokio::time::timeout(DEADLINE, try_join_all(clients)).await??;
    Ok(f64::from(answered.iter().sum::<u32>()) / started.elapsed().as_secs_f64())
}

/// Sends one request again and again, so many a second, whether those before are answered or not, as far as the connections
/// suffice. Yields how long each took from when it was due.
pub(crate) async fn at_rate(
    address: &str,
    request: &str,
    rate: f64,
    lasting: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let connections = try_join_all((0..CONNECTIONS).map(|_| Connection::open(address))).await?;
    let started = Instant::now();
    let pause = Duration::from_secs_f64(CONNECTIONS as f64 / rate);
    let clients = connections.into_iter().enumerate().map(|(client, mut connection)| async move {
        let mut times = Vec::new();
        let mut due = started + pause.mul_f64(client as f64 / CONNECTIONS as f64);
        while due < started + lasting {
            let mut begun = due;
            if Instant::now() < due {
                tokio::time::sleep_until(due.into()).await;
                // A timer may be a millisecond late, which is none of the server's business.
                begun = Instant::now();
            }
            connection.ask(request, "200").await?;
            times.push(begun.elapsed());
            due += pause;
        }
        anyhow::Ok(times)
    });
    Ok(tokio::time::timeout(lasting + DEADLINE, try_join_all(clients)).await??.concat())
}

/// Does work in turn on 16 connections, `times` on each, and yields how often per second it was done.
pub(crate) async fn per_second<F>(times: usize, work: impl Fn(usize, usize) -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let started = Instant::now();
    let work = &work;
    let clients = (0..CONNECTIONS).map(|client| async move {
        for time in 0..times {
            work(client, time).await?;
        }
        anyhow::Ok(())
    });
    tokio::time::timeout(DEADLINE, try_join_all(clients)).await??;
    Ok((CONNECTIONS * times) as f64 / started.elapsed().as_secs_f64())
}

/// A connection to a server whose answers are small JSON objects.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 8192] })
    }

    async fn ask(&mut self, request: &str, status: &str) -> anyhow::Result<()> {
        self.stream.write_all(request.as_bytes()).await?;
        let mut read = 0;
        // The answer ends with its JSON object.
        while read == 0 || self.buffer[read - 1] != b'}' {
            let more = self.stream.read(&mut self.buffer[read..]).await?;
            ensure!(more > 0, "the server closed the connection");
            read += more;
        }
        let answer = String::from_utf8_lossy(&self.buffer[..read]);
        ensure!(answer.split(' ').nth(1) == Some(status), "{answer}");
        Ok(())
    }
}

/// User and system time of a process (proc(5), `/proc/pid/stat`, fields 14 and 15), in ticks of 10 ms.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("the name ends")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}
