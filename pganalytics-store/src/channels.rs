//! What one connection hears, handed out to those who listen.

use std::collections::HashMap;

use async_trait::async_trait;
use pganalytics_core::notifier::{Notification, Subscription};
use tokio::sync::{broadcast, mpsc};

/// Who listens to which channel.
#[derive(Debug)]
pub(crate) struct Channels {
    buffer: usize,
    senders: HashMap<String, broadcast::Sender<Notification>>,
}

impl Channels {
    /// None yet. A subscriber who is further behind than `buffer` notifications misses some.
    pub(crate) fn new(buffer: usize) -> Self {
        Self { buffer: buffer.max(1), senders: HashMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    pub(crate) fn contains(&self, channel: &str) -> bool {
        self.senders.contains_key(channel)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.senders.keys().map(String::as_str)
    }

    pub(crate) fn subscribe(&mut self, channel: String) -> broadcast::Receiver<Notification> {
        self.senders.entry(channel).or_insert_with(|| broadcast::channel(self.buffer).0).subscribe()
    }

    /// Lets go of those that nobody listens to any more, and yields their names.
    pub(crate) fn take_abandoned(&mut self) -> Vec<String> {
        let abandoned = self.senders.extract_if(|_, sender| sender.receiver_count() == 0);
        abandoned.map(|(channel, _)| channel).collect()
    }

    pub(crate) fn hand_out(&self, channel: &str, notification: Notification) {
        if let Some(sender) = self.senders.get(channel) {
            // Without subscribers there is nobody to miss anything.
            let _ = sender.send(notification);
        }
    }

    pub(crate) fn announce_gap(&self) {
        for channel in self.senders.keys() {
            self.hand_out(channel, Notification::Gap);
        }
    }
}

/// A subscription to one of the channels. Its owner, who takes requests `R`, ends when nobody can ask it for anything.
#[derive(Debug)]
pub(crate) struct ChannelSubscription<R> {
    messages: broadcast::Receiver<Notification>,
    _owner: mpsc::Sender<R>,
}

impl<R> ChannelSubscription<R> {
    pub(crate) fn new(messages: broadcast::Receiver<Notification>, owner: mpsc::Sender<R>) -> Self {
        Self { messages, _owner: owner }
    }
}

#[async_trait]
impl<R: std::fmt::Debug + Send + 'static> Subscription for ChannelSubscription<R> {
    async fn next(&mut self) -> Notification {
        match self.messages.recv().await {
            Ok(notification) => notification,
            Err(broadcast::error::RecvError::Lagged(_)) => Notification::Gap,
            // The runtime is shutting down.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
