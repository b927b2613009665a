//! Requests with an idempotency key, sent again until they are answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pganalytics_testkit::wait_until;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, LIMIT, client};
use crate::wire::At;

/// How often a server is killed at a random instant.
const KILLS: u64 = 100;

/// Steps of a unit of work at which a server is killed.
const STEPS: [(&str, At); 8] = [
    ("SAVEPOINT effects", At::Question),
    ("SAVEPOINT effects", At::Answer),
    ("claim_idempotency_key", At::Question),
    ("claim_idempotency_key", At::Answer),
    ("INSERT INTO alert_rules", At::Question),
    ("COMMIT AND CHAIN", At::Question),
    ("COMMIT AND CHAIN", At::Answer),
    ("COMMIT AND CHAIN", At::Answered),
];

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    body: Value,
    replayed: bool,
}

/// A client that makes rules, each under a key of its own.
#[derive(Clone, Debug)]
struct Author {
    http: reqwest::Client,
    token: String,
    key_header: &'static str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_survives_kill() {
    let Some(mut cluster) = Cluster::start_wired(3).await else { return };
    let author = Author::of(&cluster).await;
    let authors = Authors::start(&cluster.urls(), &author, 6);
    let mut chance = Chance(1);
    for kill in 0..KILLS {
        authors.acknowledged_since_now(1).await;
        tokio::time::sleep(Duration::from_micros(chance.next() % 20_000)).await;
        let server = usize::try_from(kill % 3).unwrap();
        cluster.kill_9(server).await;
        cluster.restart_server(server).await;
    }
    let mut counts = authors.stop().await;
    for (number, (statement, at)) in STEPS.into_iter().enumerate() {
        // A fresh process has prepared no statement yet, so that the text of each one passes on the wire.
        cluster.kill_9(0).await;
        cluster.restart_server(0).await;
        let name = format!("step {number}");
        let held = cluster.wire(0).hold(statement, at);
        let urls = cluster.urls();
        let (first, task) = (author.clone(), name.clone());
        let first = tokio::spawn(async move { first.make(&urls[0], &task, 1).await });
        let connection = held.sprung().await;
        cluster.kill_9(0).await;
        drop(connection);
        let answered = first.await.unwrap();
        assert!(answered.is_none() || at == At::Answered, "{statement} {at:?}: {answered:?}");
        let answer = author.make_until_answered(&cluster.urls()[1..], &name, 1).await;
        counts.acknowledge(name, &answer);
        cluster.restart_server(0).await;
    }
    counts.assert_at_most_one_effect_each(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_server_frees_its_unit_of_work() {
    let Some(cluster) = Cluster::start_wired(2).await else { return };
    let author = Author::of(&cluster).await;
    let urls = cluster.urls();
    let held = cluster.wire(0).hold("COMMIT AND CHAIN", At::Question);
    let (hung, url) = (author.clone(), urls[0].clone());
    let hung = tokio::spawn(async move { hung.make(&url, "hung", 1).await });
    let connection = held.sprung().await;
    cluster.pause(0);
    let since = Instant::now();
    let answer = author.make_until_answered(&urls[1..], "hung", 1).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!((answer.status, answer.replayed), (StatusCode::CREATED, false), "{answer:?}");
    cluster.resume(0);
    drop(connection);
    // Whatever the server says when it wakes up, it has not done it again.
    let late = hung.await.unwrap();
    assert!(late.as_ref().is_none_or(|late| late.status.is_server_error()), "{late:?}");
    assert_eq!(cluster.number("SELECT count(*) FROM alert_rules").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_replayed() {
    let Some(cluster) = Cluster::start_wired(1).await else { return };
    let author = Author::of(&cluster).await;
    let url = &cluster.urls()[0];
    let held = cluster.wire(0).hold("COMMIT AND CHAIN", At::Answer);
    let first = tokio::spawn({
        let (author, url) = (author.clone(), url.clone());
        async move { author.make(&url, "lost", 1).await }
    });
    drop(held.sprung().await);
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE, "{first:?}");
    let retry = author.make(url, "lost", 1).await.unwrap();
    assert_eq!((retry.status, retry.replayed), (StatusCode::CREATED, true), "{retry:?}");
    assert_eq!(cluster.number("SELECT count(*) FROM alert_rules").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_requests_have_one_effect() {
    let Some(cluster) = Cluster::start_wired(3).await else { return };
    let author = Author::of(&cluster).await;
    for round in 0..10 {
        let name = format!("twins {round}");
        let mut twins = JoinSet::new();
        for twin in 0..12 {
            let (author, url, name) = (author.clone(), cluster.urls()[twin % 3].clone(), name.clone());
            twins.spawn(async move { author.make(&url, &name, 1).await.unwrap() });
        }
        let answers = twins.join_all().await;
        let first: Vec<&Answer> = answers.iter().filter(|it| it.status == 201 && !it.replayed).collect();
        assert_eq!(first.len(), 1, "{answers:?}");
        for answer in &answers {
            match answer.status {
                StatusCode::CREATED => assert_eq!(answer.body, first[0].body),
                status => assert_eq!(status, StatusCode::CONFLICT, "{answer:?}"),
            }
        }
        // The same key for another request is a mistake of the client, on every server.
        let other = author.make(&cluster.urls()[round % 3], &name, 2).await.unwrap();
        assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{other:?}");
    }
    assert_eq!(cluster.number("SELECT count(*) FROM alert_rules").await, 10);
    let events = "SELECT count(*) FROM audit_logs WHERE action = 'alert_rule.create'";
    assert_eq!(cluster.number(events).await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancers_twin_waits_and_gets_the_same_answer() {
    let Some(cluster) = Cluster::start_wired(3).await else { return };
    let author = Author::of(&cluster).await.behind_a_balancer();
    for round in 0..10 {
        let name = format!("twins {round}");
        let mut twins = JoinSet::new();
        for twin in 0..12 {
            let (author, url, name) = (author.clone(), cluster.urls()[twin % 3].clone(), name.clone());
            twins.spawn(async move { author.make(&url, &name, 1).await.unwrap() });
        }
        let answers = twins.join_all().await;
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1, "{answers:?}");
        for answer in &answers {
            assert_eq!((answer.status, &answer.body), (StatusCode::CREATED, &answers[0].body));
        }
    }
    assert_eq!(cluster.number("SELECT count(*) FROM alert_rules").await, 10);
}

impl Author {
    async fn of(cluster: &Cluster) -> Self {
        Self { http: client(), token: cluster.administrator().await, key_header: "Idempotency-Key" }
    }

    /// Whose requests carry keys that a load balancer made.
    fn behind_a_balancer(self) -> Self {
        Self { key_header: "Minted-Idempotency-Key", ..self }
    }

    /// Sends the request once, under a key that is the rule's name; `None` when there was no answer.
    async fn make(&self, url: &str, name: &str, threshold: u32) -> Option<Answer> {
        let condition = json!({ "operator": ">", "value": threshold });
        let rule = json!({ "name": name, "rule_type": "threshold", "alert_severity": "low",
            "metric_name": "x", "condition": condition });
        let response = self
            .http
            .post(format!("{url}/api/v1/alert-rules"))
            .bearer_auth(&self.token)
            .header(self.key_header, format!("\"{name}\""))
            .json(&json!({ "rule": rule }))
            .send()
            .await
            .ok()?;
        let status = response.status();
        let replayed = response.headers().contains_key("idempotency-replayed");
        Some(Answer { status, replayed, body: response.json().await.ok()? })
    }

    /// Sends the request to one server after the other until one has done it.
    async fn make_until_answered(&self, urls: &[String], name: &str, threshold: u32) -> Answer {
        for attempt in 0.. {
            match self.make(&urls[attempt % urls.len()], name, threshold).await {
                Some(answer) if answer.status == StatusCode::CREATED => return answer,
                // A server or the database is away, or another attempt is in flight.
                None => {}
                Some(answer) if matches!(answer.status.as_u16(), 409 | 502..=504) => {}
                Some(answer) => panic!("`{name}` was answered {answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        unreachable!("attempts never end")
    }
}

/// Authors at work.
struct Authors {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: JoinSet<Vec<(String, i64)>>,
}

/// The names of requests that were acknowledged, each with the number of the rule that was named.
#[derive(Debug, Default)]
struct Counts {
    acknowledged: BTreeMap<String, i64>,
}

impl Authors {
    fn start(urls: &[String], author: &Author, clients: usize) -> Self {
        let mut authors =
            Self { stop: Arc::default(), acknowledged: Arc::default(), clients: JoinSet::new() };
        for client in 0..clients {
            let (author, mut urls) = (author.clone(), urls.to_vec());
            let (stop, acknowledged) = (Arc::clone(&authors.stop), Arc::clone(&authors.acknowledged));
            let turn = client % urls.len();
            urls.rotate_left(turn);
            authors.clients.spawn(async move {
                let mut made = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let name = format!("rule {} of client {client}", made.len());
                    let answer = author.make_until_answered(&urls, &name, 1).await;
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    made.push((name, rule_number(&answer)));
                    urls.rotate_left(1);
                }
                made
            });
        }
        authors
    }

    async fn acknowledged_since_now(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + more;
        let reached = wait_until(LIMIT, || async { self.acknowledged.load(Ordering::SeqCst) >= goal });
        assert!(reached.await, "requests are acknowledged again");
    }

    async fn stop(self) -> Counts {
        self.stop.store(true, Ordering::SeqCst);
        let made = tokio::time::timeout(LIMIT, self.clients.join_all()).await.unwrap();
        Counts { acknowledged: made.into_iter().flatten().collect() }
    }
}

impl Counts {
    fn acknowledge(&mut self, name: String, answer: &Answer) {
        self.acknowledged.insert(name, rule_number(answer));
    }

    /// Every request was sent until it was acknowledged, so that those sent and those acknowledged are the same.
    #[expect(clippy::print_stdout, reason = "the counts are what the test shows")]
    async fn assert_at_most_one_effect_each(&self, cluster: &Cluster) {
        let effects: Vec<(String, i64)> = cluster.rows("SELECT name, number FROM alert_rules").await;
        println!("sent and acknowledged {}, effects {}", self.acknowledged.len(), effects.len());
        let by_name: BTreeMap<String, i64> = effects.iter().cloned().collect();
        assert_eq!(by_name.len(), effects.len(), "a key has at most one effect");
        assert_eq!(by_name, self.acknowledged, "an acknowledged key has the effect that was told");
        let events = "SELECT count(*) FROM audit_logs WHERE action = 'alert_rule.create'";
        assert_eq!(cluster.number(events).await, i64::try_from(effects.len()).unwrap());
    }
}

fn rule_number(answer: &Answer) -> i64 {
    answer.body["rule"]["id"].as_i64().unwrap_or_else(|| panic!("{answer:?}"))
}

/// Moments that differ from run to run of the loop, and are the same in each run of the test (xorshift64, Marsaglia 2003).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
