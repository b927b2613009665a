use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, Weak};
use std::time::Duration;

use pganalytics_core::error::BackendError;
use pganalytics_core::random::Random;
use redis::{Cmd, FromRedisValue};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::breaker::Breaker;
use super::config::{RedisConfig, RedisTopology};
use super::connector::{Connector, Link, Server};
use super::error::{Failure, RedisConfigError, Verdict};

/// How often the sentinels are asked whether the master is still the master.
const MASTER_CHECK: Duration = Duration::from_secs(1);

/// Redis, over one connection that all callers share and that comes back by itself. Clones are the same client.
///
/// Each call ends by the configured deadline. What a call would do is never sent a second time when it may have had its
/// effect.
///
/// With Sentinel, calls go to the master; a demoted one is left when it says so, when it falls silent, or at the latest a
/// second after all sentinels know of another (they tell each other every two seconds).
#[derive(Clone)]
pub struct RedisClient(Arc<Inner>);

struct Inner {
    connector: Connector,
    breaker: Breaker,
    slot: RwLock<Slot>,
    /// Held while connecting, with the reason why the last attempt failed.
    connecting: Mutex<Option<Failure>>,
    attempts: AtomicU64,
    /// How often a server has answered.
    answers: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    link: Option<Arc<Link>>,
    /// Where the last link led.
    former: Option<Server>,
}

impl RedisClient {
    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// When the configuration contradicts itself or holds no certificates where it should.
    pub fn new(config: RedisConfig, random: Arc<dyn Random>) -> Result<Self, RedisConfigError> {
        let breaker = Breaker::new(config.breaker, random);
        Ok(Self(Arc::new(Inner {
            connector: Connector::new(config)?,
            breaker,
            slot: RwLock::default(),
            connecting: Mutex::default(),
            attempts: AtomicU64::new(0),
            answers: AtomicU64::new(0),
        })))
    }

    /// Asks whether Redis answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), BackendError> {
        // By way of a key, as a cluster sends commands without one anywhere.
        let exists = |link: &Link| command("EXISTS", link.name('k', "ping"));
        self.call::<i64>(exists, None).await.map(drop).map_err(Failure::into_backend)
    }

    pub(super) fn config(&self) -> &RedisConfig {
        &self.0.connector.config
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.0.connector
    }

    /// One command, within the deadline and if the breaker lets it. `route`: as [`Link::send`] takes it.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        command: impl FnOnce(&Link) -> Cmd,
        route: Option<&str>,
    ) -> Result<T, Failure> {
        let permit = self.0.breaker.admit().map_err(Failure::LeftAlone)?;
        let answers = self.0.answers();
        let deadline = self.config().deadline;
        let answer = timeout(deadline, self.send(command, route)).await;
        let failure = match answer {
            Ok(Ok(value)) => {
                self.0.note_answer();
                permit.succeeded();
                return Ok(value);
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Deadline(deadline),
        };
        if failure.verdict() == Verdict::Works {
            self.0.note_answer();
            permit.succeeded();
            return Err(failure);
        }
        let silent = matches!(failure, Failure::Deadline(_)) && self.0.answers() == answers;
        // One node of a cluster says nothing of the others.
        let clustered = matches!(self.config().topology, RedisTopology::Cluster(_));
        if permit.failed(silent && !clustered) {
            // The next attempt is to find out whether it was the connection.
            self.0.leave(None);
        }
        Err(failure)
    }

    /// The server that the connection leads to, where it is one server.
    pub(super) async fn server(&self) -> Result<Option<Server>, Failure> {
        Ok(self.link().await?.server.clone())
    }

    async fn send<T: FromRedisValue>(
        &self,
        command: impl FnOnce(&Link) -> Cmd,
        route: Option<&str>,
    ) -> Result<T, Failure> {
        let link = self.link().await?;
        let answer = link.send(command(&link), route).await;
        if let Err(failure) = &answer
            && link.server.is_some()
            && failure.verdict() != Verdict::Works
        {
            self.0.leave(Some(&link));
        }
        answer
    }

    async fn link(&self) -> Result<Arc<Link>, Failure> {
        if let Some(link) = self.0.current() {
            return Ok(link);
        }
        let seen = self.0.attempts.load(Ordering::SeqCst);
        // In a task of its own: connecting may take longer than a call, and the next one is to find it done.
        let connecting = tokio::spawn(Arc::clone(&self.0).connect(seen));
        connecting.await.unwrap_or(Err(Failure::Stopped))
    }
}

impl Inner {
    fn current(&self) -> Option<Arc<Link>> {
        self.slot.read().expect("no holder panics").link.clone()
    }

    /// Connects, unless that was tried since attempt number `seen`.
    async fn connect(self: Arc<Self>, seen: u64) -> Result<Arc<Link>, Failure> {
        let mut last = self.connecting.lock().await;
        if let Some(link) = self.current() {
            return Ok(link);
        }
        if self.attempts.load(Ordering::SeqCst) != seen
            && let Some(failure) = &*last
        {
            return Err(failure.clone());
        }
        let former = self.slot.read().expect("no holder panics").former.clone();
        let limit = self.connector.config.connect_timeout;
        let connected = timeout(limit, self.connector.connect(former.as_ref())).await;
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let link = match connected.unwrap_or(Err(Failure::Connect(limit))) {
            Ok(link) => Arc::new(link),
            Err(failure) => {
                *last = Some(failure.clone());
                return Err(failure);
            }
        };
        *last = None;
        self.note_answer();
        *self.slot.write().expect("no holder panics") =
            Slot { link: Some(Arc::clone(&link)), former: link.server.clone() };
        if matches!(self.connector.config.topology, RedisTopology::Sentinel { .. }) {
            tokio::spawn(watch_master(Arc::downgrade(&self), Arc::downgrade(&link)));
        }
        Ok(link)
    }

    /// Gives up the connection: this one, or whichever there is.
    fn leave(&self, link: Option<&Arc<Link>>) {
        let mut slot = self.slot.write().expect("no holder panics");
        if link.is_none_or(|link| slot.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link))) {
            slot.link = None;
        }
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn note_answer(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClient").field("config", self.config()).finish_non_exhaustive()
    }
}

/// A command with its first argument.
pub(super) fn command(name: &str, first: String) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(first);
    command
}

/// A master that was demoted while it hung does not know it when it goes on, for some seconds.
async fn watch_master(client: Weak<Inner>, link: Weak<Link>) {
    loop {
        sleep(MASTER_CHECK).await;
        let (Some(client), Some(link)) = (client.upgrade(), link.upgrade()) else { return };
        let Some(server) = &link.server else { return };
        let asked =
            timeout(client.connector.config.connect_timeout, client.connector.is_replaced(&server.address));
        if asked.await.unwrap_or(false) {
            client.leave(Some(&link));
        }
        if !client.current().is_some_and(|current| Arc::ptr_eq(&current, &link)) {
            return;
        }
    }
}
