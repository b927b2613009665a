//! A near cache over a real Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pganalytics_core::cache::{Cache, NearConfig, SetOptions, TieredCache};
use pganalytics_core::clock::SystemClock;
use pganalytics_core::notifier::Notifier;
use pganalytics_core::testing::Subject;
use pganalytics_store::redis::{RedisConfig, RedisNotifier, RedisNotifierConfig};
use pganalytics_testkit::{Redis, redis, redis_sentinel, wait_until};

use crate::line::Line;
use crate::servers::{cache, client, notifier, on_port, sentinel, single};

const PATIENCE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(1);

/// One server of several: it has connections of its own.
fn server(config: &RedisConfig) -> TieredCache<Arc<dyn Cache>> {
    tier(config, notifier(config.clone()))
}

fn tier(config: &RedisConfig, notifier: Arc<dyn Notifier>) -> TieredCache<Arc<dyn Cache>> {
    let near = NearConfig::default().with_lease(LEASE).with_near_ttl(Duration::from_secs(3600));
    TieredCache::new(cache(config.clone()), notifier, Arc::new(SystemClock), near)
}

async fn live(config: &RedisConfig) -> Arc<TieredCache<Arc<dyn Cache>>> {
    let cache = Arc::new(server(config));
    assert!(wait_until(PATIENCE, async || cache.is_live()).await, "no heartbeat comes back");
    cache
}

fn hour() -> SetOptions {
    SetOptions::expiring_in(Duration::from_secs(3600))
}

async fn sees(cache: &dyn Cache, value: &'static str) -> bool {
    let seen = async || cache.get("key").await.is_ok_and(|found| found == Some(Bytes::from(value)));
    wait_until(PATIENCE, seen).await
}

async fn over_redis() -> Option<Subject<dyn Cache>> {
    let redis = redis(None).await?;
    let port: Arc<dyn Cache> = live(&single(&redis)).await;
    Some(Subject::real_time(port).keeping(redis))
}

pganalytics_core::cache_contract!(over_redis());

async fn pubsub_clients(redis: &Redis) -> Vec<String> {
    let list = redis.ask("CLIENT LIST TYPE pubsub").await;
    let id = |line: &str| Some(line.split_once("id=")?.1.split_once(' ')?.0.to_owned());
    list.lines().filter_map(id).collect()
}

#[tokio::test]
async fn change_is_seen_by_the_other_server_at_once() {
    let Some(redis) = redis(None).await else { return };
    let config = single(&redis);
    let (one, two) = (live(&config).await, live(&config).await);
    for value in ["one", "two", "three"] {
        one.set("key", Bytes::from(value), &hour()).await.unwrap();
        let begun = Instant::now();
        assert!(sees(&*two, value).await);
        assert!(begun.elapsed() < LEASE, "it took {:?}", begun.elapsed());
    }
}

/// What is sent to the subscriber gets stuck on the way, the connection stays open, and everything else works.
#[tokio::test]
async fn near_cache_never_serves_stale_after_bound() {
    let Some(redis) = redis(None).await else { return };
    let line = Line::to(redis.port()).await;
    let config = single(&redis);
    // The notifier itself is not to notice either.
    let unwary = RedisNotifierConfig::default().with_heartbeat(Duration::from_secs(3600));
    let notifier = RedisNotifier::new(client(on_port(line.port())), unwary);
    let reader = Arc::new(tier(&config, Arc::new(notifier)));
    let writer = live(&config).await;
    assert!(wait_until(PATIENCE, async || reader.is_live()).await);
    let mut served = 0;
    for round in 0..3 {
        let old = Bytes::from(format!("old {round}"));
        writer.set("key", old.clone(), &hour()).await.unwrap();
        assert!(wait_until(PATIENCE, async || reader.get("key").await.unwrap() == Some(old.clone())).await);
        line.fall_silent(true);
        let new = Bytes::from(format!("new {round}"));
        writer.set("key", new.clone(), &hour()).await.unwrap();
        let written = Instant::now();
        while written.elapsed() < LEASE * 2 {
            let asked = Instant::now();
            let found = reader.get("key").await.unwrap().unwrap();
            if asked.duration_since(written) > LEASE {
                assert_eq!(found, new, "{:?} after the write", asked.duration_since(written));
            }
            served += usize::from(found == old);
            tokio::task::yield_now().await;
        }
        line.fall_silent(false);
        assert!(wait_until(PATIENCE, async || reader.is_live()).await);
        assert_eq!(reader.get("key").await.unwrap(), Some(new));
    }
    assert!(served > 0, "the old value was never served, so that nothing was tried");
}

/// Writes go on at another server while this one's link is mended and broken again.
#[tokio::test]
async fn readers_are_never_behind_by_more_than_the_bound() {
    let Some(redis) = redis(None).await else { return };
    let config = single(&redis);
    let (writer, reader) = (live(&config).await, live(&config).await);
    // When each number was surely written.
    let mut written: Vec<Instant> = Vec::new();
    let mut worst = Duration::ZERO;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let number = written.len();
        if writer.set("key", Bytes::from(number.to_string()), &hour()).await.is_ok() {
            written.push(Instant::now());
        }
        if number % 50 == 25 {
            for client in pubsub_clients(&redis).await {
                redis.ask(&format!("CLIENT KILL ID {client}")).await;
            }
        }
        let asked = Instant::now();
        let Ok(Some(seen)) = reader.get("key").await else { continue };
        let seen: usize = std::str::from_utf8(&seen).unwrap().parse().unwrap();
        if let Some(next) = written.get(seen + 1) {
            worst = worst.max(asked.saturating_duration_since(*next));
        }
    }
    assert!(written.len() > 100, "{} writes", written.len());
    assert!(worst <= LEASE, "a reader was {worst:?} behind");
}

#[tokio::test]
async fn near_cache_is_not_stale_after_a_failover() {
    let Some(servers) = redis_sentinel(1).await else { return };
    let config = sentinel(&servers).with_deadline(Duration::from_millis(300));
    let (one, two) = (live(&config).await, live(&config).await);
    one.set("key", Bytes::from("old"), &hour()).await.unwrap();
    assert!(sees(&*two, "old").await);
    servers.master.process().pause();
    assert!(servers.failed_over(PATIENCE).await, "there was no failover");
    servers.master.process().resume();
    let stored = async || one.set("key", Bytes::from("new"), &hour()).await.is_ok();
    assert!(wait_until(PATIENCE, stored).await);
    assert!(sees(&*two, "new").await);
    // Of what was stored before the failover nothing comes back.
    for _ in 0..50 {
        let found = two.get("key").await;
        assert!(
            found.is_err() || found.as_ref().is_ok_and(|found| *found == Some(Bytes::from("new"))),
            "{found:?}"
        );
    }
}
