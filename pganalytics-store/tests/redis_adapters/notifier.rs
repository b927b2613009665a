//! What subscriptions do when the connection is lost.

use std::time::Duration;

use pganalytics_core::notifier::{Notification, Notifier, Subscription};
use pganalytics_testkit::{redis, redis_sentinel, wait_until};
use tokio::time::timeout;

use crate::servers::{notifier, sentinel, single};

const PATIENCE: Duration = Duration::from_secs(30);

async fn assert_gap(subscription: &mut Box<dyn Subscription>) {
    let next = timeout(PATIENCE, subscription.next()).await.expect("something comes");
    assert_eq!(next, Notification::Gap);
}

async fn assert_heard_again(notifier: &dyn Notifier, subscription: &mut Box<dyn Subscription>) {
    let publishing = async {
        loop {
            // Redis may not be there yet.
            let _ = notifier.publish("channel", b"after").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let listening = async { while subscription.next().await == Notification::Gap {} };
    let heard = async {
        tokio::select! {
            () = listening => {}
            () = publishing => {}
        }
    };
    timeout(PATIENCE, heard).await.expect("messages come again");
}

#[tokio::test]
async fn restart_is_a_gap() {
    let Some(mut server) = redis(None).await else { return };
    let notifier = notifier(single(&server).with_deadline(Duration::from_millis(300)));
    let mut subscription = notifier.subscribe("channel").await.unwrap();
    server.restart().await;
    assert_gap(&mut subscription).await;
    assert_heard_again(&*notifier, &mut subscription).await;
}

#[tokio::test]
async fn pause_is_a_gap_though_the_connection_stays_open() {
    let Some(server) = redis(None).await else { return };
    let notifier = notifier(single(&server).with_deadline(Duration::from_millis(300)));
    let mut subscription = notifier.subscribe("channel").await.unwrap();
    server.process().pause();
    assert_gap(&mut subscription).await;
    server.process().resume();
    assert_heard_again(&*notifier, &mut subscription).await;
}

#[tokio::test]
async fn subscription_follows_the_master() {
    let Some(servers) = redis_sentinel(1).await else { return };
    let notifier = notifier(sentinel(&servers).with_deadline(Duration::from_millis(300)));
    let mut subscription = notifier.subscribe("channel").await.unwrap();
    servers.master.process().pause();
    assert!(servers.failed_over(PATIENCE).await, "there was no failover");
    assert_gap(&mut subscription).await;
    assert_heard_again(&*notifier, &mut subscription).await;
}

#[tokio::test]
async fn connection_is_closed_when_nobody_listens() {
    let Some(server) = redis(None).await else { return };
    let notifier = notifier(single(&server));
    let subscription = notifier.subscribe("channel").await.unwrap();
    assert!(server.ask("CLIENT LIST TYPE pubsub").await.contains("sub=1"));
    drop(subscription);
    let closed = wait_until(PATIENCE, async || !server.ask("CLIENT LIST TYPE pubsub").await.contains("sub="));
    assert!(closed.await);
}
