//! Near caches that are told by NOTIFY, where there is no Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::cache::{Cache, InvalidatedCache, MemoryCache, NearConfig, SetOptions};
use pganalytics_core::clock::SystemClock;
use pganalytics_store::postgres::{Database, PostgresNotifier, PostgresNotifierConfig};
use pganalytics_testkit::wait_until;

use crate::common::{connect, migrated};
use crate::proxy::Proxy;

const PATIENCE: Duration = Duration::from_secs(20);

type Near = InvalidatedCache<MemoryCache>;

/// One server of several.
fn server(database: &Database, heartbeat: Duration) -> Near {
    let config = PostgresNotifierConfig::default().with_heartbeat(heartbeat);
    let notifier = Arc::new(PostgresNotifier::new(database.clone(), config));
    let clock = Arc::new(SystemClock);
    InvalidatedCache::new(MemoryCache::new(clock.clone()), notifier, clock, NearConfig::default())
}

async fn fill(cache: &Near) {
    let filled = async || {
        let options = SetOptions::expiring_in(Duration::from_secs(3600));
        cache.set("key", Bytes::from("value"), &options).await.unwrap();
        cache.get("key").await.unwrap().is_some()
    };
    assert!(wait_until(PATIENCE, filled).await, "no heartbeat comes back");
}

#[tokio::test]
async fn deletion_is_told_to_the_other_server() {
    let Some((_test, database)) = migrated().await else { return };
    let heartbeat = PostgresNotifierConfig::default().heartbeat;
    let (one, two) = (server(&database, heartbeat), server(&database, heartbeat));
    fill(&one).await;
    fill(&two).await;
    one.delete("key").await.unwrap();
    assert_eq!(one.get("key").await.unwrap(), None);
    let gone = wait_until(PATIENCE, async || two.is_live() && two.get("key").await.unwrap().is_none());
    assert!(gone.await, "it does not hear of the deletion");
}

#[tokio::test]
async fn silent_line_turns_the_cache_off() {
    let Some((test, _database)) = migrated().await else { return };
    let proxy = Proxy::to(test.url()).await;
    // The notifier itself is not to notice.
    let cache = server(&connect(proxy.url()).await, Duration::from_secs(3600));
    fill(&cache).await;
    proxy.fall_silent(true);
    let off = wait_until(PATIENCE, async || cache.get("key").await.unwrap().is_none());
    assert!(off.await, "it serves what may be stale");
    proxy.fall_silent(false);
    fill(&cache).await;
}
