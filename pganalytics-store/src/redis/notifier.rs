use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use pganalytics_core::notifier::{
    Notification, Notifier, NotifierError, Subscription, check_channel, check_payload,
};
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{RedisClient, command};
use super::config::RedisAddress;
use super::error::{BACKEND, Failure};
use crate::channels::{ChannelSubscription, Channels};

/// How often to try to get a connection again.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(250);

/// Limits of a [`RedisNotifier`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RedisNotifierConfig {
    /// How often the connection is asked whether it still lives; after twice this time without an answer it is taken
    /// for lost. Half a second unless told otherwise.
    pub heartbeat: Duration,
    /// How many messages of a channel are kept for a subscriber that is slow: 1024 unless told otherwise.
    pub buffer: usize,
}

/// PUBLISH, and SUBSCRIBE on one connection for all subscriptions, opened with the first.
///
/// While there is no connection every subscription yields a `Gap` with each attempt to get one, so that nobody takes what
/// it knows for fresh; the last one comes when messages can come again. With Sentinel both follow the master; in a cluster
/// all messages of a channel go by way of the node that a key of the channel's name would be on.
#[derive(Clone, Debug)]
pub struct RedisNotifier {
    client: RedisClient,
    config: RedisNotifierConfig,
    hub: Arc<OnceLock<mpsc::Sender<Request>>>,
}

impl Default for RedisNotifierConfig {
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(500), buffer: 1024 }
    }
}

impl RedisNotifierConfig {
    /// Sets how often the connection is asked whether it still lives.
    #[must_use]
    pub fn with_heartbeat(self, heartbeat: Duration) -> Self {
        Self { heartbeat, ..self }
    }

    /// Sets how many messages are kept for a slow subscriber, at least one.
    #[must_use]
    pub fn with_buffer(self, buffer: usize) -> Self {
        Self { buffer: buffer.max(1), ..self }
    }
}

impl RedisNotifier {
    /// A notifier on this Redis.
    pub fn new(client: RedisClient, config: RedisNotifierConfig) -> Self {
        Self { client, config, hub: Arc::default() }
    }

    fn hub(&self) -> &mpsc::Sender<Request> {
        self.hub.get_or_init(|| {
            let (sender, requests) = mpsc::channel(16);
            let hub = Hub {
                client: self.client.clone(),
                config: self.config,
                line: None,
                channels: Channels::new(self.config.buffer),
            };
            tokio::spawn(hub.run(requests));
            sender
        })
    }

    fn channel_name(&self, channel: &str) -> Result<String, NotifierError> {
        check_channel(channel)?;
        Ok(format!("{}{channel}", self.client.config().prefix))
    }
}

#[async_trait]
impl Notifier for RedisNotifier {
    fn name(&self) -> &'static str {
        BACKEND
    }

    async fn publish(&self, channel: &str, payload: &[u8]) -> Result<(), NotifierError> {
        let channel = self.channel_name(channel)?;
        check_payload(payload)?;
        let build = |_: &_| {
            let mut publish = command("PUBLISH", channel.clone());
            publish.arg(payload);
            publish
        };
        // How many hear it is not known: in a cluster they are counted on one node.
        self.client.call::<i64>(build, Some(&channel)).await?;
        Ok(())
    }

    async fn subscribe(&self, channel: &str) -> Result<Box<dyn Subscription>, NotifierError> {
        let (answer, subscribed) = oneshot::channel();
        let request = Request { channel: self.channel_name(channel)?, answer };
        let hub = self.hub();
        let stopped = || NotifierError::from(Failure::Stopped);
        hub.send(request).await.map_err(|_| stopped())?;
        match subscribed.await {
            Ok(Ok(messages)) => Ok(Box::new(ChannelSubscription::new(messages, hub.clone()))),
            Ok(Err(failure)) => Err(failure.into()),
            Err(_) => Err(stopped()),
        }
    }
}

#[derive(Debug)]
struct Request {
    channel: String,
    answer: oneshot::Sender<Result<broadcast::Receiver<Notification>, Failure>>,
}

/// Owns the connection and hands out what comes over it.
struct Hub {
    client: RedisClient,
    config: RedisNotifierConfig,
    line: Option<Line>,
    channels: Channels,
}

struct Line {
    commands: PubSubSink,
    messages: PubSubStream,
    /// The master that it leads to, where there may be another one.
    address: Option<RedisAddress>,
}

impl Hub {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut wake = Instant::now() + self.config.heartbeat;
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.subscribe(request).await,
                    None => return,
                },
                received = receive(&mut self.line) => match received {
                    Some(message) => self.hand_out(&message),
                    None => self.lose("the connection was closed"),
                },
                () = sleep_until(wake) => {
                    if let Err(failure) = self.look_after().await {
                        self.lose(failure);
                    }
                    let pause = if self.line.is_some() { self.config.heartbeat } else { RECONNECT_INTERVAL };
                    wake = Instant::now() + pause;
                }
            }
        }
    }

    async fn subscribe(&mut self, request: Request) {
        let answer = match self.listen(&request.channel).await {
            Ok(()) => Ok(self.channels.subscribe(request.channel)),
            Err(failure) => {
                self.lose(failure.clone());
                Err(failure)
            }
        };
        // Whoever asked may be gone.
        let _ = request.answer.send(answer);
    }

    async fn listen(&mut self, channel: &str) -> Result<(), Failure> {
        self.connect().await?;
        if !self.channels.contains(channel)
            && let Some(line) = &mut self.line
        {
            within(self.config.heartbeat, line.commands.subscribe(channel)).await?;
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.line.is_some() {
            return Ok(());
        }
        let limit = self.client.config().connect_timeout;
        let channels: Vec<&str> = self.channels.names().collect();
        let connecting = async {
            let address = self.client.server().await?.map(|server| server.address);
            let subscriber = self.client.connector().subscriber(address.as_ref()).await?;
            let (mut commands, messages) = subscriber.split();
            if !channels.is_empty() {
                commands.subscribe(channels).await?;
            }
            Ok::<_, Failure>(Line { commands, messages, address })
        };
        self.line = Some(timeout(limit, connecting).await.unwrap_or(Err(Failure::Connect(limit)))?);
        self.channels.announce_gap();
        Ok(())
    }

    /// Makes sure of the connection, and lets go of channels that nobody listens to any more.
    async fn look_after(&mut self) -> Result<(), Failure> {
        let abandoned = self.channels.take_abandoned();
        if self.channels.is_empty() {
            self.line = None;
            return Ok(());
        }
        self.connect().await?;
        let current = within(self.config.heartbeat, self.client.server()).await?.map(|server| server.address);
        let Some(line) = &mut self.line else { return Ok(()) };
        if line.address != current {
            return Err(Failure::Elsewhere);
        }
        let ask = async {
            if !abandoned.is_empty() {
                line.commands.unsubscribe(abandoned).await?;
            }
            line.commands.ping::<redis::Value>().await
        };
        within(self.config.heartbeat, ask).await.map(drop)
    }

    fn lose(&mut self, reason: impl ToString) {
        if self.line.take().is_some() {
            tracing::warn!(reason = reason.to_string(), "notifications may be missed");
        }
        self.channels.announce_gap();
    }

    fn hand_out(&self, message: &Msg) {
        let payload = Bytes::copy_from_slice(message.get_payload_bytes());
        self.channels.hand_out(message.get_channel_name(), Notification::Message(payload));
    }
}

/// Waits for ever where there is no connection. Cancel safe.
async fn receive(line: &mut Option<Line>) -> Option<Msg> {
    match line {
        Some(line) => line.messages.next().await,
        None => std::future::pending().await,
    }
}

async fn within<T, E: Into<Failure>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    timeout(limit, call).await.map_or(Err(Failure::Deadline(limit)), |answer| answer.map_err(Into::into))
}
