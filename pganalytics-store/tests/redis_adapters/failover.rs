//! What a client does when Sentinel replaces the master.

use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::cache::{Cache, SetOptions};
use pganalytics_core::session::SessionStore;
use pganalytics_core::testing::ManualClock;
use pganalytics_testkit::{RedisSentinel, redis_sentinel, wait_until};

use crate::servers::{cache, sentinel};
use crate::sessions::{is_in, lasting, store_at};

const PATIENCE: Duration = Duration::from_secs(30);

fn hour() -> SetOptions {
    SetOptions::expiring_in(Duration::from_secs(3600))
}

async fn assert_follows(servers: &RedisSentinel, cache: &dyn Cache) {
    assert!(servers.failed_over(PATIENCE).await, "there was no failover");
    let stores =
        wait_until(PATIENCE, async || cache.set("after", Bytes::from("value"), &hour()).await.is_ok());
    assert!(stores.await, "the new master is not found");
    assert!(servers.replica.ask("KEYS *").await.contains("after"), "it was stored elsewhere");
    assert_eq!(cache.get("before").await.unwrap(), None, "what may have been changed meanwhile came back");
}

#[tokio::test]
async fn killed_master_is_replaced() {
    let Some(servers) = redis_sentinel(3).await else { return };
    let cache = cache(sentinel(&servers).with_deadline(Duration::from_millis(300)));
    cache.set("before", Bytes::from("value"), &hour()).await.unwrap();
    servers.master.process().kill_9().await;
    assert_follows(&servers, &*cache).await;
}

#[tokio::test]
async fn hung_master_is_left_and_not_returned_to() {
    let Some(servers) = redis_sentinel(3).await else { return };
    // A sentinel that hangs as well is no reason to wait.
    servers.sentinel(0).pause();
    let cache = cache(sentinel(&servers).with_deadline(Duration::from_millis(300)));
    cache.set("before", Bytes::from("value"), &hour()).await.unwrap();
    servers.master.process().pause();
    cache.get("before").await.unwrap_err();
    assert!(servers.failed_over(PATIENCE).await, "there was no failover");
    servers.master.process().resume();
    assert_follows(&servers, &*cache).await;
}

#[tokio::test]
async fn idle_client_notices_a_new_master_by_itself() {
    let Some(servers) = redis_sentinel(1).await else { return };
    let cache = cache(sentinel(&servers));
    cache.set("before", Bytes::from("value"), &hour()).await.unwrap();
    servers.master.process().pause();
    assert!(servers.failed_over(PATIENCE).await, "there was no failover");
    // The calls are cut short from outside, which tells the client nothing.
    let first = async || {
        let answer = tokio::time::timeout(Duration::from_millis(200), cache.get("before")).await;
        matches!(answer, Ok(Ok(None)))
    };
    assert!(wait_until(PATIENCE, first).await, "it waits for the old master");
}

/// Replication is asynchronous: the replica that takes over may not know of a session's end.
#[tokio::test]
async fn ended_session_stays_ended_when_a_lagging_replica_takes_over() {
    let Some(servers) = redis_sentinel(1).await else { return };
    let sessions =
        store_at(sentinel(&servers).with_deadline(Duration::from_millis(300)), &ManualClock::new());
    let (token, _) = sessions.create(lasting()).await.unwrap();
    let is_known = async || servers.replica.ask("KEYS *").await.contains(&token.id().to_string());
    assert!(wait_until(PATIENCE, is_known).await, "the replica does not follow");
    servers.replica.process().pause();
    assert_eq!(servers.master.ask("CLIENT KILL TYPE replica").await.trim(), ":1");
    assert!(sessions.delete(token.id()).await.unwrap());
    servers.master.process().kill_9().await;
    servers.replica.process().resume();
    assert!(servers.failed_over(PATIENCE).await, "there was no failover");
    assert!(is_known().await, "the end of the session was not lost");

    let again = wait_until(PATIENCE, async || sessions.create(lasting()).await.is_ok());
    assert!(again.await, "the new master is not found");
    assert!(!is_in(&sessions, &token).await, "what was ended came back");
}
