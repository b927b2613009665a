use std::collections::BTreeSet;
use std::time::Duration;

use chrono::DateTime;
use pganalytics_core::ids::InstanceId;
use pganalytics_store::postgres::{
    Begun, Database, Outbox, OutboxMessage, OutboxPolicy, UnitOfWork, UnitOfWorkLimits,
};
use pganalytics_testkit::wait_until;
use serde_json::json;
use uuid::Uuid;

use crate::common::migrated;

const ANNA: InstanceId = InstanceId(Uuid::from_u128(1));
const BELA: InstanceId = InstanceId(Uuid::from_u128(2));

const SHORT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn enqueue(database: &Database, numbers: impl IntoIterator<Item = u128>) {
    let begun = UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await.unwrap();
    let Begun::Fresh(mut unit) = begun else { panic!("a unit of work without key is fresh: {begun:?}") };
    for number in numbers {
        let at = DateTime::from_timestamp(i64::try_from(number).unwrap(), 0).unwrap();
        unit.enqueue(OutboxMessage::new(
            Uuid::from_u128(number),
            "mail",
            json!({ "number": number as u64 }),
            at,
        ));
    }
    unit.commit().await.unwrap();
}

async fn claimed(outbox: &Outbox, worker: InstanceId) -> Vec<u128> {
    let batch = outbox.claim_batch("mail", worker, 100).await.unwrap();
    batch.iter().map(|delivery| delivery.message.id.as_u128()).collect()
}

#[tokio::test]
async fn message_is_claimed_in_order_and_completed_once() {
    let Some((_test, database)) = migrated().await else { return };
    let outbox = Outbox::new(database.clone(), OutboxPolicy::default());
    enqueue(&database, 1..=3).await;
    assert!(outbox.claim_batch("webhook", ANNA, 10).await.unwrap().is_empty());
    let batch = outbox.claim_batch("mail", ANNA, 2).await.unwrap();
    let first = &batch[0];
    assert_eq!((first.message.id, first.attempt), (Uuid::from_u128(1), 1));
    assert_eq!(first.message.payload, json!({"number": 1}));
    assert_eq!(batch[1].message.id, Uuid::from_u128(2));
    assert!(outbox.complete(first).await.unwrap());
    assert!(!outbox.complete(first).await.unwrap());
    assert_eq!(claimed(&outbox, BELA).await, [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_never_share_a_message() {
    let Some((_test, database)) = migrated().await else { return };
    let outbox = Outbox::new(database.clone(), OutboxPolicy::default());
    enqueue(&database, 1..=200).await;
    let workers = (1..=4).map(|number| {
        let outbox = outbox.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            loop {
                let worker = InstanceId(Uuid::from_u128(number));
                let batch = outbox.claim_batch("mail", worker, 7).await.unwrap();
                if batch.is_empty() {
                    return taken;
                }
                for delivery in batch {
                    assert!(outbox.complete(&delivery).await.unwrap());
                    taken.push(delivery.message.id.as_u128());
                }
            }
        })
    });
    let mut all = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        all.extend(worker.await.unwrap());
    }
    assert_eq!(all.len(), 200, "none is delivered twice");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), (1..=200).collect());
}

#[tokio::test]
async fn message_of_a_dead_worker_comes_back() {
    let Some((_test, database)) = migrated().await else { return };
    let outbox = Outbox::new(database.clone(), OutboxPolicy::default().with_lease(SHORT));
    enqueue(&database, [1]).await;
    let lost = outbox.claim_batch("mail", ANNA, 1).await.unwrap().remove(0);
    let mut again = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while again.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the message is lost");
        again = outbox.claim_batch("mail", BELA, 1).await.unwrap();
    }
    assert_eq!((again[0].message.id, again[0].attempt), (lost.message.id, 2));
    assert!(!outbox.complete(&lost).await.unwrap(), "the first worker has lost it");
    assert!(!outbox.retry_later(&lost, SHORT, "late").await.unwrap());
    assert!(outbox.complete(&again[0]).await.unwrap());
}

#[tokio::test]
async fn failed_message_is_due_again_after_its_backoff() {
    let Some((_test, database)) = migrated().await else { return };
    let outbox = Outbox::new(database.clone(), OutboxPolicy::default());
    enqueue(&database, [1]).await;
    let first = outbox.claim_batch("mail", ANNA, 1).await.unwrap().remove(0);
    assert!(outbox.retry_later(&first, Duration::from_secs(3600), "no\0route").await.unwrap());
    assert!(claimed(&outbox, ANNA).await.is_empty());
    sqlx::query("UPDATE outbox SET next_attempt_at = now()").execute(database.pool()).await.unwrap();
    let second = outbox.claim_batch("mail", ANNA, 1).await.unwrap().remove(0);
    assert_eq!(second.attempt, 2);
    assert!(outbox.retry_later(&second, SHORT, "again").await.unwrap());
    assert!(wait_until(PATIENCE, async || !claimed(&outbox, ANNA).await.is_empty()).await);
}

#[tokio::test]
async fn message_is_given_up_after_its_last_attempt_and_can_be_revived() {
    let Some((_test, database)) = migrated().await else { return };
    let policy = OutboxPolicy::default().with_lease(Duration::ZERO).with_max_attempts(2);
    let outbox = Outbox::new(database.clone(), policy);
    enqueue(&database, [1, 2]).await;
    // The first fails twice. The second takes its workers with it.
    for _ in 0..2 {
        let batch = outbox.claim_batch("mail", ANNA, 10).await.unwrap();
        assert_eq!(batch.len(), 2);
        assert!(outbox.retry_later(&batch[0], Duration::ZERO, "refused").await.unwrap());
    }
    assert!(claimed(&outbox, BELA).await.is_empty());
    let dead = outbox.dead_letters(None, 10).await.unwrap();
    let errors: Vec<_> = dead.iter().map(|letter| (letter.attempts, letter.last_error.as_deref())).collect();
    assert_eq!(errors, [(2, Some("refused")), (2, Some("the worker was lost"))]);
    let after = Some(dead[0].message.id);
    assert_eq!(outbox.dead_letters(after, 10).await.unwrap(), dead[1..]);

    assert!(outbox.revive(dead[0].message.id).await.unwrap());
    assert!(!outbox.revive(dead[0].message.id).await.unwrap());
    let revived = outbox.claim_batch("mail", ANNA, 10).await.unwrap();
    assert_eq!((revived.len(), revived[0].attempt), (1, 1));
}
