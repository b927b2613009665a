//! What recording requests costs. Of the server's program: a request with a session that reads its user from the database, at
//! a fixed rate, half of what it can answer, of one that records each request and, in turn, of one that records none. What
//! recording takes is counted until the events are in the database, the sending included; the processor time of the database
//! is counted apart.
//!
//! And the part of it that the request waits for: the layer with the queue on disk, beside a single `write` of as many bytes,
//! which is a bound.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::body::Body;
use axum::http::{Request, Response};
use pganalytics_core::audit::{Actor, ActorKind, MemoryAuditSink, Resource};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::ids::UserId;
use pganalytics_core::layer::{AccessAuditLayer, AccessRecord, Recording, RequestIdLayer};
use pganalytics_core::random::{BufferedRandom, OsRandom};
use pganalytics_core::session::SessionId;
use pganalytics_store::audit::{SpillConfig, SpillingAuditSink};
use pganalytics_store::postgres::{Database, PostgresConfig};
use pganalytics_testkit::{LocalPostgres, Profile, private_postgres};
use sqlx::PgConnection;
use tower::{Layer, Service, ServiceExt, service_fn};
use uuid::Uuid;

use crate::report::{Better, Round, Summary};
use crate::server::{Cluster, Server};
use crate::{cpu, load};

pub(crate) const UNAUDITED: &str = "audit_request/unaudited";
const WITH_DATABASE: &str = "audit_request/unaudited_with_database";
const P99: &str = "audit_request/unaudited_p99";
pub(crate) const ENQUEUE: &str = "audit_request/enqueue";

const PATH: &str = "/api/v1/auth/me";
const LASTING: Duration = Duration::from_secs(8);
const USER: UserId = UserId(Uuid::from_u128(7));
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn requests(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let cluster = Cluster::prepare(&postgres).await?;
    let audited = cluster.serve().await?;
    let unaudited = cluster.serve_with(&[("PGA__AUDIT__REQUESTS", "false")]).await?;
    unaudited.set_up().await?;
    let database = Database::connect(&PostgresConfig::new(postgres.url())).await?;
    let mut connection = database.direct().await?;
    let capacity = load::requests_per_second(unaudited.address(), &request(&unaudited).await?).await?;
    let load = Load { postgres: &postgres, rate: capacity / 2.0 };
    let (mut server, mut all, mut p99) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        let before = recorded(&mut connection).await?;
        let ours = load.measure(&audited, Some((&mut connection, before))).await?;
        let peer = load.measure(&unaudited, None).await?;
        if round > 0 {
            server.push(Round { ours: ours.per_cpu_second, peer: peer.per_cpu_second });
            all.push(Round { ours: ours.per_cpu_second_of_all, peer: peer.per_cpu_second_of_all });
            p99.push(Round { ours: ours.p99_millis, peer: peer.p99_millis });
        }
    }
    Ok(vec![
        Summary::of(UNAUDITED, "requests a CPU second", Better::More, &server),
        Summary::of(WITH_DATABASE, "requests a CPU second", Better::More, &all),
        Summary::of(P99, "ms", Better::Less, &p99),
    ])
}

async fn request(server: &Server) -> anyhow::Result<String> {
    // An access token lives for five minutes.
    let token = server.sign_in().await?;
    Ok(format!(
        "GET {PATH} HTTP/1.1\r\nhost: {}\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 \
         Firefox/140.0\r\nauthorization: Bearer {token}\r\n\r\n",
        server.address()
    ))
}

async fn recorded(connection: &mut PgConnection) -> anyhow::Result<usize> {
    let count = "SELECT count(*) FROM audit_events WHERE resource_id = $1";
    let count: i64 = sqlx::query_scalar(count).bind(PATH).fetch_one(connection).await?;
    Ok(usize::try_from(count)?)
}

struct Load<'a> {
    postgres: &'a LocalPostgres,
    /// Requests a second.
    rate: f64,
}

struct Measured {
    per_cpu_second: f64,
    per_cpu_second_of_all: f64,
    p99_millis: f64,
}

impl Load<'_> {
    /// Of a server that records, with how many requests were recorded before.
    async fn measure(
        &self,
        server: &Server,
        recording: Option<(&mut PgConnection, usize)>,
    ) -> anyhow::Result<Measured> {
        let request = request(server).await?;
        let database = || cpu::of_children(self.postgres.pid());
        let (before, database_before) = (load::cpu_seconds(server.pid())?, database()?);
        let mut times = load::at_rate(server.address(), &request, self.rate, LASTING).await?;
        if let Some((connection, recorded_before)) = recording {
            let (expected, deadline) = (recorded_before + times.len(), Instant::now() + LIMIT);
            while recorded(connection).await? < expected {
                ensure!(Instant::now() < deadline, "each request is recorded");
                tokio::time::sleep(PAUSE).await;
            }
        }
        let spent = load::cpu_seconds(server.pid())? - before;
        let of_all = spent + database()?.saturating_sub(database_before).as_secs_f64();
        times.sort_unstable();
        Ok(Measured {
            per_cpu_second: times.len() as f64 / spent,
            per_cpu_second_of_all: times.len() as f64 / of_all,
            p99_millis: times[times.len() * 99 / 100].as_secs_f64() * 1e3,
        })
    }
}

/// Processor time of a request in microseconds: what the layer adds to it.
pub(crate) async fn enqueue(rounds: u32) -> anyhow::Result<Summary> {
    let session = SessionId::for_user(USER, Uuid::from_u128(8));
    let answer = service_fn(move |request| answer(request, session));
    let mut measured = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        let folder = tempfile::tempdir()?;
        let config = SpillConfig::new(folder.path().join("spill"));
        let (clock, random) = (Arc::new(SystemClock), Arc::new(BufferedRandom::new(OsRandom)));
        let nowhere = Arc::new(MemoryAuditSink::new(1));
        let sink = SpillingAuditSink::open(config, nowhere, clock.clone(), random.clone())?;
        let sink = Arc::new(sink);
        let layer =
            AccessAuditLayer::new(sink.clone(), clock.clone(), random.clone()).with_policy(|_, facts| {
                facts.address = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)));
                facts.resource = Some(Resource { kind: "route".to_owned(), id: Some(PATH.to_owned()) });
                Recording::FailOpen
            });
        let ids = RequestIdLayer::new(clock, random);
        let audited = micros(ids.layer(layer.layer(answer))).await?;
        let events = sink.status().sinks[0].backlog_events;
        let bytes = sink.status().bytes / events.max(1);
        let unaudited = micros(ids.layer(answer)).await?;
        let mut file = OpenOptions::new().append(true).create(true).open(folder.path().join("peer"))?;
        let line = vec![b'x'; usize::try_from(bytes)?];
        let written = cpu::per_second(async || Ok(file.write_all(black_box(&line))?)).await?;
        if round > 0 {
            measured.push(Round { ours: audited - unaudited, peer: 1e6 / written });
        }
    }
    Ok(Summary::of(ENQUEUE, "CPU µs", Better::Less, &measured))
}

/// Answers, and tells of the session as the authentication does.
async fn answer(request: Request<Body>, session: SessionId) -> Result<Response<Body>, Infallible> {
    if let Some(record) = request.extensions().get::<AccessRecord>() {
        record.update(|facts| {
            facts.actor = Some(Actor {
                kind: ActorKind::User,
                id: Some(USER.to_string()),
                name: Some("admin".to_owned()),
                role: Some("admin".to_owned()),
            });
            facts.session = Some(session);
        });
    }
    Ok(Response::new(Body::empty()))
}

async fn micros<S, R>(mut service: S) -> anyhow::Result<f64>
where
    S: Service<Request<Body>, Response = R, Error: std::fmt::Debug>,
{
    let per_second = cpu::per_second(async || {
        let request = Request::get(PATH)
            .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
            .body(Body::empty())?;
        let answer = service.ready().await.map_err(|error| anyhow::anyhow!("{error:?}"))?.call(request).await;
        black_box(answer.map_err(|error| anyhow::anyhow!("{error:?}"))?);
        Ok(())
    });
    Ok(1e6 / per_second.await?)
}
