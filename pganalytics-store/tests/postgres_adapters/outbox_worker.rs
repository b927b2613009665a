use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::InstanceId;
use pganalytics_core::random::OsRandom;
use pganalytics_store::postgres::{
    Database, Deliver, Outbox, OutboxMessage, OutboxPolicy, OutboxWorker, OutboxWorkerConfig,
};
use pganalytics_testkit::wait_until;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::common::migrated;
use crate::outbox::enqueue;

const PATIENCE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(10);

/// Counts what it delivers. What it should not, it refuses, hangs on or panics about.
#[derive(Debug, Default)]
struct Recorder {
    delivered: Mutex<BTreeMap<u128, u32>>,
    refused: Option<u128>,
    hopeless: Option<u128>,
    panics: Option<u128>,
    hangs: bool,
}

impl Recorder {
    fn counts(&self) -> BTreeMap<u128, u32> {
        self.delivered.lock().unwrap().clone()
    }
}

#[async_trait]
impl Deliver for Recorder {
    fn topic(&self) -> &str {
        "mail"
    }

    async fn deliver(&self, message: &OutboxMessage) -> Result<(), BackendError> {
        let id = message.id.as_u128();
        *self.delivered.lock().unwrap().entry(id).or_default() += 1;
        if self.hangs {
            std::future::pending::<()>().await;
        }
        assert_ne!(self.panics, Some(id), "poison");
        match id {
            _ if self.refused == Some(id) => Err(BackendError::later("mail", "mailbox full")),
            _ if self.hopeless == Some(id) => Err(BackendError::never("mail", "no such mailbox")),
            _ => Ok(()),
        }
    }
}

fn worker(outbox: &Outbox, number: u128, deliver: &Arc<Recorder>) -> OutboxWorker {
    let config = OutboxWorkerConfig::default().with_batch(7).with_poll(MOMENT).with_backoff(MOMENT, MOMENT);
    let id = InstanceId(Uuid::from_u128(number));
    OutboxWorker::new(outbox.clone(), deliver.clone(), id, config, Arc::new(OsRandom))
}

fn start(worker: OutboxWorker) -> JoinHandle<()> {
    tokio::spawn(async move { worker.run(std::future::pending()).await })
}

async fn is_empty(outbox: &Outbox) -> bool {
    outbox.counts().await.unwrap().pending == 0
}

fn outbox(database: &Database, lease: Duration) -> Outbox {
    Outbox::new(database.clone(), OutboxPolicy::default().with_lease(lease).with_max_attempts(3))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_share_the_messages() {
    let Some((_test, database)) = migrated().await else { return };
    let outbox = outbox(&database, Duration::from_secs(60));
    enqueue(&database, 1..=100).await;
    let recorder = Arc::new(Recorder::default());
    let workers = [1, 2].map(|number| start(worker(&outbox, number, &recorder)));
    assert!(wait_until(PATIENCE, async || is_empty(&outbox).await).await);
    assert_eq!(recorder.counts(), (1..=100).map(|id| (id, 1)).collect());
    for worker in workers {
        worker.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_killed_worker_are_delivered_by_another() {
    let Some((_test, database)) = migrated().await else { return };
    let outbox = outbox(&database, Duration::from_secs(1));
    enqueue(&database, 1..=20).await;
    let hanging = Arc::new(Recorder { hangs: true, ..Recorder::default() });
    let killed = start(worker(&outbox, 1, &hanging));
    assert!(wait_until(PATIENCE, async || hanging.counts().len() == 7).await);
    killed.abort();
    let recorder = Arc::new(Recorder::default());
    let other = start(worker(&outbox, 2, &recorder));
    assert!(wait_until(PATIENCE, async || is_empty(&outbox).await).await);
    assert_eq!(recorder.counts(), (1..=20).map(|id| (id, 1)).collect());
    other.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poisonous_messages_end_as_dead_letters_and_keep_no_other_waiting() {
    let Some((_test, database)) = migrated().await else { return };
    let outbox = outbox(&database, Duration::from_secs(60));
    enqueue(&database, 1..=30).await;
    let poison = Recorder { refused: Some(1), hopeless: Some(2), panics: Some(3), ..Recorder::default() };
    let recorder = Arc::new(poison);
    let worker = start(worker(&outbox, 1, &recorder));
    assert!(wait_until(PATIENCE, async || is_empty(&outbox).await).await);
    let mut expected: BTreeMap<u128, u32> = (1..=30).map(|id| (id, 1)).collect();
    expected.extend([(1, 3), (3, 3)]);
    assert_eq!(recorder.counts(), expected);
    let counts = outbox.counts().await.unwrap();
    assert_eq!((counts.dead, counts.oldest_seconds), (3, 0));
    let dead = outbox.dead_letters(None, 10).await.unwrap();
    let errors: Vec<&str> = dead.iter().map(|letter| letter.last_error.as_deref().unwrap()).collect();
    assert_eq!(
        errors[..2],
        ["mail could not answer: mailbox full", "mail could not answer: no such mailbox"]
    );
    assert!(errors[2].contains("panicked"), "{errors:?}");
    worker.abort();
}

#[tokio::test]
async fn delivery_that_hangs_is_cut_off() {
    let Some((_test, database)) = migrated().await else { return };
    let outbox = outbox(&database, Duration::from_millis(200));
    enqueue(&database, [1]).await;
    let hanging = Arc::new(Recorder { hangs: true, ..Recorder::default() });
    let worker = worker(&outbox, 1, &hanging);
    assert_eq!(worker.work_once().await.unwrap(), 1);
    let error: String =
        sqlx::query_scalar("SELECT last_error FROM outbox").fetch_one(database.pool()).await.unwrap();
    assert!(error.contains("not delivered within"), "{error}");
}

#[tokio::test]
async fn worker_that_is_told_to_stop_stops() {
    let Some((_test, database)) = migrated().await else { return };
    let recorder = Arc::new(Recorder::default());
    let worker = worker(&outbox(&database, PATIENCE), 1, &recorder);
    tokio::time::timeout(PATIENCE, worker.run(async {})).await.unwrap();
}
