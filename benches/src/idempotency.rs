//! Requests that make a row and its change event, from 16 clients at a time, on a durable PostgreSQL: with a key, beside
//! the same without one, and beside the usual way to do it with Redis, which is to claim the key there before and to store
//! the response after. That peer promises less: a crash between the two lets a retry take effect again.

use anyhow::Context;
use pganalytics_testkit::{Profile, private_postgres};
use redis::aio::MultiplexedConnection;
use serde_json::json;

use crate::load;
use crate::redis_server::RedisServer;
use crate::report::{Better, Round, Summary};
use crate::server::{Cluster, Server};

pub(crate) const NAME: &str = "idempotency_overhead";
const NO_KEY: &str = "idempotency_overhead/no_key";
const REDIS_TWO_STEP: &str = "idempotency_overhead/redis_two_step";

const REQUESTS_A_CLIENT: usize = 60;

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let redis_server = RedisServer::start().await?;
    let redis = redis_server.connection().await?;
    let server = Cluster::prepare(&postgres).await?.serve().await?;
    server.set_up().await?;
    let (mut no_key, mut two_step) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        let token = server.sign_in().await?;
        let token = token.as_str();
        let name = |client, time| format!("{round}-{client}-{time}");
        let ours = load::per_second(REQUESTS_A_CLIENT, |client, time| {
            make(&server, token, Some(name(client, time)))
        });
        let ours = ours.await?;
        let peer = load::per_second(REQUESTS_A_CLIENT, |_, _| make(&server, token, None)).await?;
        let redis_peer = load::per_second(REQUESTS_A_CLIENT, |client, time| {
            make_in_two_steps(redis.clone(), &server, token, name(client, time))
        });
        let redis_peer = redis_peer.await?;
        if round > 0 {
            no_key.push(Round { ours, peer });
            two_step.push(Round { ours, peer: redis_peer });
        }
    }
    Ok(vec![
        Summary::of(NO_KEY, "requests/s", Better::More, &no_key),
        Summary::of(REDIS_TWO_STEP, "requests/s", Better::More, &two_step),
    ])
}

async fn make(server: &Server, token: &str, key: Option<String>) -> anyhow::Result<()> {
    let rule = json!({ "name": "bench", "rule_type": "threshold", "alert_severity": "low", "metric_name": "x",
        "condition": { "operator": ">", "value": 1 } });
    let mut request = server.post("/alert-rules").bearer_auth(token).json(&json!({ "rule": rule }));
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    request.send().await?.error_for_status()?.bytes().await?;
    Ok(())
}

async fn make_in_two_steps(
    mut redis: MultiplexedConnection,
    server: &Server,
    token: &str,
    key: String,
) -> anyhow::Result<()> {
    let claim = redis::cmd("SET").arg(&key).arg("claimed").arg("NX").arg("PX").arg(60_000).to_owned();
    let claimed: Option<String> = claim.query_async(&mut redis).await?;
    claimed.context("the key is new")?;
    make(server, token, None).await?;
    let store = redis::cmd("SET").arg(&key).arg("x".repeat(400)).arg("PX").arg(86_400_000).to_owned();
    store.query_async::<()>(&mut redis).await?;
    Ok(())
}
