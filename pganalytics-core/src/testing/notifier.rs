//! The contract of [`Notifier`], a function for each clause.

use std::time::Duration;

use bytes::Bytes;

use crate::notifier::{
    CHANNEL_MAX_BYTES, Notification, Notifier, NotifierError, PAYLOAD_MAX_BYTES, Subscription,
};
use crate::testing::Subject;

/// Runs the contract of `Notifier` on the adapter that the expression yields (`async` → `Option<Subject<dyn Notifier>>`).
#[macro_export]
macro_rules! notifier_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::notifier,
            $subject,
            [
                a_message_reaches_every_subscriber,
                messages_of_one_sender_keep_their_order,
                channels_are_independent,
                nothing_from_before_is_delivered,
                a_gap_is_announced,
                an_oversized_payload_is_refused,
                binary_payloads_come_back_verbatim,
                a_dropped_subscription_costs_nothing,
                a_cancelled_wait_loses_nothing,
                an_invalid_channel_is_refused,
            ]
        );
    };
}

type NotifierSubject = Subject<dyn Notifier>;

const PATIENCE: Duration = Duration::from_secs(10);

async fn subscribe(subject: &NotifierSubject, channel: &str) -> Box<dyn Subscription> {
    subject.port.subscribe(channel).await.unwrap()
}

async fn publish(subject: &NotifierSubject, channel: &str, payload: impl AsRef<[u8]>) {
    subject.port.publish(channel, payload.as_ref()).await.unwrap();
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Notification {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("something comes")
}

async fn assert_next(subscription: &mut Box<dyn Subscription>, payload: impl AsRef<[u8]>) {
    let expected = Notification::Message(Bytes::copy_from_slice(payload.as_ref()));
    assert_eq!(next(subscription).await, expected);
}

/// Clause 1.
pub async fn a_message_reaches_every_subscriber(subject: NotifierSubject) {
    let mut subscriptions = Vec::new();
    for _ in 0..3 {
        subscriptions.push(subscribe(&subject, "channel").await);
    }
    publish(&subject, "channel", "one").await;
    publish(&subject, "channel", "one").await;
    publish(&subject, "channel", "two").await;
    for subscription in &mut subscriptions {
        assert_next(subscription, "one").await;
        assert_next(subscription, "one").await;
        assert_next(subscription, "two").await;
    }
}

/// Clause 2.
pub async fn messages_of_one_sender_keep_their_order(subject: NotifierSubject) {
    let mut subscription = subscribe(&subject, "channel").await;
    for number in 0..200 {
        publish(&subject, "channel", number.to_string()).await;
    }
    for number in 0..200 {
        assert_next(&mut subscription, number.to_string()).await;
    }
}

/// Clause 3.
pub async fn channels_are_independent(subject: NotifierSubject) {
    let mut one = subscribe(&subject, "one").await;
    let mut two = subscribe(&subject, "one_two").await;
    publish(&subject, "one", "for one").await;
    publish(&subject, "nobody", "for nobody").await;
    publish(&subject, "one_two", "for two").await;
    publish(&subject, "one", "for one again").await;
    assert_next(&mut two, "for two").await;
    assert_next(&mut one, "for one").await;
    assert_next(&mut one, "for one again").await;
}

/// Clause 4.
pub async fn nothing_from_before_is_delivered(subject: NotifierSubject) {
    let mut witness = subscribe(&subject, "channel").await;
    publish(&subject, "channel", "before").await;
    assert_next(&mut witness, "before").await;
    let mut subscription = subscribe(&subject, "channel").await;
    publish(&subject, "channel", "after").await;
    assert_next(&mut subscription, "after").await;
    assert_next(&mut witness, "after").await;
}

/// Clause 5. It fills a buffer; what a lost connection does only the adapter's own test can try.
pub async fn a_gap_is_announced(subject: NotifierSubject) {
    let mut subscription = subscribe(&subject, "channel").await;
    let count = 1500_u32;
    for number in 0..count {
        publish(&subject, "channel", number.to_be_bytes()).await;
    }
    let mut expected = 0;
    let mut gap = false;
    while expected < count {
        let patience = if gap { Duration::from_millis(100) } else { PATIENCE };
        match tokio::time::timeout(patience, subscription.next()).await {
            Ok(Notification::Message(payload)) => {
                let number = u32::from_be_bytes(payload[..].try_into().unwrap());
                assert!(number >= expected, "{number} after {expected}");
                assert!(number == expected || gap, "{expected} to {number} were missed without a word");
                (expected, gap) = (number + 1, false);
            }
            Ok(Notification::Gap) => gap = true,
            // The last ones were lost: what comes after them must come.
            Err(_) if gap => publish(&subject, "channel", count.to_be_bytes()).await,
            Err(_) => panic!("{expected} and all after it were missed without a word"),
        }
    }
}

/// Clause 6.
pub async fn an_oversized_payload_is_refused(subject: NotifierSubject) {
    let mut subscription = subscribe(&subject, "channel").await;
    let refused = subject.port.publish("channel", &vec![b'x'; PAYLOAD_MAX_BYTES + 1]).await;
    assert!(matches!(refused, Err(NotifierError::TooLarge { size, limit }) if size > limit), "{refused:?}");
    let largest = vec![0xff; PAYLOAD_MAX_BYTES];
    publish(&subject, "channel", &largest).await;
    assert_next(&mut subscription, &largest).await;
}

/// Clause 7.
pub async fn binary_payloads_come_back_verbatim(subject: NotifierSubject) {
    let mut subscription = subscribe(&subject, "channel").await;
    let all = (0..=255).collect::<Vec<u8>>();
    for payload in [&b""[..], b"\0", &all, "'; NOTIFY other; -- é".as_bytes()] {
        publish(&subject, "channel", payload).await;
        assert_next(&mut subscription, payload).await;
    }
}

/// Clause 8.
pub async fn a_dropped_subscription_costs_nothing(subject: NotifierSubject) {
    let mut kept = subscribe(&subject, "channel").await;
    drop(subscribe(&subject, "channel").await);
    drop(subscribe(&subject, "other").await);
    publish(&subject, "other", "nobody listens").await;
    publish(&subject, "channel", "one").await;
    assert_next(&mut kept, "one").await;
    let mut again = subscribe(&subject, "other").await;
    publish(&subject, "other", "two").await;
    assert_next(&mut again, "two").await;
}

/// Clause 9.
pub async fn a_cancelled_wait_loses_nothing(subject: NotifierSubject) {
    let mut subscription = subscribe(&subject, "channel").await;
    let publishing = async {
        for number in 0..50 {
            publish(&subject, "channel", number.to_string()).await;
            tokio::task::yield_now().await;
        }
    };
    let listening = async {
        let mut number = 0;
        while number < 50 {
            // Cancelled at its first pause, as by a `select!` whose other branch is ready.
            let next = futures::future::select(subscription.next(), std::future::ready(())).await;
            if let futures::future::Either::Left((notification, _)) = next {
                let expected = Notification::Message(Bytes::from(number.to_string()));
                assert_eq!(notification, expected);
                number += 1;
            }
            tokio::task::yield_now().await;
        }
    };
    let both = async { futures::join!(publishing, listening) };
    tokio::time::timeout(PATIENCE, both).await.expect("every message comes");
}

/// Clause 10.
pub async fn an_invalid_channel_is_refused(subject: NotifierSubject) {
    for channel in ["", "Channel", "a b", "a\0", "a-b", "é", "a\"; --", &"c".repeat(CHANNEL_MAX_BYTES + 1)] {
        let refused = subject.port.subscribe(channel).await.map(drop);
        assert!(matches!(refused, Err(NotifierError::InvalidChannel { .. })), "{channel:?}");
        let refused = subject.port.publish(channel, b"").await;
        assert!(matches!(refused, Err(NotifierError::InvalidChannel { .. })), "{channel:?}");
    }
    let longest = "c".repeat(CHANNEL_MAX_BYTES);
    let mut subscription = subscribe(&subject, &longest).await;
    publish(&subject, &longest, "text").await;
    assert_next(&mut subscription, "text").await;
}
