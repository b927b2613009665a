use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_testkit::wait_until;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Collector, LIMIT, client};

/// Elements of the list in each entry.
const ROWS: usize = 50;

/// Clients that each push one entry after another, every one until it is acknowledged.
pub(crate) struct Pushers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: JoinSet<Vec<i64>>,
    next: Arc<AtomicI64>,
}

/// What became of all pushes.
#[derive(Debug)]
pub(crate) struct Pushed {
    sent: i64,
    acknowledged: Vec<i64>,
}

impl Pushers {
    pub(crate) fn start(urls: &[String], collector: &Collector, clients: u32) -> Self {
        let mut pushers = Self {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            clients: JoinSet::new(),
            next: Arc::new(AtomicI64::new(1)),
        };
        for _ in 0..clients {
            let (stop, acknowledged) = (Arc::clone(&pushers.stop), Arc::clone(&pushers.acknowledged));
            let (next, urls, collector) = (Arc::clone(&pushers.next), urls.to_vec(), collector.clone());
            pushers.clients.spawn(async move {
                let mut markers = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let marker = next.fetch_add(1, Ordering::SeqCst);
                    push_until_acknowledged(&urls, &collector, &body(marker)).await;
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    markers.push(marker);
                }
                markers
            });
        }
        pushers
    }

    /// Waits until so many more pushes were acknowledged.
    pub(crate) async fn acknowledged_since_now(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + more;
        let reached = wait_until(LIMIT, || async { self.acknowledged.load(Ordering::SeqCst) >= goal });
        assert!(reached.await, "pushes are acknowledged again");
    }

    /// Lets each client finish its push.
    pub(crate) async fn stop(self) -> Pushed {
        self.stop.store(true, Ordering::SeqCst);
        let acknowledged = tokio::time::timeout(LIMIT, self.clients.join_all()).await.unwrap();
        Pushed {
            sent: self.next.load(Ordering::SeqCst) - 1,
            acknowledged: acknowledged.into_iter().flatten().collect(),
        }
    }
}

impl Pushed {
    #[expect(clippy::print_stdout, reason = "the counts are what the test shows")]
    pub(crate) async fn assert_stored_exactly_once(&self, cluster: &Cluster) {
        let stored: BTreeMap<i64, i64> = cluster.stored_markers().await.into_iter().collect();
        let lost: Vec<_> = self.acknowledged.iter().filter(|marker| !stored.contains_key(marker)).collect();
        let doubled: Vec<_> = stored.iter().filter(|(_, times)| **times != 1).collect();
        println!("acknowledged {}, stored {}, sent {}", self.acknowledged.len(), stored.len(), self.sent);
        assert!(!self.acknowledged.is_empty());
        assert!(lost.is_empty(), "acknowledged but not stored: {lost:?}");
        assert!(doubled.is_empty(), "stored more than once: {doubled:?}");
        assert!(i64::try_from(stored.len()).unwrap() <= self.sent);
        let rows = cluster
            .number("SELECT count(*) FROM metric_rows WHERE metric_type = 'probe' AND section = 'rows'")
            .await;
        assert_eq!(rows, i64::try_from(stored.len() * ROWS).unwrap(), "every entry is stored whole");
    }
}

/// A push of one entry that can be recognised.
pub(crate) fn body(marker: i64) -> String {
    let second: DateTime<Utc> = SystemClock.now() - TimeDelta::hours(1) + TimeDelta::seconds(marker);
    let timestamp = second.to_rfc3339_opts(SecondsFormat::Secs, true);
    let rows: Vec<Value> =
        (0..ROWS).map(|row| json!({ "name": format!("row {row}"), "text": "x".repeat(500) })).collect();
    let entry = json!({ "type": "probe", "timestamp": timestamp, "marker": marker, "rows": rows });
    json!({
        "collector_id": "collector-001", "hostname": "db-host-1", "timestamp": timestamp, "version": "3.3.0",
        "thinned": true, "metrics_count": 1, "metrics": [entry],
    })
    .to_string()
}

/// Pushes once; `None` when there was no answer.
pub(crate) async fn push(url: &str, collector: &Collector, body: &str) -> Option<u16> {
    let response = client()
        .post(format!("{url}/api/v1/metrics/push"))
        .bearer_auth(&collector.token)
        .header("content-type", "application/json")
        .body(body.to_owned())
        .send()
        .await;
    response.ok().map(|response| response.status().as_u16())
}

async fn push_until_acknowledged(urls: &[String], collector: &Collector, body: &str) {
    for attempt in 0.. {
        match push(&urls[attempt % urls.len()], collector, body).await {
            Some(200) => return,
            // The server or the database is away.
            None | Some(502..=504) => tokio::time::sleep(Duration::from_millis(20)).await,
            Some(status) => panic!("a push was answered {status}"),
        }
    }
}
