use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::UserId;
use pganalytics_core::random::{Random, RandomExt};
use pganalytics_core::session::{
    Epoch, IdpSession, NewSession, SaveOutcome, Session, SessionError, SessionId, SessionLifetimes,
    SessionLimit, SessionSecretHash, SessionStore, SessionToken, WhenFull, check_data, check_new_session,
};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::database::Database;
use super::error::StoreError;
use super::session_epochs;

/// Sessions in the table `sessions`, and each user's epoch in `user_session_epochs`.
///
/// An acknowledged write is on disk: a crash of PostgreSQL loses no session and brings none back. A session's idle
/// limit is kept in whole milliseconds.
#[derive(Clone, Debug)]
pub struct PostgresSessionStore {
    database: Database,
    limit: Option<SessionLimit>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// Which sessions of a user end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedSessions {
    /// This one.
    One(SessionId),
    /// All but this one.
    AllBut(SessionId),
    /// All.
    All,
}

impl EndedSessions {
    /// Whether that session is one of them.
    pub fn covers(&self, session: SessionId) -> bool {
        match self {
            Self::One(id) => *id == session,
            Self::AllBut(id) => *id != session,
            Self::All => true,
        }
    }
}

/// Whether `$2`, the time, finds the session `s` alive.
macro_rules! is_live {
    () => {
        "(s.idle_expires_at > $2 AND s.epoch = coalesce( \
            (SELECT e.epoch FROM user_session_epochs AS e WHERE e.user_id = s.user_id), 0))"
    };
}

macro_rules! columns {
    () => {
        "s.id, s.secret_hash, s.user_id, s.epoch, s.version, s.provider, s.idp_provider, s.idp_session_id, \
            s.address, s.user_agent, s.data, s.created_at, s.last_seen_at, s.idle_ms, s.idle_expires_at, \
            s.expires_at"
    };
}

macro_rules! select_live {
    ($where:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM sessions AS s WHERE ",
            $where,
            " AND ",
            is_live!(),
            " ORDER BY s.created_at DESC, s.id DESC"
        )
    };
}

impl PostgresSessionStore {
    /// On a migrated database.
    pub fn new(database: Database, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { database, limit: None, clock, random }
    }

    /// Limits the live sessions of one user; without this there is no limit.
    #[must_use]
    pub fn with_limit(self, limit: SessionLimit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Ends live sessions of a user with the commit of the caller's transaction, and yields them.
    ///
    /// # Errors
    /// When PostgreSQL cannot answer.
    pub async fn end(
        connection: &mut PgConnection,
        user: UserId,
        which: EndedSessions,
        now: DateTime<Utc>,
    ) -> Result<Vec<Session>, StoreError> {
        let (one, kept) = match which {
            EndedSessions::One(id) => (Some(id.to_string()), None),
            EndedSessions::AllBut(id) => (None, Some(id.to_string())),
            EndedSessions::All => (None, None),
        };
        let rows: Vec<SessionRow> = sqlx::query_as(concat!(
            "DELETE FROM sessions AS s WHERE s.user_id = $1 AND ($3::text IS NULL OR s.id = $3) \
                AND ($4::text IS NULL OR s.id <> $4) AND ",
            is_live!(),
            " RETURNING ",
            columns!()
        ))
        .bind(user.0)
        .bind(now)
        .bind(one)
        .bind(kept)
        .fetch_all(connection)
        .await?;
        sessions(rows)
    }

    async fn find_live(&self, id: SessionId) -> Result<Option<SessionRow>, StoreError> {
        Ok(sqlx::query_as(select_live!("s.id = $1"))
            .bind(id.to_string())
            .bind(self.clock.now())
            .fetch_optional(&mut *self.database.read().await?)
            .await?)
    }

    async fn insert(&self, session: &Session, hash: SessionSecretHash) -> Result<Option<Epoch>, StoreError> {
        let Some(limit) = self.limit else {
            let mut connection = self.database.write().await?;
            let epoch = insert(&mut connection, session, hash, i64::MAX).await?;
            connection.commit().await?;
            return Ok(epoch);
        };
        // Or two sign-ins at once would both find room for one.
        let mut transaction = self.database.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('pganalytics session ' || $1, 0))")
            .bind(session.user.to_string())
            .execute(&mut *transaction)
            .await?;
        if limit.when_full == WhenFull::EvictOldest {
            evict(&mut transaction, session, limit).await?;
        }
        let epoch = insert(&mut transaction, session, hash, limit.max.get().into()).await?;
        transaction.commit().await?;
        Ok(epoch)
    }

    async fn save_data(&self, session: &Session) -> Result<SaveOutcome, StoreError> {
        let mut connection = self.database.write().await?;
        let (live, saved): (bool, Option<i64>) = sqlx::query_as(concat!(
            "WITH live AS (SELECT s.id, s.version FROM sessions AS s WHERE s.id = $1 AND ",
            is_live!(),
            " FOR UPDATE), \
             saved AS (UPDATE sessions AS s SET data = $4, version = s.version + 1 FROM live \
                WHERE s.id = live.id AND live.version = $3 RETURNING s.version) \
             SELECT EXISTS (SELECT FROM live), (SELECT version FROM saved)"
        ))
        .bind(session.id.to_string())
        .bind(self.clock.now())
        .bind(session.version)
        .bind(json(&session.data))
        .fetch_one(&mut *connection)
        .await?;
        connection.commit().await?;
        Ok(match (live, saved) {
            (_, Some(version)) => SaveOutcome::Saved { version },
            (true, None) => SaveOutcome::Conflict,
            (false, None) => SaveOutcome::Gone,
        })
    }

    /// Runs a statement about one session that is live, which binds its id and the time.
    async fn change(
        &self,
        id: SessionId,
        statement: &'static str,
        hashes: &[SessionSecretHash],
    ) -> Result<bool, StoreError> {
        let mut connection = self.database.write().await?;
        let mut query = sqlx::query(statement).bind(id.to_string()).bind(self.clock.now());
        for hash in hashes {
            query = query.bind(hash.0);
        }
        let changed = query.execute(&mut *connection).await?;
        connection.commit().await?;
        Ok(changed.rows_affected() == 1)
    }
}

#[async_trait]
impl SessionStore for PostgresSessionStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn create(&self, mut new: NewSession) -> Result<(SessionToken, Session), SessionError> {
        check_new_session(&new)?;
        new.lifetimes.idle = whole_millis(new.lifetimes.idle);
        let token = SessionToken::generate(SessionId::for_user(new.user, self.random.uuid_v7(&*self.clock)));
        let mut session = Session::begin(token.id(), new, Epoch::default(), self.clock.now());
        for end in [&mut session.idle_expires_at, &mut session.expires_at] {
            *end = whole_micros(*end);
        }
        match self.insert(&session, token.secret_hash()).await? {
            Some(epoch) => {
                session.epoch = epoch;
                Ok((token, session))
            }
            None => {
                Err(SessionError::TooManySessions { limit: self.limit.map_or(0, |limit| limit.max.get()) })
            }
        }
    }

    async fn load(&self, token: &SessionToken) -> Result<Option<Session>, SessionError> {
        let row = self.find_live(token.id()).await?;
        let row = row.filter(|row| row.has(token.secret_hash()));
        Ok(row.map(Session::try_from).transpose()?)
    }

    async fn find(&self, id: SessionId) -> Result<Option<Session>, SessionError> {
        Ok(self.find_live(id).await?.map(Session::try_from).transpose()?)
    }

    async fn touch(&self, id: SessionId) -> Result<bool, SessionError> {
        let statement = concat!(
            "UPDATE sessions AS s SET last_seen_at = greatest(s.last_seen_at, $2), idle_expires_at = \
                least(greatest(s.last_seen_at, $2) + s.idle_ms * interval '1 millisecond', s.expires_at) \
             WHERE s.id = $1 AND ",
            is_live!()
        );
        Ok(self.change(id, statement, &[]).await?)
    }

    async fn save(&self, session: &Session) -> Result<SaveOutcome, SessionError> {
        check_data(&session.data)?;
        Ok(self.save_data(session).await?)
    }

    async fn rotate(&self, token: &SessionToken) -> Result<Option<SessionToken>, SessionError> {
        let rotated = SessionToken::generate(token.id());
        let statement = concat!(
            "UPDATE sessions AS s SET secret_hash = $4 WHERE s.id = $1 AND s.secret_hash = $3 AND ",
            is_live!()
        );
        let changed =
            self.change(token.id(), statement, &[token.secret_hash(), rotated.secret_hash()]).await?;
        Ok(changed.then_some(rotated))
    }

    async fn delete(&self, id: SessionId) -> Result<bool, SessionError> {
        let statement = concat!("DELETE FROM sessions AS s WHERE s.id = $1 AND ", is_live!());
        Ok(self.change(id, statement, &[]).await?)
    }

    async fn list(&self, user: UserId) -> Result<Vec<Session>, SessionError> {
        let rows: Vec<SessionRow> = sqlx::query_as(select_live!("s.user_id = $1"))
            .bind(user.0)
            .bind(self.clock.now())
            .fetch_all(&mut *self.database.read().await?)
            .await
            .map_err(StoreError::from)?;
        Ok(sessions(rows)?)
    }

    async fn count_of_user(&self, user: UserId) -> Result<u64, SessionError> {
        let count: i64 = sqlx::query_scalar(concat!(
            "SELECT count(*) FROM sessions AS s WHERE s.user_id = $1 AND ",
            is_live!()
        ))
        .bind(user.0)
        .bind(self.clock.now())
        .fetch_one(&mut *self.database.read().await?)
        .await
        .map_err(StoreError::from)?;
        Ok(count.unsigned_abs())
    }

    async fn count(&self) -> Result<u64, SessionError> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM sessions")
            .fetch_one(&mut *self.database.read().await?)
            .await
            .map_err(StoreError::from)?;
        Ok(count.unsigned_abs())
    }

    async fn revoke_user(&self, user: UserId) -> Result<Epoch, SessionError> {
        let mut connection = self.database.write().await?;
        let epoch = session_epochs::raise(&mut connection, user, self.clock.now()).await?;
        connection.commit().await?;
        Ok(epoch)
    }

    async fn epoch(&self, user: UserId) -> Result<Epoch, SessionError> {
        Ok(session_epochs::find(&mut *self.database.read().await?, user).await?)
    }

    async fn find_by_idp_session(&self, provider: &str, id: &str) -> Result<Vec<Session>, SessionError> {
        if provider.contains('\0') || id.contains('\0') {
            return Ok(Vec::new());
        }
        let rows: Vec<SessionRow> =
            sqlx::query_as(select_live!("s.idp_provider = $1 AND s.idp_session_id = $3"))
                .bind(provider)
                .bind(self.clock.now())
                .bind(id)
                .fetch_all(&mut *self.database.read().await?)
                .await
                .map_err(StoreError::from)?;
        Ok(sessions(rows)?)
    }

    async fn sweep(&self, limit: u32) -> Result<u64, SessionError> {
        let mut connection = self.database.write().await?;
        let swept = sqlx::query(concat!(
            "WITH over AS ( \
                (SELECT id FROM sessions WHERE idle_expires_at <= $2 LIMIT $1) \
                UNION \
                (SELECT s.id FROM user_session_epochs AS e JOIN sessions AS s USING (user_id) \
                 WHERE s.epoch <> e.epoch LIMIT $1) \
                LIMIT $1) \
             DELETE FROM sessions AS s USING over WHERE s.id = over.id AND NOT ",
            is_live!()
        ))
        .bind(i64::from(limit))
        .bind(self.clock.now())
        .execute(&mut *connection)
        .await
        .map_err(StoreError::from)?;
        connection.commit().await?;
        Ok(swept.rows_affected())
    }
}

impl From<StoreError> for SessionError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::InvalidText { field } => Self::InvalidText { field },
            other => Self::Backend(other.into_backend()),
        }
    }
}

/// Ends the sessions that began first, so that there is room for one more.
async fn evict(connection: &mut PgConnection, new: &Session, limit: SessionLimit) -> Result<(), StoreError> {
    let surplus = concat!(
        "DELETE FROM sessions WHERE id IN (SELECT s.id FROM sessions AS s WHERE s.user_id = $1 AND ",
        is_live!(),
        " ORDER BY s.created_at DESC, s.id DESC OFFSET $3)"
    );
    sqlx::query(surplus)
        .bind(new.user.0)
        .bind(new.created_at)
        .bind(i64::from(limit.max.get()) - 1)
        .execute(connection)
        .await?;
    Ok(())
}

/// `None` when the user has as many live sessions as the limit allows.
async fn insert(
    connection: &mut PgConnection,
    session: &Session,
    hash: SessionSecretHash,
    limit: i64,
) -> Result<Option<Epoch>, StoreError> {
    let idp_session = session.idp_session.as_ref();
    let epoch: Option<i64> = sqlx::query_scalar(concat!(
        "INSERT INTO sessions (id, secret_hash, user_id, epoch, provider, idp_provider, idp_session_id, address, \
            user_agent, data, created_at, last_seen_at, idle_ms, idle_expires_at, expires_at) \
         SELECT $3, $4, $1, coalesce((SELECT epoch FROM user_session_epochs WHERE user_id = $1), 0), \
            $5, $6, $7, $8, $9, $10, $2, $2, $11, $12, $13 \
         WHERE $14 = 9223372036854775807 \
            OR (SELECT count(*) FROM sessions AS s WHERE s.user_id = $1 AND ",
        is_live!(),
        ") < $14 RETURNING epoch"
    ))
    .bind(session.user.0)
    .bind(session.created_at)
    .bind(session.id.to_string())
    .bind(hash.0)
    .bind(&session.provider)
    .bind(idp_session.map(|idp| &idp.provider))
    .bind(idp_session.map(|idp| &idp.id))
    .bind(session.address)
    .bind(&session.user_agent)
    .bind(json(&session.data))
    .bind(i64::try_from(session.idle.as_millis()).unwrap_or(i64::MAX))
    .bind(session.idle_expires_at)
    .bind(session.expires_at)
    .bind(limit)
    .fetch_optional(connection)
    .await?;
    Ok(epoch.map(Epoch))
}

#[derive(FromRow)]
struct SessionRow {
    id: String,
    secret_hash: Vec<u8>,
    user_id: Uuid,
    epoch: i64,
    version: i64,
    provider: String,
    idp_provider: Option<String>,
    idp_session_id: Option<String>,
    address: Option<IpAddr>,
    user_agent: Option<String>,
    data: Vec<u8>,
    created_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    idle_ms: i64,
    idle_expires_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

impl SessionRow {
    fn has(&self, hash: SessionSecretHash) -> bool {
        <[u8; 32]>::try_from(&*self.secret_hash).is_ok_and(|kept| SessionSecretHash(kept) == hash)
    }
}

impl TryFrom<SessionRow> for Session {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        let id: SessionId = row.id.parse().map_err(|error| BackendError::never("postgres", error))?;
        let data =
            serde_json::from_slice(&row.data).map_err(|error| BackendError::never("postgres", error))?;
        let idle = Duration::from_millis(row.idle_ms.unsigned_abs());
        let new = NewSession::new(UserId(row.user_id), SessionLifetimes::new(idle, idle), row.provider)
            .with_client(row.address, row.user_agent)
            .with_data(data);
        let mut session = Self::begin(id, new, Epoch(row.epoch), row.created_at);
        session.idp_session =
            row.idp_provider.zip(row.idp_session_id).map(|(provider, id)| IdpSession { provider, id });
        session.version = row.version;
        session.last_seen_at = row.last_seen_at;
        session.idle_expires_at = row.idle_expires_at;
        session.expires_at = row.expires_at;
        Ok(session)
    }
}

fn sessions(rows: Vec<SessionRow>) -> Result<Vec<Session>, StoreError> {
    rows.into_iter().map(Session::try_from).collect()
}

fn json(data: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(data).expect("a JSON value can be written")
}

fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// What a `timestamptz` keeps.
fn whole_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    chrono::SubsecRound::trunc_subsecs(time, 6)
}
