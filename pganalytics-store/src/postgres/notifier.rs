use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use pganalytics_core::error::BackendError;
use pganalytics_core::notifier::{
    Notification, Notifier, NotifierError, Subscription, check_channel, check_payload,
};
use sqlx::PgConnection;
use sqlx::postgres::PgListener;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::database::Database;
use super::error::StoreError;
use crate::channels::{ChannelSubscription, Channels};

/// Before each channel's name, since the database may have other users.
const PREFIX: &str = "pganalytics_";

/// How often to try to get a connection again.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(250);

/// Limits of a [`PostgresNotifier`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PostgresNotifierConfig {
    /// How often the connection is asked whether it still lives; after twice this time without an answer it is taken
    /// for lost. Half a second unless told otherwise.
    pub heartbeat: Duration,
    /// How many messages of a channel are kept for a subscriber that is slow: 1024 unless told otherwise.
    pub buffer: usize,
}

/// NOTIFY, and LISTEN on one connection for all subscriptions, opened with the first at the direct address.
///
/// While there is no connection every subscription yields a `Gap` four times a second, so that nobody takes what it
/// knows for fresh; the last one comes when messages can come again.
#[derive(Clone, Debug)]
pub struct PostgresNotifier {
    database: Database,
    config: PostgresNotifierConfig,
    hub: Arc<OnceLock<mpsc::Sender<Request>>>,
}

impl Default for PostgresNotifierConfig {
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(500), buffer: 1024 }
    }
}

impl PostgresNotifierConfig {
    /// Sets how often the connection is asked whether it still lives.
    #[must_use]
    pub fn with_heartbeat(self, heartbeat: Duration) -> Self {
        Self { heartbeat, ..self }
    }

    /// Sets how many messages are kept for a slow subscriber, at least one.
    #[must_use]
    pub fn with_buffer(self, buffer: usize) -> Self {
        Self { buffer, ..self }
    }
}

impl PostgresNotifier {
    /// On any database; no table is needed.
    pub fn new(database: Database, config: PostgresNotifierConfig) -> Self {
        Self { database, config, hub: Arc::default() }
    }

    /// As [`Notifier::publish`], with the commit of the caller's transaction, and only then.
    ///
    /// # Errors
    /// When channel or payload are not allowed, or PostgreSQL could not answer.
    pub async fn publish_in(
        connection: &mut PgConnection,
        channel: &str,
        payload: &[u8],
    ) -> Result<(), NotifierError> {
        let channel = channel_name(channel)?;
        check_payload(payload)?;
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(channel)
            .bind(STANDARD_NO_PAD.encode(payload))
            .execute(connection)
            .await
            .map_err(StoreError::from)?;
        Ok(())
    }

    fn hub(&self) -> &mpsc::Sender<Request> {
        self.hub.get_or_init(|| {
            let (sender, requests) = mpsc::channel(16);
            let hub = Hub {
                database: self.database.clone(),
                config: self.config,
                listener: None,
                channels: Channels::new(self.config.buffer),
            };
            tokio::spawn(hub.run(requests));
            sender
        })
    }
}

#[async_trait]
impl Notifier for PostgresNotifier {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn publish(&self, channel: &str, payload: &[u8]) -> Result<(), NotifierError> {
        let mut connection = self.database.write().await?;
        Self::publish_in(&mut connection, channel, payload).await?;
        Ok(connection.commit().await?)
    }

    async fn subscribe(&self, channel: &str) -> Result<Box<dyn Subscription>, NotifierError> {
        let (answer, subscribed) = oneshot::channel();
        let request = Request { channel: channel_name(channel)?, answer };
        let hub = self.hub();
        let stopped = || BackendError::later("postgres", "the listening task has ended");
        hub.send(request).await.map_err(|_| NotifierError::Backend(stopped()))?;
        match subscribed.await {
            Ok(Ok(messages)) => Ok(Box::new(ChannelSubscription::new(messages, hub.clone()))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(NotifierError::Backend(stopped())),
        }
    }
}

#[derive(Debug)]
struct Request {
    channel: String,
    answer: oneshot::Sender<Result<broadcast::Receiver<Notification>, StoreError>>,
}

/// Owns the connection and hands out what comes over it.
struct Hub {
    database: Database,
    config: PostgresNotifierConfig,
    listener: Option<PgListener>,
    channels: Channels,
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
                received = receive(&mut self.listener) => match received {
                    Ok((channel, payload)) => self.hand_out(&channel, &payload),
                    Err(error) => self.lose(&error),
                },
                () = sleep_until(wake) => {
                    self.look_after().await;
                    let pause = if self.listener.is_some() { self.config.heartbeat } else { RECONNECT_INTERVAL };
                    wake = Instant::now() + pause;
                }
            }
        }
    }

    async fn subscribe(&mut self, request: Request) {
        let subscribed = self.listen(&request.channel).await;
        if let Err(error) = &subscribed {
            self.lose(error);
        }
        let answer = subscribed.map(|()| self.channels.subscribe(request.channel));
        // Whoever asked may be gone.
        let _ = request.answer.send(answer);
    }

    /// Afterwards only what is published from now on will come.
    async fn listen(&mut self, channel: &str) -> Result<(), StoreError> {
        self.connect().await?;
        let known = self.channels.contains(channel);
        let Some(listener) = &mut self.listener else { return Ok(()) };
        if known {
            // PostgreSQL sends what was published before, and then answers.
            within(self.config.heartbeat, ping(listener)).await?;
        } else {
            within(self.config.heartbeat, async { Ok(listener.listen(channel).await?) }).await?;
        }
        self.hand_out_buffered();
        Ok(())
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        if self.listener.is_some() {
            return Ok(());
        }
        let mut listener = self.announcing_gaps(self.database.listener()).await?;
        if !self.channels.is_empty() {
            let channels = self.channels.names();
            within(self.config.heartbeat, async { Ok(listener.listen_all(channels).await?) }).await?;
        }
        self.listener = Some(listener);
        self.channels.announce_gap();
        Ok(())
    }

    /// Connecting may take long.
    async fn announcing_gaps<T>(&self, connecting: impl Future<Output = T>) -> T {
        let mut connecting = pin!(connecting);
        loop {
            match timeout(RECONNECT_INTERVAL, &mut connecting).await {
                Ok(connected) => return connected,
                Err(_) => self.channels.announce_gap(),
            }
        }
    }

    /// Makes sure of the connection, and lets go of channels that nobody listens to any more.
    async fn look_after(&mut self) {
        let abandoned = self.channels.take_abandoned();
        if self.channels.is_empty() {
            self.listener = None;
            return;
        }
        if let Err(error) = self.connect().await {
            return self.lose(&error);
        }
        let Some(listener) = &mut self.listener else { return };
        let asked = within(self.config.heartbeat, async {
            for channel in &abandoned {
                listener.unlisten(channel).await?;
            }
            ping(listener).await
        });
        match asked.await {
            Ok(()) => self.hand_out_buffered(),
            Err(error) => self.lose(&error),
        }
    }

    fn lose(&mut self, error: &StoreError) {
        if self.listener.take().is_some() {
            tracing::warn!(error = error as &dyn std::error::Error, "notifications may be missed");
        }
        self.channels.announce_gap();
    }

    /// Notifications that came in between other answers.
    fn hand_out_buffered(&mut self) {
        while let Some(notification) = self.listener.as_mut().and_then(PgListener::next_buffered) {
            self.hand_out(notification.channel(), notification.payload());
        }
    }

    fn hand_out(&self, channel: &str, payload: &str) {
        // Somebody else's message on our channel may have been meant for us.
        let notification = match STANDARD_NO_PAD.decode(payload) {
            Ok(payload) => Notification::Message(Bytes::from(payload)),
            Err(_) => Notification::Gap,
        };
        self.channels.hand_out(channel, notification);
    }
}

impl From<StoreError> for NotifierError {
    fn from(error: StoreError) -> Self {
        Self::Backend(error.into_backend())
    }
}

/// Waits for ever where there is no connection. Cancel safe.
async fn receive(listener: &mut Option<PgListener>) -> Result<(String, String), StoreError> {
    let Some(listener) = listener else { return std::future::pending().await };
    match listener.try_recv().await? {
        Some(notification) => Ok((notification.channel().to_owned(), notification.payload().to_owned())),
        None => Err(BackendError::later("postgres", "the connection was closed").into()),
    }
}

async fn ping(listener: &mut PgListener) -> Result<(), StoreError> {
    sqlx::raw_sql("SELECT 1").execute(listener).await?;
    Ok(())
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(limit, call).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(BackendError::later("postgres", elapsed).into()),
    }
}

fn channel_name(channel: &str) -> Result<String, NotifierError> {
    check_channel(channel)?;
    Ok(format!("{PREFIX}{channel}"))
}
