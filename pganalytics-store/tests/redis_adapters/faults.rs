//! Redis killed, restarted empty, paused, slow, full and strict. Latency is bounded by the deadline.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pganalytics_core::cache::{Cache, CacheError, SetOptions, SetOutcome};
use pganalytics_core::error::Retry;
use pganalytics_core::secret::SecretString;
use pganalytics_store::redis::{RedisConfig, RedisTls};
use pganalytics_testkit::{Redis, RedisOptions, redis, redis_cluster, redis_with, wait_until};

use crate::servers::{cache, cluster, guarded, single};

const DEADLINE: Duration = Duration::from_millis(300);

/// What a machine that is busy with other tests may add.
const GRACE: Duration = Duration::from_millis(300);

/// A call that the breaker does not let through.
const AT_ONCE: Duration = Duration::from_millis(150);

const PATIENCE: Duration = Duration::from_secs(20);

fn strict(server: &Redis) -> RedisConfig {
    single(server).with_deadline(DEADLINE)
}

fn hour() -> SetOptions {
    SetOptions::expiring_in(Duration::from_secs(3600))
}

async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    (call.await, begun.elapsed())
}

fn assert_away<T: std::fmt::Debug>(result: Result<T, CacheError>) {
    assert!(matches!(&result, Err(CacheError::Backend(error)) if error.retry == Retry::Later), "{result:?}");
}

/// Every call ends in time, and once Redis was found dead the calls cost nothing.
async fn assert_bounded(cache: &dyn Cache) {
    let mut spent = Duration::ZERO;
    for _ in 0..20 {
        let (result, time) = timed(cache.get("key")).await;
        assert_away(result);
        assert!(time < DEADLINE + GRACE, "a call took {time:?}");
        spent += time;
    }
    assert!(spent < DEADLINE + GRACE, "20 calls took {spent:?}");
    let (result, time) = timed(cache.set("key", Bytes::new(), &hour())).await;
    assert_away(result);
    assert!(time < AT_ONCE, "a call that is not let through took {time:?}");
}

async fn works_again(cache: &dyn Cache) -> bool {
    wait_until(PATIENCE, async || cache.get("key").await.is_ok()).await
}

#[tokio::test]
async fn killed_redis_costs_one_deadline() {
    let Some(server) = redis(None).await else { return };
    let cache = cache(strict(&server));
    cache.set("key", Bytes::from("value"), &hour()).await.unwrap();
    server.process().kill_9().await;
    assert_bounded(&*cache).await;
}

#[tokio::test]
async fn restarted_redis_is_found_again_and_empty() {
    let Some(mut server) = redis(None).await else { return };
    let cache = cache(strict(&server));
    cache.set("key", Bytes::from("value"), &hour()).await.unwrap();
    let generation = cache.generation("group").await.unwrap();
    server.restart().await;
    assert!(works_again(&*cache).await);
    assert_eq!(cache.get("key").await.unwrap(), None);
    assert_ne!(cache.generation("group").await.unwrap(), generation, "old entries stay out of reach");
    assert_eq!(cache.set("key", Bytes::from("new"), &hour().if_absent()).await.unwrap(), SetOutcome::Stored);
}

#[tokio::test]
async fn paused_redis_costs_one_deadline_and_is_found_again() {
    let Some(server) = redis(None).await else { return };
    let cache = cache(strict(&server));
    cache.set("key", Bytes::from("old"), &hour()).await.unwrap();
    server.process().pause();
    assert_bounded(&*cache).await;
    server.process().resume();
    assert!(works_again(&*cache).await);
    assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("old")));
}

#[tokio::test]
async fn call_that_was_given_up_does_not_overtake_a_later_one() {
    let Some(server) = redis(None).await else { return };
    let cache = cache(strict(&server));
    cache.set("key", Bytes::from("zero"), &hour()).await.unwrap();
    for round in 0..5 {
        server.process().pause();
        assert_away(cache.set("key", Bytes::from("given up"), &hour()).await);
        server.process().resume();
        let later = Bytes::from(round.to_string());
        let set = wait_until(PATIENCE, async || cache.set("key", later.clone(), &hour()).await.is_ok());
        assert!(set.await);
        for _ in 0..20 {
            assert_eq!(cache.get("key").await.unwrap(), Some(later.clone()));
        }
    }
}

#[tokio::test]
async fn slow_redis_is_no_reason_to_leave_it_alone() {
    let Some(server) = redis(None).await else { return };
    let cache = cache(strict(&server));
    cache.set("key", Bytes::from("value"), &hour()).await.unwrap();
    for _ in 0..5 {
        // Everybody waits for it, for less than the deadline.
        let slow = server.ask("EVAL \"local t = redis.call('TIME') local e = t[1] * 1000000 + t[2] + 60000 repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > e\" 0");
        let (answer, _) = tokio::join!(timed(cache.get("key")), slow);
        assert_eq!(answer.0.unwrap(), Some(Bytes::from("value")));
        assert!(answer.1 < DEADLINE + GRACE);
    }
}

#[tokio::test]
async fn full_redis_refuses_to_store_and_still_answers() {
    let options = RedisOptions::new().with_setting("maxmemory-policy", "noeviction");
    let Some(server) = redis_with(options).await else { return };
    let cache = cache(strict(&server));
    cache.set("key", Bytes::from("value"), &hour()).await.unwrap();
    server.ask("CONFIG SET maxmemory 1").await;
    for _ in 0..20 {
        let refused = cache.set("other", Bytes::from("value"), &hour()).await;
        assert_away(refused);
    }
    assert_eq!(cache.get("key").await.unwrap(), Some(Bytes::from("value")));
    let swap = hour().if_equals("value");
    assert_away(cache.set("key", Bytes::from("other"), &swap).await);
    assert!(cache.delete("key").await.unwrap());
    server.ask("CONFIG SET maxmemory 0").await;
    cache.set("other", Bytes::from("value"), &hour()).await.unwrap();
}

#[tokio::test]
async fn value_over_the_configured_limit_is_refused() {
    let Some(server) = redis(None).await else { return };
    let cache = cache(single(&server).with_max_value_bytes(10));
    let refused = cache.set("key", Bytes::from("eleven bytes"), &hour()).await;
    let expected = "value of cache key `key` has 12 bytes, limit is 10";
    assert_eq!(refused.unwrap_err().to_string(), expected);
    cache.set("key", Bytes::from("ten bytes."), &hour()).await.unwrap();
}

#[tokio::test]
async fn wrong_password_is_an_error_for_good() {
    let Some((_server, config)) = guarded().await else { return };
    let cache = cache(config.with_login(Some("app".to_owned()), SecretString::new("wrong")));
    let refused = cache.get("key").await;
    assert!(
        matches!(&refused, Err(CacheError::Backend(error)) if error.retry == Retry::Never),
        "{refused:?}"
    );
    assert!(!format!("{refused:?}").contains("wrong\""));
}

#[tokio::test]
async fn unknown_authority_is_not_trusted() {
    let (Some((_server, config)), Some((other, _))) = (guarded().await, guarded().await) else { return };
    let tls = RedisTls::new().with_authorities(other.authority().unwrap());
    let refused = cache(config.with_tls(tls)).get("key").await;
    assert!(matches!(refused, Err(CacheError::Backend(_))), "{refused:?}");
}

#[tokio::test]
async fn dead_node_of_a_cluster_does_not_hold_up_the_others() {
    let Some(nodes) = redis_cluster().await else { return };
    nodes.nodes[0].ask("CONFIG SET cluster-require-full-coverage no").await;
    for node in &nodes.nodes {
        node.ask("CONFIG SET cluster-require-full-coverage no").await;
    }
    let cache = cache(cluster(&nodes).with_deadline(DEADLINE));
    for key in 0..30 {
        cache.set(&key.to_string(), Bytes::from("value"), &hour()).await.unwrap();
    }
    nodes.nodes[2].process().kill_9().await;
    let mut answered = 0;
    for key in 0..30 {
        let (result, time) = timed(cache.get(&key.to_string())).await;
        assert!(time < DEADLINE + GRACE, "a call took {time:?}");
        answered += usize::from(result.is_ok());
    }
    assert!(answered > 0, "no node answered");
}
