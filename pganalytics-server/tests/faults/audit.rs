//! What was answered is in the audit log once, whatever is killed meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pganalytics_testkit::wait_until;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Collector, LIMIT, client};
use crate::exactly_once::Chance;
use crate::pushes;
use crate::wire::At;

const CLIENTS: u64 = 6;
const KILLS: u32 = 20;
const LOST: u32 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_survives_kill() {
    let Some(mut cluster) = start().await else { return };
    let askers = Askers::start(&cluster).await;
    let mut chance = Chance(6);
    for _ in 0..KILLS {
        askers.made_since_now(1).await;
        tokio::time::sleep(Duration::from_micros(chance.next() % 200_000)).await;
        cluster.kill_9(0).await;
        cluster.restart_server(0).await;
    }
    askers.made_since_now(CLIENTS).await;
    askers.stop().await.assert_recorded_exactly_once(&cluster).await;
}

/// Of units of work, of the sink and of jobs, as they come by: PostgreSQL has committed, and nobody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_survives_lost_commits() {
    let Some(mut cluster) = Cluster::migrated().await else { return };
    cluster.add_wire().await;
    let cluster = serve(cluster).await;
    let askers = Askers::start(&cluster).await;
    for _ in 0..LOST {
        drop(cluster.wire(0).hold("COMMIT", At::Answer).sprung().await);
        askers.made_since_now(1).await;
    }
    askers.made_since_now(CLIENTS).await;
    askers.stop().await.assert_recorded_exactly_once(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_survives_database_outage() {
    survive_outage(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: part of `make test-long`"]
async fn audit_survives_database_outage_of_a_minute() {
    survive_outage(Duration::from_secs(60)).await;
}

async fn survive_outage(outage: Duration) {
    let Some(mut cluster) = start().await else { return };
    let askers = Askers::start(&cluster).await;
    askers.made_since_now(5).await;
    cluster.kill_database().await;
    tokio::time::sleep(outage).await;
    cluster.restart_database().await;
    askers.made_since_now(5).await;
    askers.stop().await.assert_recorded_exactly_once(&cluster).await;
}

async fn start() -> Option<Cluster> {
    Some(serve(Cluster::migrated().await?).await)
}

/// Starts one server, whose limits on rates are not what is looked at here.
async fn serve(mut cluster: Cluster) -> Cluster {
    cluster.run(&["keys", "init"]).await;
    for limit in
        ["PGA__LIMITS__REQUESTS_PER_MINUTE_PER_ADDRESS", "PGA__LIMITS__REQUESTS_PER_MINUTE_PER_PRINCIPAL"]
    {
        cluster.settings().insert(limit, "1000000".into());
    }
    cluster.spawn_all(1).await;
    cluster
}

/// Clients that each make one request after another, of every kind in turn, and never the same again.
struct Askers {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    clients: JoinSet<Answers>,
    next: Arc<AtomicU64>,
}

/// Statuses by the ids of the requests, and whether it was made to change something.
type Answers = BTreeMap<String, (u16, bool)>;

/// The answer to a change that was made.
const MADE: (u16, bool) = (201, true);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Change,
    Read,
    Push,
    Refused,
    Lost,
}

impl Kind {
    /// Every other client asks only what needs no database, and so goes on while there is none.
    fn of(client: u64, number: u64) -> Self {
        match (client % 2, number % 3) {
            (0, 0) => Self::Change,
            (0, 1) => Self::Read,
            (0, _) => Self::Push,
            (_, 0) => Self::Refused,
            _ => Self::Lost,
        }
    }
}

#[derive(Clone)]
struct Asker {
    url: String,
    token: String,
    collector: Collector,
}

impl Askers {
    async fn start(cluster: &Cluster) -> Self {
        let asker = Asker {
            url: format!("{}/api/v1", cluster.urls()[0]),
            token: cluster.administrator().await,
            collector: cluster.register("audited").await,
        };
        let mut askers = Self {
            stop: Arc::default(),
            made: Arc::default(),
            clients: JoinSet::new(),
            next: Arc::default(),
        };
        for client in 0..CLIENTS {
            let (stop, made) = (Arc::clone(&askers.stop), Arc::clone(&askers.made));
            let (next, asker) = (Arc::clone(&askers.next), asker.clone());
            askers.clients.spawn(async move {
                let mut answers = Answers::new();
                while !stop.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let id = format!("asked-{number}");
                    if let Some(answer) = asker.ask(Kind::of(client, number), number, &id).await {
                        made.fetch_add(u64::from(answer == MADE), Ordering::SeqCst);
                        answers.insert(id, answer);
                    }
                    tokio::time::sleep(Duration::from_millis(4)).await;
                }
                answers
            });
        }
        askers
    }

    /// Waits until so many more changes were made.
    async fn made_since_now(&self, more: u64) {
        let goal = self.made.load(Ordering::SeqCst) + more;
        let reached = wait_until(LIMIT, || async { self.made.load(Ordering::SeqCst) >= goal });
        assert!(reached.await, "changes are made again");
    }

    async fn stop(self) -> Asked {
        self.stop.store(true, Ordering::SeqCst);
        let answers = tokio::time::timeout(LIMIT, self.clients.join_all()).await.unwrap();
        Asked { answers: answers.into_iter().flatten().collect(), asked: self.next.load(Ordering::SeqCst) }
    }
}

impl Asker {
    /// `None` when there was no answer.
    async fn ask(&self, kind: Kind, number: u64, id: &str) -> Option<(u16, bool)> {
        let (http, url) = (client(), &self.url);
        let request = match kind {
            Kind::Change => {
                let rule = json!({ "name": id, "rule_type": "threshold", "condition": { "value": 1 } });
                http.post(format!("{url}/alert-rules"))
                    .bearer_auth(&self.token)
                    .json(&json!({ "rule": rule }))
            }
            Kind::Read => http.get(format!("{url}/users")).bearer_auth(&self.token),
            Kind::Refused => http.get(format!("{url}/users")),
            Kind::Lost => http.get(format!("{url}/nowhere")),
            Kind::Push => http
                .post(format!("{url}/metrics/push"))
                .bearer_auth(&self.collector.token)
                .header("content-type", "application/json")
                .body(pushes::body(i64::try_from(number).unwrap())),
        };
        let response = request.header("x-request-id", id).send().await.ok()?;
        // A server that waits for its database or its keys answers everything so, and knows of no requests yet.
        let is_starting = response.status() == 503 && !response.headers().contains_key("x-request-id");
        (!is_starting).then(|| (response.status().as_u16(), kind == Kind::Change))
    }
}

/// What became of all requests.
struct Asked {
    answers: Answers,
    asked: u64,
}

impl Asked {
    #[expect(clippy::print_stdout, reason = "the counts are what the test shows")]
    async fn assert_recorded_exactly_once(&self, cluster: &Cluster) {
        assert!(wait_until(LIMIT, async || is_delivered(cluster).await).await, "{}", cluster.log(0));
        let (accesses, changes) = (accesses(cluster).await, changes(cluster).await);
        let made = self.answers.iter().filter(|(_, answer)| **answer == MADE).map(|(id, _)| id);
        let made: Vec<&String> = made.collect();
        let failed = self.answers.values().filter(|(status, _)| *status >= 500).count();
        println!(
            "asked {}, answered {} ({failed} with 5xx), recorded {}; rules made {}, recorded {}",
            self.asked,
            self.answers.len(),
            accesses.len(),
            made.len(),
            changes.len()
        );
        let lost: Vec<_> = self.answers.iter().filter(|(id, _)| !accesses.contains_key(*id)).collect();
        assert!(lost.is_empty(), "answered but not recorded: {lost:?}");
        let unrecorded: Vec<_> = made.iter().filter(|id| !changes.contains_key(**id)).collect();
        assert!(unrecorded.is_empty(), "changed but not recorded: {unrecorded:?}");
        let doubled: Vec<_> = accesses.iter().chain(&changes).filter(|(_, times)| **times != 1).collect();
        assert!(doubled.is_empty(), "recorded more than once: {doubled:?}");
        assert!(made.len() > 5 && self.answers.len() > 50, "there was little to record");
        let rules = cluster.number("SELECT count(*) FROM alert_rules").await;
        assert_eq!(
            rules,
            i64::try_from(changes.len()).unwrap(),
            "each change has its event, and each event its change"
        );
    }
}

/// Whether every event has left the disk.
async fn is_delivered(cluster: &Cluster) -> bool {
    let health = client().get(format!("{}/api/v1/health", cluster.urls()[0])).send().await;
    let Ok(health) = health else { return false };
    let health: Value = health.json().await.unwrap_or_default();
    health["audit"]["sinks"][0]["backlog_events"] == 0
}

/// How often each request is recorded.
async fn accesses(cluster: &Cluster) -> BTreeMap<String, i64> {
    let recorded = "SELECT request_id, count(*) FROM audit_events \
         WHERE request_id LIKE 'asked-%' AND (action LIKE 'request.%' OR action = 'metrics.push') GROUP BY 1";
    cluster.rows(recorded).await.into_iter().collect()
}

/// How often each change is recorded, by the request that made it.
async fn changes(cluster: &Cluster) -> BTreeMap<String, i64> {
    let recorded =
        "SELECT request_id, count(*) FROM audit_events WHERE action = 'alert_rule.create' GROUP BY 1";
    cluster.rows(recorded).await.into_iter().collect()
}
