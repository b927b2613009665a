use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::UserId;
use pganalytics_core::keys::FieldCipher;
use pganalytics_core::random::{Random, RandomExt};
use pganalytics_core::session::{
    Epoch, IdpSession, NewSession, SaveOutcome, Session, SessionEpochs, SessionError, SessionId,
    SessionLimit, SessionSecretHash, SessionStore, SessionToken, WhenFull, check_data, check_new_session,
};
use redis::{Cmd, FromRedisValue};
use sha2::{Digest, Sha256};

use super::client::{RedisClient, command};
use super::connector::Link;
use super::error::BACKEND;
use super::session_payload::{self, SessionPayload};
use super::session_scripts::{
    CREATE, DELETE, KEEP_UNTIL, LIST, ROTATE, SAVE, SWEEP_OVER, SWEEP_REVOKED, TOUCH, eval,
};

/// The largest session, unless told otherwise.
const MAX_BYTES: usize = 64 * 1024;

/// Redis drops a session by itself so long after its end, by which clocks may differ.
const KEPT_LONGER: TimeDelta = TimeDelta::seconds(60);

/// How far back to look for revocations that became visible after a sweep, though they are of before.
const SWEPT_AGAIN: TimeDelta = TimeDelta::minutes(10);

/// Revocations that are read at once.
const REVOCATIONS_PAGE: u32 = 500;

/// How long it is remembered which revocations were swept.
const SWEPT_KEPT: TimeDelta = TimeDelta::days(30);

/// Redis refuses what overflows together with the time.
const MAX_TTL: TimeDelta = TimeDelta::days(100 * 365);

/// Sessions in Redis, whose epochs are kept elsewhere, in PostgreSQL.
///
/// All that belongs to one user's sessions lies in one hash slot, named by the part that the ids of these sessions share,
/// and changes by one script at a time. Times are kept in whole microseconds.
///
/// # What is lost with Redis
/// When Redis has restarted, or Sentinel has let a replica take over, there are no sessions: everybody signs in anew, and
/// nothing that ended comes back, not even from a dump or a lagging replica. In a cluster, the failover of a node undoes the
/// last moments of its sessions (replication is asynchronous, mostly under a second): one that was created may be gone, data
/// that was saved may be older, and one that was deleted or rotated by itself may be back with its former secret, until
/// its time-outs or until its user is revoked. Who was revoked stays revoked in any case: that is an epoch, which no loss in
/// Redis can lower.
///
/// A Redis that evicts signs people out when it is full; one that does not (`noeviction`) refuses new sessions, with an error
/// to be retried later.
#[derive(Clone, Debug)]
pub struct RedisSessionStore {
    client: RedisClient,
    epochs: Arc<dyn SessionEpochs>,
    limit: Option<SessionLimit>,
    max_bytes: usize,
    payload: SessionPayload,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl RedisSessionStore {
    /// What the data keys of [`RedisSessionStore::sealed_by`] are for.
    pub const PURPOSE: &str = session_payload::PURPOSE;

    /// Sessions in this Redis, of users whose epochs are kept there.
    pub fn new(
        client: RedisClient,
        epochs: Arc<dyn SessionEpochs>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let payload = SessionPayload::default();
        Self { client, epochs, limit: None, max_bytes: MAX_BYTES, payload, clock, random }
    }

    /// Seals what whoever reads Redis has no business with: provider, address and client of a session, and the application's
    /// data. Whose session it is, its times and the hash of its secret stay as they are. Sessions that are there already and are
    /// not sealed end.
    #[must_use]
    pub fn sealed_by(self, cipher: Arc<dyn FieldCipher>) -> Self {
        Self { payload: SessionPayload::sealed_by(cipher), ..self }
    }

    /// Limits the live sessions of one user; without this there is no limit.
    #[must_use]
    pub fn with_limit(self, limit: SessionLimit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Sets the largest session in bytes of JSON, 64 KiB unless told otherwise.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    async fn run<T: FromRedisValue>(&self, build: impl FnOnce(&Link) -> Cmd) -> Result<T, SessionError> {
        Ok(self.client.call(build, None).await?)
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now().trunc_subsecs(6)
    }

    /// What Redis keeps of a session besides what it goes by.
    async fn close(&self, session: &Session) -> Result<[String; 2], SessionError> {
        let texts = texts(session)?;
        let (size, limit) = (texts[0].len() + texts[1].len(), self.max_bytes);
        if size > limit {
            return Err(SessionError::TooLarge { size, limit });
        }
        self.payload.close(session.id, texts).await
    }

    async fn open(
        &self,
        id: SessionId,
        fields: &HashMap<String, String>,
    ) -> Result<Option<Kept>, SessionError> {
        let texts = [text(fields, "document")?, text(fields, "data")?];
        let Some(session) = self.payload.open(id, texts).await? else { return Ok(None) };
        Kept::read(session, fields).map(Some)
    }

    /// The session of that id, with its secret's hash, if it is live.
    async fn live(&self, id: SessionId) -> Result<Option<Kept>, SessionError> {
        let fields: HashMap<String, String> = self.run(|link| command("HGETALL", session(link, id))).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let Some(kept) = self.open(id, &fields).await? else { return Ok(None) };
        let is_live = !kept.session.is_expired(self.now())
            && self.epochs.epoch(kept.session.user).await? == kept.session.epoch;
        Ok(is_live.then_some(kept))
    }

    /// The ids of the sessions that had to make room; `None` if the new one was refused.
    async fn insert(
        &self,
        session: &Session,
        hash: SessionSecretHash,
    ) -> Result<Option<Vec<SessionId>>, SessionError> {
        let [document, data] = self.close(session).await?;
        let max = self.limit.map_or(0, |limit| limit.max.get());
        let evicts = self.limit.is_some_and(|limit| limit.when_full == WhenFull::EvictOldest);
        let create = |link: &Link| {
            let mut create = eval(CREATE, &[self::session(link, session.id), neighbours(link, session.id)]);
            create.arg(session.id.to_string()).arg(micros(session.created_at));
            create.arg(session.user.to_string()).arg(session.epoch.0);
            create.arg(max).arg(i32::from(evicts)).arg(hex::encode(hash.0));
            create.arg(micros(session.idle_expires_at)).arg(document).arg(data);
            create.arg(ttl(session.idle_expires_at - session.created_at));
            create.arg(ttl(session.expires_at - session.created_at));
            create
        };
        let Some(evicted) = self.run::<Option<Vec<String>>>(create).await? else { return Ok(None) };
        evicted.iter().map(|id| id.parse().map_err(corrupt)).collect::<Result<_, _>>().map(Some)
    }

    /// Puts a new session where it is counted and found. Had it been there before, it would be no less absent.
    async fn enlist(&self, session: &Session) -> Result<(), SessionError> {
        let list = |link: &Link| {
            let mut list = command("ZADD", all(link));
            list.arg(micros(session.idle_expires_at)).arg(session.id.to_string());
            list
        };
        self.run::<i64>(list).await?;
        let Some(idp_session) = &session.idp_session else { return Ok(()) };
        let index = |link: &Link| {
            let mut index = eval(KEEP_UNTIL, &[of_idp_session(link, idp_session)]);
            index.arg(session.id.to_string()).arg(ttl(session.expires_at - session.created_at));
            index
        };
        self.run(index).await
    }

    async fn delist(&self, ids: &[SessionId]) -> Result<(), SessionError> {
        if ids.is_empty() {
            return Ok(());
        }
        let remove = |link: &Link| {
            let mut remove = command("ZREM", all(link));
            ids.iter().for_each(|id| {
                remove.arg(id.to_string());
            });
            remove
        };
        self.run(remove).await
    }

    async fn remove(&self, id: SessionId) -> Result<bool, SessionError> {
        let delete = |link: &Link| {
            let mut delete = eval(DELETE, &[session(link, id), neighbours(link, id)]);
            delete.arg(id.to_string());
            delete
        };
        let removed: bool = self.run(delete).await?;
        self.delist(&[id]).await?;
        Ok(removed)
    }

    /// All sessions of the user that Redis still has.
    async fn kept_of(&self, user: UserId) -> Result<Vec<Kept>, SessionError> {
        let any = SessionId::for_user(user, uuid::Uuid::nil());
        let list = |link: &Link| {
            let mut list = eval(LIST, &[neighbours(link, any)]);
            list.arg(prefix(link, any)).arg(user.to_string());
            list
        };
        let rows: Vec<HashMap<String, String>> = self.run(list).await?;
        let mut kept = Vec::with_capacity(rows.len());
        for fields in &rows {
            kept.extend(self.open(text(fields, "id")?.parse().map_err(corrupt)?, fields).await?);
        }
        Ok(kept)
    }

    /// Looks at the sessions that should have ended if they were not touched; how many had.
    async fn sweep_over(&self, limit: u32) -> Result<u64, SessionError> {
        let now = micros(self.now());
        let mut swept = 0;
        while swept < u64::from(limit) {
            let due = |link: &Link| {
                let mut due = command("ZRANGEBYSCORE", all(link));
                due.arg("-inf").arg(now).arg("LIMIT").arg(0).arg(u64::from(limit) - swept);
                due
            };
            let due: Vec<String> = self.run(due).await?;
            if due.is_empty() {
                break;
            }
            for id in due {
                swept += u64::from(self.sweep_if_over(id.parse().map_err(corrupt)?, now).await?);
            }
        }
        Ok(swept)
    }

    async fn sweep_if_over(&self, id: SessionId, now: i64) -> Result<bool, SessionError> {
        let sweep = |link: &Link| {
            let mut sweep = eval(SWEEP_OVER, &[session(link, id), neighbours(link, id)]);
            sweep.arg(id.to_string()).arg(now);
            sweep
        };
        // The number of removed ones, and until when it lives if it does.
        let (removed, until): (u32, Option<i64>) = self.run(sweep).await?;
        let Some(until) = until else {
            self.delist(&[id]).await?;
            return Ok(removed > 0);
        };
        let postpone = |link: &Link| {
            let mut postpone = command("ZADD", all(link));
            postpone.arg("XX").arg(until).arg(id.to_string());
            postpone
        };
        self.run::<i64>(postpone).await?;
        Ok(false)
    }

    /// Removes sessions of users that were revoked since the last sweep; how many.
    async fn sweep_revoked(&self, limit: u64) -> Result<u64, SessionError> {
        let begun = self.now();
        let known: Option<i64> = self.run(|link| command("GET", swept_until(link))).await?;
        let known = known.and_then(DateTime::from_timestamp_micros).unwrap_or(DateTime::UNIX_EPOCH);
        let (mut since, mut after) = ((known - SWEPT_AGAIN).max(DateTime::UNIX_EPOCH), None);
        let mut swept = 0;
        loop {
            let page = self.epochs.raised_since(since, after, REVOCATIONS_PAGE).await?;
            for raised in &page {
                swept += self.sweep_older(raised.user, raised.epoch, limit - swept).await?;
                if swept >= limit {
                    return Ok(swept);
                }
            }
            let Some(last) = page.last().filter(|_| page.len() >= REVOCATIONS_PAGE as usize) else { break };
            (since, after) = (last.at, Some(last.user));
        }
        let remember = |link: &Link| {
            let mut remember = command("SET", swept_until(link));
            remember.arg(micros(begun)).arg("PX").arg(SWEPT_KEPT.num_milliseconds());
            remember
        };
        self.run::<()>(remember).await?;
        Ok(swept)
    }

    async fn sweep_older(&self, user: UserId, epoch: Epoch, limit: u64) -> Result<u64, SessionError> {
        let any = SessionId::for_user(user, uuid::Uuid::nil());
        let sweep = |link: &Link| {
            let mut sweep = eval(SWEEP_REVOKED, &[neighbours(link, any)]);
            sweep.arg(prefix(link, any)).arg(user.to_string()).arg(epoch.0).arg(limit);
            sweep
        };
        let removed: Vec<String> = self.run(sweep).await?;
        let removed: Vec<SessionId> =
            removed.iter().map(|id| id.parse().map_err(corrupt)).collect::<Result<_, _>>()?;
        self.delist(&removed).await?;
        Ok(removed.len() as u64)
    }
}

#[async_trait]
impl SessionStore for RedisSessionStore {
    fn name(&self) -> &'static str {
        BACKEND
    }

    async fn create(&self, mut new: NewSession) -> Result<(SessionToken, Session), SessionError> {
        check_new_session(&new)?;
        for lifetime in [&mut new.lifetimes.idle, &mut new.lifetimes.absolute] {
            *lifetime = Duration::from_micros(u64::try_from(lifetime.as_micros()).unwrap_or(u64::MAX));
        }
        let token = SessionToken::generate(SessionId::for_user(new.user, self.random.uuid_v7(&*self.clock)));
        // Should it rise meanwhile, the session is born revoked.
        let epoch = self.epochs.epoch(new.user).await?;
        let session = Session::begin(token.id(), new, epoch, self.now());
        let Some(evicted) = self.insert(&session, token.secret_hash()).await? else {
            return Err(SessionError::TooManySessions {
                limit: self.limit.map_or(0, |limit| limit.max.get()),
            });
        };
        self.enlist(&session).await?;
        self.delist(&evicted).await?;
        for id in evicted {
            self.epochs.announce(id).await?;
        }
        Ok((token, session))
    }

    async fn load(&self, token: &SessionToken) -> Result<Option<Session>, SessionError> {
        let live = self.live(token.id()).await?;
        Ok(live.filter(|kept| kept.hash == token.secret_hash()).map(|kept| kept.session))
    }

    async fn find(&self, id: SessionId) -> Result<Option<Session>, SessionError> {
        Ok(self.live(id).await?.map(|kept| kept.session))
    }

    async fn touch(&self, id: SessionId) -> Result<bool, SessionError> {
        let now = self.now();
        let Some(Kept { session: mut touched, .. }) = self.live(id).await? else { return Ok(false) };
        touched.touch(now);
        let touch = |link: &Link| {
            let mut touch = eval(TOUCH, &[session(link, id)]);
            touch.arg(micros(now)).arg(touched.epoch.0).arg(micros(touched.idle_expires_at));
            touch.arg(ttl(touched.idle_expires_at - now));
            touch
        };
        self.run(touch).await
    }

    async fn save(&self, session: &Session) -> Result<SaveOutcome, SessionError> {
        check_data(&session.data)?;
        let [_, data] = self.close(session).await?;
        let Some(Kept { session: live, .. }) = self.live(session.id).await? else {
            return Ok(SaveOutcome::Gone);
        };
        let save = |link: &Link| {
            let mut save = eval(SAVE, &[self::session(link, session.id)]);
            save.arg(micros(self.now())).arg(live.epoch.0).arg(session.version).arg(data);
            save
        };
        Ok(match self.run::<i64>(save).await? {
            -1 => SaveOutcome::Gone,
            0 => SaveOutcome::Conflict,
            version => SaveOutcome::Saved { version },
        })
    }

    async fn rotate(&self, token: &SessionToken) -> Result<Option<SessionToken>, SessionError> {
        let hash = token.secret_hash();
        let Some(live) = self.live(token.id()).await?.filter(|kept| kept.hash == hash) else {
            return Ok(None);
        };
        let rotated = SessionToken::generate(token.id());
        let rotate = |link: &Link| {
            let mut rotate = eval(ROTATE, &[session(link, token.id())]);
            rotate.arg(micros(self.now())).arg(live.session.epoch.0);
            rotate.arg(hex::encode(hash.0)).arg(hex::encode(rotated.secret_hash().0));
            rotate
        };
        if !self.run::<bool>(rotate).await? {
            return Ok(None);
        }
        self.epochs.announce(token.id()).await?;
        Ok(Some(rotated))
    }

    async fn delete(&self, id: SessionId) -> Result<bool, SessionError> {
        let Some(Kept { session, .. }) = self.live(id).await? else {
            self.remove(id).await?;
            return Ok(false);
        };
        // Before as well: whoever dies after the removal has then told the others, who find nothing any more.
        self.epochs.announce(id).await?;
        let removed = self.remove(id).await?;
        self.epochs.announce(id).await?;
        if let Some(idp_session) = &session.idp_session {
            let remove = |link: &Link| {
                let mut remove = command("SREM", of_idp_session(link, idp_session));
                remove.arg(id.to_string());
                remove
            };
            self.run::<i64>(remove).await?;
        }
        Ok(removed)
    }

    async fn list(&self, user: UserId) -> Result<Vec<Session>, SessionError> {
        let kept = self.kept_of(user).await?;
        let (now, epoch) = (self.now(), self.epochs.epoch(user).await?);
        let sessions = kept.into_iter().map(|kept| kept.session);
        let mut live: Vec<Session> =
            sessions.filter(|session| !session.is_expired(now) && session.epoch == epoch).collect();
        live.sort_by_key(|session| std::cmp::Reverse((session.created_at, session.id)));
        Ok(live)
    }

    async fn count_of_user(&self, user: UserId) -> Result<u64, SessionError> {
        Ok(self.list(user).await?.len() as u64)
    }

    async fn count(&self) -> Result<u64, SessionError> {
        self.run(|link| command("ZCARD", all(link))).await
    }

    async fn revoke_user(&self, user: UserId) -> Result<Epoch, SessionError> {
        self.epochs.raise(user).await
    }

    async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError> {
        self.epochs.epoch(user).await
    }

    async fn find_by_idp_session(&self, provider: &str, id: &str) -> Result<Vec<Session>, SessionError> {
        let wanted = IdpSession { provider: provider.into(), id: id.into() };
        let ids: Vec<String> = self.run(|link| command("SMEMBERS", of_idp_session(link, &wanted))).await?;
        let mut found = Vec::new();
        for id in ids {
            found.extend(self.find(id.parse().map_err(corrupt)?).await?);
        }
        Ok(found)
    }

    async fn sweep(&self, limit: u32) -> Result<u64, SessionError> {
        let over = self.sweep_over(limit).await?;
        match u64::from(limit).saturating_sub(over) {
            0 => Ok(over),
            left => Ok(over + self.sweep_revoked(left).await?),
        }
    }
}

/// A session as Redis has it.
struct Kept {
    session: Session,
    hash: SessionSecretHash,
}

impl Kept {
    fn read(mut session: Session, fields: &HashMap<String, String>) -> Result<Self, SessionError> {
        let number = |name: &str| text(fields, name)?.parse::<i64>().map_err(corrupt);
        let time = |name: &str| {
            let time = DateTime::from_timestamp_micros(number(name)?);
            time.ok_or_else(|| corrupt(format!("field `{name}` is no time")))
        };
        session.version = number("version")?;
        session.last_seen_at = time("seen")?;
        session.idle_expires_at = time("until")?;
        let mut hash = [0; 32];
        hex::decode_to_slice(text(fields, "hash")?, &mut hash).map_err(corrupt)?;
        Ok(Self { session, hash: SessionSecretHash(hash) })
    }
}

fn text<'a>(fields: &'a HashMap<String, String>, name: &str) -> Result<&'a str, SessionError> {
    fields.get(name).map(String::as_str).ok_or_else(|| corrupt(format!("field `{name}` is missing")))
}

/// The parts that never change, and the application's data.
fn texts(session: &Session) -> Result<[String; 2], SessionError> {
    let mut fixed = session.clone();
    fixed.data = serde_json::Value::Null;
    let document = serde_json::to_string(&fixed).map_err(corrupt)?;
    Ok([document, serde_json::to_string(&session.data).map_err(corrupt)?])
}

fn corrupt(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SessionError {
    SessionError::Backend(BackendError::never(BACKEND, error))
}

/// What stands before the id in the name of a session. What the ids of one user share is in braces, so that a cluster has
/// it all on one node.
fn prefix(link: &Link, id: SessionId) -> String {
    link.name('s', &format!("{{{}}}:", id.shard()))
}

fn session(link: &Link, id: SessionId) -> String {
    format!("{}{id}", prefix(link, id))
}

/// The ids of the sessions in the same slot, by the time when they began: those of a user, hardly ever of two.
fn neighbours(link: &Link, id: SessionId) -> String {
    link.name('u', &format!("{{{}}}", id.shard()))
}

/// The ids of all sessions, by the time when they end if they are not touched.
fn all(link: &Link) -> String {
    link.name('s', "all")
}

fn swept_until(link: &Link) -> String {
    link.name('s', "swept")
}

fn of_idp_session(link: &Link, idp_session: &IdpSession) -> String {
    let provider = Sha256::digest(&idp_session.provider);
    let digest = Sha256::new().chain_update(provider).chain_update(&idp_session.id).finalize();
    link.name('i', &hex::encode(digest))
}

fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

fn ttl(lifetime: TimeDelta) -> i64 {
    (lifetime.clamp(TimeDelta::zero(), MAX_TTL) + KEPT_LONGER).num_milliseconds()
}
