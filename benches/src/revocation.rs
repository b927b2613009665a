//! How long a signed-out session is still believed by another server.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pganalytics_testkit::{Profile, private_postgres};

use crate::report::{Better, Round, Summary};
use crate::server::{Cluster, Server};

pub(crate) const NAME: &str = "revoke_propagation";

/// What is promised.
const BOUND: Duration = Duration::from_secs(1);
const SESSIONS: usize = 40;

/// Each round is the 99th percentile of its sessions (for 40 the longest), beside the bound.
#[expect(clippy::print_stdout, reason = "the distribution is part of the result")]
pub(crate) async fn run(rounds: u32) -> anyhow::Result<Summary> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let cluster = Cluster::prepare(&postgres).await?;
    let (here, there) = (cluster.serve().await?, cluster.serve().await?);
    here.set_up().await?;
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut delays = Vec::new();
        for _ in 0..SESSIONS {
            delays.push(delay(&here, &there).await?.as_secs_f64() * 1000.0);
        }
        delays.sort_by(f64::total_cmp);
        rows.push(Round { ours: delays[SESSIONS * 99 / 100], peer: BOUND.as_secs_f64() * 1000.0 });
        all.extend(delays);
    }
    all.sort_by(f64::total_cmp);
    let at = |part: usize| all[(all.len() - 1) * part / 100];
    println!(
        "{NAME}: {} sessions, ms: least {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, most {:.1}",
        all.len(),
        at(0),
        at(50),
        at(90),
        at(99),
        at(100)
    );
    Ok(Summary::of(NAME, "ms, beside what is promised", Better::Less, &rows))
}

async fn delay(here: &Server, there: &Server) -> anyhow::Result<Duration> {
    let token = here.sign_in().await?;
    // It is remembered there.
    ensure!(is_believed(there, &token).await?, "a live session is believed");
    here.post("/auth/logout").bearer_auth(&token).send().await?.error_for_status()?;
    let since = Instant::now();
    while is_believed(there, &token).await? {
        ensure!(since.elapsed() < 10 * BOUND, "the session is still believed");
    }
    Ok(since.elapsed())
}

async fn is_believed(server: &Server, token: &str) -> anyhow::Result<bool> {
    Ok(server.get("/auth/me").bearer_auth(token).send().await?.status().is_success())
}
