use std::time::Duration;

use bytes::Bytes;
use pganalytics_core::notifier::{Notification, Notifier, NotifierError, PAYLOAD_MAX_BYTES, Subscription};
use pganalytics_store::postgres::{Database, PostgresConfig, PostgresNotifier, PostgresNotifierConfig};
use pganalytics_testkit::{Profile, private_postgres, wait_until};
use tokio::time::{Instant, timeout};

use crate::common::{connect, migrated};
use crate::proxy::Proxy;

const PATIENCE: Duration = Duration::from_secs(20);

fn notifier(database: &Database) -> PostgresNotifier {
    PostgresNotifier::new(database.clone(), PostgresNotifierConfig::default())
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Notification {
    timeout(PATIENCE, subscription.next()).await.expect("something comes")
}

fn message(text: &'static str) -> Notification {
    Notification::Message(Bytes::from(text))
}

/// Skips announcements of gaps, of which there may be several.
async fn next_message(subscription: &mut Box<dyn Subscription>) -> Notification {
    loop {
        match next(subscription).await {
            Notification::Gap => {}
            message @ Notification::Message(_) => return message,
        }
    }
}

/// The publisher's own connections may be dead for a while, too.
async fn assert_heard_again(publisher: &PostgresNotifier, subscription: &mut Box<dyn Subscription>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "messages do not come again");
        let _ = publisher.publish("channel", b"after").await;
        if timeout(Duration::from_millis(100), next_message(subscription)).await == Ok(message("after")) {
            return;
        }
    }
}

async fn listening_backends(database: &Database) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')",
    )
    .fetch_one(database.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn all_subscriptions_share_one_connection_and_close_it() {
    let Some((_test, database)) = migrated().await else { return };
    let notifier = notifier(&database);
    let mut subscriptions = Vec::new();
    for channel in ["one", "two", "one", "three"] {
        subscriptions.push(notifier.subscribe(channel).await.unwrap());
    }
    assert_eq!(listening_backends(&database).await, 1);
    for channel in ["one", "two", "three"] {
        notifier.publish(channel, channel.as_bytes()).await.unwrap();
    }
    for (subscription, text) in subscriptions.iter_mut().zip(["one", "two", "one", "three"]) {
        assert_eq!(next(subscription).await, message(text));
    }
    drop(subscriptions);
    assert!(wait_until(PATIENCE, async || listening_backends(&database).await == 0).await);
    let mut again = notifier.subscribe("one").await.unwrap();
    notifier.publish("one", b"again").await.unwrap();
    assert_eq!(next(&mut again).await, message("again"));
}

#[tokio::test]
async fn nothing_from_before_reaches_a_second_subscriber() {
    let Some((_test, database)) = migrated().await else { return };
    let notifier = notifier(&database);
    let mut first = notifier.subscribe("channel").await.unwrap();
    for round in 0..50_u8 {
        notifier.publish("channel", &[round]).await.unwrap();
        let mut second = notifier.subscribe("channel").await.unwrap();
        notifier.publish("channel", b"after").await.unwrap();
        assert_eq!(next(&mut second).await, message("after"));
        assert_eq!(next(&mut first).await, Notification::Message(Bytes::copy_from_slice(&[round])));
        assert_eq!(next(&mut first).await, message("after"));
    }
}

#[tokio::test]
async fn message_leaves_with_its_transaction_or_not_at_all() {
    let Some((_test, database)) = migrated().await else { return };
    let mut subscription = notifier(&database).subscribe("channel").await.unwrap();
    for (text, commit) in [("undone", false), ("done", true)] {
        let mut transaction = database.begin().await.unwrap();
        PostgresNotifier::publish_in(&mut transaction, "channel", text.as_bytes()).await.unwrap();
        match commit {
            true => transaction.commit().await.unwrap(),
            false => transaction.rollback().await.unwrap(),
        }
    }
    assert_eq!(next(&mut subscription).await, message("done"));
}

#[tokio::test]
async fn largest_payload_fits_and_wrong_names_are_refused() {
    let Some((_test, database)) = migrated().await else { return };
    let notifier = notifier(&database);
    let channel = "c".repeat(40);
    let mut subscription = notifier.subscribe(&channel).await.unwrap();
    let payload = vec![0xff; PAYLOAD_MAX_BYTES];
    notifier.publish(&channel, &payload).await.unwrap();
    assert_eq!(next(&mut subscription).await, Notification::Message(payload.into()));
    for wrong in ["", "A", "a-b", "a\"; --", "é", &"c".repeat(41)] {
        for refused in [notifier.publish(wrong, b"").await, notifier.subscribe(wrong).await.map(drop)] {
            assert!(matches!(refused, Err(NotifierError::InvalidChannel { .. })), "{wrong:?}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn foreign_payload_is_a_gap() {
    let Some((_test, database)) = migrated().await else { return };
    let mut subscription = notifier(&database).subscribe("channel").await.unwrap();
    sqlx::query("SELECT pg_notify('pganalytics_channel', 'not ours!')")
        .execute(database.pool())
        .await
        .unwrap();
    assert_eq!(next(&mut subscription).await, Notification::Gap);
}

#[tokio::test]
async fn slow_subscriber_is_told_of_the_gap() {
    let Some((_test, database)) = migrated().await else { return };
    let config = PostgresNotifierConfig::default().with_buffer(4);
    let notifier = PostgresNotifier::new(database.clone(), config);
    let mut slow = notifier.subscribe("channel").await.unwrap();
    let mut quick = notifier.subscribe("channel").await.unwrap();
    for round in 0..20_u8 {
        notifier.publish("channel", &[round]).await.unwrap();
        assert_eq!(next(&mut quick).await, Notification::Message(Bytes::copy_from_slice(&[round])));
    }
    assert_eq!(next(&mut slow).await, Notification::Gap);
    assert!(matches!(next(&mut slow).await, Notification::Message(_)));
}

#[tokio::test]
async fn terminated_listener_announces_a_gap_and_goes_on() {
    let Some((_test, database)) = migrated().await else { return };
    let notifier = notifier(&database);
    let mut subscription = notifier.subscribe("channel").await.unwrap();
    notifier.publish("channel", b"before").await.unwrap();
    assert_eq!(next(&mut subscription).await, message("before"));
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .execute(database.pool())
    .await
    .unwrap();
    assert_eq!(next(&mut subscription).await, Notification::Gap);
    assert_heard_again(&notifier, &mut subscription).await;
}

#[tokio::test]
async fn restart_of_the_server_announces_a_gap_and_goes_on() {
    let Some(mut server) = private_postgres(Profile::Fast).await else { return };
    let database = connect(&server.url()).await;
    let notifier = notifier(&database);
    let mut subscription = notifier.subscribe("channel").await.unwrap();
    server.kill().await.unwrap();
    assert_eq!(next(&mut subscription).await, Notification::Gap);
    assert_eq!(next(&mut subscription).await, Notification::Gap, "nobody takes what it knows for fresh");
    let refused = notifier.subscribe("other").await;
    assert!(matches!(refused, Err(NotifierError::Backend(_))));
    server.restart().await.unwrap();
    assert_heard_again(&notifier, &mut subscription).await;
}

#[tokio::test]
async fn silent_connection_announces_a_gap() {
    let Some((test, database)) = migrated().await else { return };
    let proxy = Proxy::to(test.url()).await;
    let mut config = PostgresConfig::new(test.url().to_owned());
    config.direct_url = Some(proxy.url().to_owned().into());
    let listening = Database::connect(&config).await.unwrap();
    let heartbeat = Duration::from_millis(100);
    let config = PostgresNotifierConfig::default().with_heartbeat(heartbeat);
    let notifier = PostgresNotifier::new(listening, config);
    let mut subscription = notifier.subscribe("channel").await.unwrap();
    let patience = Duration::from_millis(400);
    let quiet = timeout(patience, subscription.next()).await;
    assert!(quiet.is_err(), "nothing is missed over a connection that lives: {quiet:?}");
    proxy.fall_silent(true);
    for _ in 0..3 {
        let gap = timeout(Duration::from_secs(1), subscription.next()).await;
        assert_eq!(gap, Ok(Notification::Gap), "and again while it lasts");
    }
    proxy.fall_silent(false);
    let publisher = PostgresNotifier::new(database, PostgresNotifierConfig::default());
    assert_heard_again(&publisher, &mut subscription).await;
}
