use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::notifier::{Notification, Notifier, NotifierError, Subscription, check_channel, check_payload};

const DEFAULT_CAPACITY: usize = 1024;

/// Notifications within this process. Clones share the channels.
#[derive(Clone, Debug)]
pub struct MemoryNotifier {
    channels: Arc<Mutex<HashMap<String, broadcast::Sender<Bytes>>>>,
    capacity: usize,
}

impl MemoryNotifier {
    /// A notifier whose subscriptions miss something when they are more than 1024 messages behind.
    pub fn new() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }

    /// A notifier whose subscriptions may be so many messages behind.
    ///
    /// # Panics
    /// When the capacity is zero.
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity > 0, "a subscription needs room for a message");
        Self { channels: Arc::default(), capacity }
    }
}

impl Default for MemoryNotifier {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Notifier for MemoryNotifier {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn publish(&self, channel: &str, payload: &[u8]) -> Result<(), NotifierError> {
        check_channel(channel)?;
        check_payload(payload)?;
        let mut channels = self.channels.lock().expect("no holder panics");
        let heard = channels.get(channel).map(|sender| sender.send(Bytes::copy_from_slice(payload)).is_ok());
        if heard == Some(false) {
            channels.remove(channel);
        }
        Ok(())
    }

    async fn subscribe(&self, channel: &str) -> Result<Box<dyn Subscription>, NotifierError> {
        check_channel(channel)?;
        let mut channels = self.channels.lock().expect("no holder panics");
        let sender =
            channels.entry(channel.to_owned()).or_insert_with(|| broadcast::channel(self.capacity).0);
        Ok(Box::new(MemorySubscription { receiver: sender.subscribe() }))
    }
}

#[derive(Debug)]
struct MemorySubscription {
    receiver: broadcast::Receiver<Bytes>,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Notification {
        match self.receiver.recv().await {
            Ok(payload) => Notification::Message(payload),
            Err(RecvError::Lagged(_)) => Notification::Gap,
            // The notifier is gone: nobody will ever publish.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Faulty, ManualClock, Subject};

    async fn memory() -> Option<Subject<dyn Notifier>> {
        Some(Subject::manual(Arc::new(MemoryNotifier::new()), ManualClock::new()))
    }

    crate::notifier_contract!(memory());

    mod boxed {
        use super::*;

        async fn boxed() -> Option<Subject<dyn Notifier>> {
            let inner: Box<dyn Notifier> = Box::new(Faulty::new(MemoryNotifier::with_capacity(300)));
            Some(Subject::manual(Arc::new(inner), ManualClock::new()))
        }

        crate::notifier_contract!(boxed());
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_what_it_missed() {
        let notifier = MemoryNotifier::with_capacity(2);
        let mut subscription = notifier.subscribe("channel").await.unwrap();
        for payload in ["1", "2", "3"] {
            notifier.publish("channel", payload.as_bytes()).await.unwrap();
        }
        assert_eq!(subscription.next().await, Notification::Gap);
        assert_eq!(subscription.next().await, Notification::Message(Bytes::from("2")));
        assert_eq!(subscription.next().await, Notification::Message(Bytes::from("3")));
    }

    #[tokio::test]
    async fn a_channel_without_subscribers_takes_no_room() {
        let notifier = MemoryNotifier::new();
        drop(notifier.subscribe("channel").await.unwrap());
        notifier.publish("channel", b"nobody hears it").await.unwrap();
        assert!(notifier.channels.lock().unwrap().is_empty());
    }
}
