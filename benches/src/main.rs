//! Benchmarks, each beside its peer in the same run: `cargo run --release -p benches -- [NAME…]`.

mod audit_change;
mod audit_request;
mod audit_seal;
mod audit_search;
mod audit_sink;
mod audit_verify;
mod backup_stream;
mod cache_hit;
mod cache_redis;
mod cache_tiered;
mod cost;
mod cpu;
mod field_gcm;
mod field_sql;
mod http_auth;
mod idempotency;
mod ingest;
mod load;
mod raw_gcm;
mod redis_server;
mod report;
mod revocation;
mod rotate_rows;
mod sealed_log;
mod sealed_rows;
mod sealing;
mod server;
mod session_check;

use clap::{Parser, Subcommand};

/// Runs benchmarks and writes `target/bench/summary.json`.
#[derive(Debug, Parser)]
struct Cli {
    /// Only these benchmarks; all when left out.
    names: Vec<String>,
    /// Rounds of each benchmark, ours and the peer's in turn.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(5..=100))]
    rounds: u32,
    /// Events among which `search` searches.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(i64).range(100_000..=50_000_000))]
    events: i64,
    #[command(subcommand)]
    server: Option<Server>,
}

/// Servers that a benchmark starts as processes of their own, to count their processor time.
#[derive(Debug, Subcommand)]
enum Server {
    /// A bare axum server.
    #[command(hide = true)]
    ServeBare,
    /// The same behind the authentication layer.
    #[command(hide = true)]
    ServeAuthenticated,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.server {
        Some(Server::ServeBare) => return http_auth::serve_bare().await,
        Some(Server::ServeAuthenticated) => return http_auth::serve_authenticated().await,
        None => {}
    }
    let wanted =
        |name: &str| cli.names.is_empty() || cli.names.iter().any(|wanted| name.starts_with(wanted.as_str()));
    let mut results = Vec::new();
    if wanted(cache_hit::NAME) {
        results.extend(cache_hit::run(cli.rounds).await?);
    }
    if wanted(cache_redis::NAME) {
        results.extend(cache_redis::run(cli.rounds).await?);
    }
    if wanted(cache_tiered::NAME) {
        results.extend(cache_tiered::run(cli.rounds).await?);
    }
    if wanted(http_auth::NAME) {
        results.push(http_auth::run(cli.rounds).await?);
    }
    if wanted(ingest::NAME) {
        results.extend(ingest::run(cli.rounds).await?);
    }
    if wanted(session_check::NAME) {
        results.push(session_check::run(cli.rounds).await?);
    }
    if wanted(idempotency::NAME) {
        results.extend(idempotency::run(cli.rounds).await?);
    }
    if wanted(revocation::NAME) {
        results.push(revocation::run(cli.rounds).await?);
    }
    if wanted(field_gcm::ENCRYPT) || wanted(field_gcm::DECRYPT) {
        results.extend(field_gcm::run(cli.rounds).await?);
    }
    if wanted(field_sql::NAME) {
        results.push(field_sql::run(cli.rounds).await?);
    }
    if wanted(sealed_rows::WRITE) || wanted(sealed_rows::READ) {
        results.extend(sealed_rows::run(cli.rounds).await?);
    }
    if wanted(rotate_rows::NAME) {
        results.push(rotate_rows::run(cli.rounds).await?);
    }
    if wanted(backup_stream::NAME) {
        results.push(backup_stream::run(cli.rounds).await?);
    }
    if wanted(audit_sink::NAME) {
        results.extend(audit_sink::run(cli.rounds).await?);
    }
    if wanted(audit_request::ENQUEUE) {
        results.push(audit_request::enqueue(cli.rounds).await?);
    }
    if wanted(audit_request::UNAUDITED) {
        results.extend(audit_request::requests(cli.rounds).await?);
    }
    if wanted(audit_change::NAME) {
        results.extend(audit_change::run(cli.rounds).await?);
    }
    if wanted(audit_seal::NAME) {
        results.extend(audit_seal::run(cli.rounds).await?);
    }
    if wanted(audit_verify::NAME) {
        results.extend(audit_verify::run(cli.rounds).await?);
    }
    if wanted(audit_search::NAME) {
        results.extend(audit_search::run(cli.rounds, cli.events).await?);
    }
    report::write(&results)
}
