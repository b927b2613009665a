//! The users, as the server's administration and the sign-in store both see them.

use chrono::{DateTime, Utc};
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::UserId;
use pganalytics_core::keys::Sealed;
use pganalytics_core::users::{
    ExternalIdentity, LocalCredential, NewUser, PasswordHash, ProvisionedUser, Role, User, Username,
};
use sqlx::{Connection, FromRow, PgConnection};
use uuid::Uuid;

use super::error::StoreError;
use super::page::{Page, rows_before};
use super::sealing::{ColumnSealer, NewValue, StoredValue, UserPassword};
use super::text;

/// What an administrator may change.
#[derive(Clone, Debug)]
pub struct UserChanges<'a> {
    /// The mail address.
    pub email: Option<&'a str>,
    /// The name for people.
    pub full_name: Option<&'a str>,
    /// What the user may do.
    pub role: Role,
    /// Whether the user may sign in.
    pub is_active: bool,
}

/// A user to be made, whose password is sealed already.
#[derive(Debug)]
pub struct SealedUser<'a> {
    new: &'a NewUser,
    password: Option<NewValue<UserPassword>>,
}

/// User and password as they lie in the database.
#[derive(Debug)]
pub struct StoredCredential {
    /// The user.
    pub user: User,
    /// The hash of the password.
    pub password: StoredValue<UserPassword>,
}

impl<'a> SealedUser<'a> {
    /// Seals the password of a new user. To be done before the transaction begins, since it may ask a key service.
    ///
    /// # Errors
    /// When the hash contains U+0000, or the key cannot be had.
    pub async fn seal(sealer: &ColumnSealer, new: &'a NewUser) -> Result<Self, StoreError> {
        let password = match &new.password_hash {
            Some(hash) => Some(seal_password(sealer, new.id, hash).await?),
            None => None,
        };
        Ok(Self { new, password })
    }
}

/// Seals the password of a user.
///
/// # Errors
/// When the hash contains U+0000, or the key cannot be had.
pub async fn seal_password(
    sealer: &ColumnSealer,
    id: UserId,
    hash: &PasswordHash,
) -> Result<NewValue<UserPassword>, StoreError> {
    text::check([("password_hash", Some(hash.expose()))])?;
    sealer.seal(id.0, hash).await
}

impl StoredCredential {
    /// Opens the hash of the password.
    ///
    /// # Errors
    /// When it does not open, or the key cannot be had.
    pub async fn open(self, sealer: &ColumnSealer) -> Result<LocalCredential, StoreError> {
        let hash = sealer.open(&self.password).await?;
        Ok(LocalCredential::new(self.user, hash))
    }
}

#[derive(FromRow)]
struct UserRow {
    id: Uuid,
    number: i64,
    username: String,
    email: Option<String>,
    full_name: Option<String>,
    role: String,
    is_active: bool,
    password_changed: bool,
    is_protected: bool,
    last_sign_in_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i64,
}

#[derive(FromRow)]
struct CredentialRow {
    #[sqlx(flatten)]
    user: UserRow,
    password_hash_sealed: Option<Vec<u8>>,
}

macro_rules! columns {
    () => {
        "id, number, username, email, full_name, role, is_active, password_changed, is_protected, \
         last_sign_in_at, created_at, updated_at, version"
    };
}

/// Adds a user, within a transaction.
///
/// # Errors
/// [`StoreError::Conflict`] when the id, the username or the mail address is taken; when a text contains U+0000, or
/// PostgreSQL cannot answer.
pub async fn create(
    connection: &mut PgConnection,
    user: &SealedUser<'_>,
    now: DateTime<Utc>,
) -> Result<User, StoreError> {
    let SealedUser { new, password } = user;
    text::check([
        ("username", Some(new.username.as_str())),
        ("email", new.email.as_deref()),
        ("full_name", new.full_name.as_deref()),
    ])?;
    let number = sqlx::query_scalar(
        "INSERT INTO users (id, username, username_key, email, email_key, full_name, role, password_hash_sealed, \
             password_changed, is_protected, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11) RETURNING number",
    )
    .bind(new.id.0)
    .bind(new.username.as_str())
    .bind(new.username.folded())
    .bind(&new.email)
    .bind(new.email.as_deref().map(fold_email))
    .bind(&new.full_name)
    .bind(new.role.as_str())
    .bind(password.as_ref().map(NewValue::sealed))
    .bind(new.password_changed)
    .bind(new.is_protected)
    .bind(now)
    .fetch_one(&mut *connection)
    .await?;
    if let Some(password) = password {
        password.write_plain(connection).await?;
    }
    Ok(User::created(new, number, now))
}

/// Adds the first user; `None` when there is one already. Of concurrent calls one adds it.
///
/// # Errors
/// When a text contains U+0000, or PostgreSQL cannot answer.
pub async fn create_first(
    connection: &mut PgConnection,
    new: &SealedUser<'_>,
    now: DateTime<Utc>,
) -> Result<Option<User>, StoreError> {
    // Held until the transaction ends, so that the count is true until then. The number means nothing.
    sqlx::query("SELECT pg_advisory_xact_lock(7411385902661)").execute(&mut *connection).await?;
    if count(connection).await? > 0 {
        return Ok(None);
    }
    create(connection, new, now).await.map(Some)
}

/// A user by id.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find(connection: &mut PgConnection, id: UserId) -> Result<Option<User>, StoreError> {
    let found = sqlx::query_as(concat!("SELECT ", columns!(), " FROM users WHERE id = $1"));
    optional(found.bind(id.0).fetch_optional(connection).await?)
}

/// A user by the number that the older API calls an id.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find_by_number(connection: &mut PgConnection, number: i64) -> Result<Option<User>, StoreError> {
    let found = sqlx::query_as(concat!("SELECT ", columns!(), " FROM users WHERE number = $1"));
    optional(found.bind(number).fetch_optional(connection).await?)
}

/// A user by name, in whatever case.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find_by_name(
    connection: &mut PgConnection,
    username: &Username,
) -> Result<Option<User>, StoreError> {
    let found = sqlx::query_as(concat!("SELECT ", columns!(), " FROM users WHERE username_key = $1"));
    optional(found.bind(username.folded()).fetch_optional(connection).await?)
}

/// A user by an identity that is linked to it.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn find_by_identity(
    connection: &mut PgConnection,
    identity: &ExternalIdentity,
) -> Result<Option<User>, StoreError> {
    check_identity(identity)?;
    let found = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM users WHERE id = \
            (SELECT user_id FROM external_identities WHERE provider = $1 AND subject = $2)"
    ));
    optional(found.bind(&identity.provider).bind(&identity.subject).fetch_optional(connection).await?)
}

/// User and password by name, in whatever case.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn credential(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    username: &Username,
) -> Result<Option<StoredCredential>, StoreError> {
    let found: Option<CredentialRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", password_hash_sealed FROM users WHERE username_key = $1"
    ))
    .bind(username.folded())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let mut password = StoredValue::new(row.user.id, row.password_hash_sealed);
    sealer.complete(connection, &mut [&mut password]).await?;
    Ok(Some(StoredCredential { user: row.user.try_into()?, password }))
}

/// The password of a user; `None` if there is no such user.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn password(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    id: UserId,
) -> Result<Option<StoredValue<UserPassword>>, StoreError> {
    let found: Option<(Option<Vec<u8>>,)> =
        sqlx::query_as("SELECT password_hash_sealed FROM users WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&mut *connection)
            .await?;
    let Some((sealed,)) = found else { return Ok(None) };
    let mut password = StoredValue::new(id.0, sealed);
    sealer.complete(connection, &mut [&mut password]).await?;
    Ok(Some(password))
}

/// The users, oldest first, from the one after number `after`.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn list(
    connection: &mut PgConnection,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<User>, StoreError> {
    let rows: Vec<UserRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM users WHERE number > $1 ORDER BY number LIMIT $2"
    ))
    .bind(after.unwrap_or(0))
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(User::try_from).collect()
}

/// Page `number`, from 1, of the users, oldest first.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn page(connection: &mut PgConnection, number: u32, size: u32) -> Result<Page<User>, StoreError> {
    let total = count(connection).await?;
    // Only the index is read for the rows before the page.
    let rows: Vec<UserRow> = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM users WHERE number IN (SELECT number FROM users ORDER BY number LIMIT $1 OFFSET $2) \
          ORDER BY number"
    ))
    .bind(i64::from(size))
    .bind(rows_before(number, size))
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(User::try_from).collect::<Result<_, _>>()?;
    Ok(Page { rows, total })
}

/// How many users there are.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn count(connection: &mut PgConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(connection).await?)
}

/// Changes a user of whom the caller has seen this version. `None` when the user is gone or was changed since.
///
/// # Errors
/// [`StoreError::Conflict`] when the mail address is taken; when a text contains U+0000, or PostgreSQL cannot
/// answer.
pub async fn update(
    connection: &mut PgConnection,
    id: UserId,
    version: i64,
    changes: &UserChanges<'_>,
    now: DateTime<Utc>,
) -> Result<Option<User>, StoreError> {
    text::check([("email", changes.email), ("full_name", changes.full_name)])?;
    let updated = sqlx::query_as(concat!(
        "UPDATE users SET email = $3, email_key = $4, full_name = $5, role = $6, is_active = $7, \
             version = version + 1, updated_at = $8 \
         WHERE id = $1 AND version = $2 RETURNING ",
        columns!()
    ))
    .bind(id.0)
    .bind(version)
    .bind(changes.email)
    .bind(changes.email.map(fold_email))
    .bind(changes.full_name)
    .bind(changes.role.as_str())
    .bind(changes.is_active)
    .bind(now)
    .fetch_optional(connection)
    .await?;
    optional(updated)
}

/// Deletes a user and what only makes sense with one (identities, API tokens), and returns the user as it was.
/// `None` when there is no such user, or the user is protected. The caller ends the sessions.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn delete(connection: &mut PgConnection, id: UserId) -> Result<Option<User>, StoreError> {
    let deleted = sqlx::query_as(concat!(
        "DELETE FROM users WHERE id = $1 AND NOT is_protected RETURNING ",
        columns!()
    ));
    optional(deleted.bind(id.0).fetch_optional(connection).await?)
}

/// Whether an active administrator besides this user exists, which stays true until the transaction ends: of
/// concurrent calls, the later ones wait for it. To be asked before an administrator's rights are taken.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn is_another_admin_active(connection: &mut PgConnection, id: UserId) -> Result<bool, StoreError> {
    // The number means nothing.
    sqlx::query("SELECT pg_advisory_xact_lock(7411385902662)").execute(&mut *connection).await?;
    let others = "SELECT EXISTS (SELECT FROM users WHERE role = 'admin' AND is_active AND id <> $1)";
    Ok(sqlx::query_scalar(others).bind(id.0).fetch_one(connection).await?)
}

/// Gives a user another password, whatever the one before, within a transaction; `false` if there is no such user.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn set_password(
    connection: &mut PgConnection,
    password: &NewValue<UserPassword>,
    chosen_by_user: bool,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let set = sqlx::query(
        "UPDATE users SET password_hash_sealed = $2, password_changed = $3, version = version + 1, updated_at = $4 \
         WHERE id = $1",
    )
    .bind(password.row())
    .bind(password.sealed())
    .bind(chosen_by_user)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    password.write_plain(connection).await?;
    Ok(set.rows_affected() == 1)
}

/// Replaces the hash of the same password, within a transaction, if the stored one is still `expected`; `false` if it is not. One
/// that is not sealed yet is left alone: a server of before may be changing it.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn replace_password(
    connection: &mut PgConnection,
    expected: &StoredValue<UserPassword>,
    new: &NewValue<UserPassword>,
) -> Result<bool, StoreError> {
    let replaced =
        sqlx::query("UPDATE users SET password_hash_sealed = $3 WHERE id = $1 AND password_hash_sealed = $2")
            .bind(new.row())
            .bind(expected.sealed().map(Sealed::as_bytes))
            .bind(new.sealed())
            .execute(&mut *connection)
            .await?;
    if replaced.rows_affected() == 0 {
        return Ok(false);
    }
    new.write_plain(connection).await?;
    Ok(true)
}

/// Records a successful sign-in, never backwards.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn record_sign_in(
    connection: &mut PgConnection,
    id: UserId,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE users SET last_sign_in_at = greatest(last_sign_in_at, $2) WHERE id = $1")
        .bind(id.0)
        .bind(at)
        .execute(connection)
        .await?;
    Ok(())
}

/// The user that is linked to the identity, made if there is none.
///
/// # Errors
/// [`StoreError::Conflict`] when the name or the mail address of the new user is taken: nobody is linked to an
/// existing user because the names are alike. When a text contains U+0000, or PostgreSQL cannot answer.
pub async fn provision(
    connection: &mut PgConnection,
    identity: &ExternalIdentity,
    user: &SealedUser<'_>,
    now: DateTime<Utc>,
) -> Result<ProvisionedUser, StoreError> {
    if let Some(known) = find_by_identity(connection, identity).await? {
        return Ok(ProvisionedUser::Known(known));
    }
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql("SET CONSTRAINTS external_identities_user_id_fkey DEFERRED")
        .execute(&mut *transaction)
        .await?;
    // Claiming the identity first lets concurrent calls wait here for the one that creates, instead of failing
    // on its user's name.
    let claimed = insert_identity(&mut transaction, user.new.id, identity, now).await?;
    let provisioned = if claimed {
        ProvisionedUser::Created(create(&mut transaction, user, now).await?)
    } else {
        let known = find_by_identity(&mut transaction, identity).await?;
        ProvisionedUser::Known(known.ok_or_else(|| corrupt("an identity without its user"))?)
    };
    // Checks what was deferred, also where an outer transaction goes on.
    sqlx::raw_sql("SET CONSTRAINTS external_identities_user_id_fkey IMMEDIATE")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(provisioned)
}

/// Links an identity to an existing user.
///
/// # Errors
/// [`StoreError::Conflict`] when it is linked to another user, [`StoreError::MissingReference`] when there is no
/// such user; when a text contains U+0000, or PostgreSQL cannot answer.
pub async fn link(
    connection: &mut PgConnection,
    id: UserId,
    identity: &ExternalIdentity,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if insert_identity(connection, id, identity, now).await? {
        return Ok(());
    }
    match find_by_identity(connection, identity).await? {
        Some(user) if user.id == id => Ok(()),
        _ => Err(StoreError::Conflict { what: "identity" }),
    }
}

/// Sets the role; `false` if there is no such user.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn set_role(
    connection: &mut PgConnection,
    id: UserId,
    role: Role,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let set = sqlx::query(
        "UPDATE users SET role = $2, version = version + (role <> $2)::int, \
             updated_at = CASE WHEN role <> $2 THEN $3 ELSE updated_at END \
         WHERE id = $1",
    )
    .bind(id.0)
    .bind(role.as_str())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(set.rows_affected() == 1)
}

/// Activates or deactivates; `false` if there is no such user.
///
/// # Errors
/// When PostgreSQL cannot answer.
pub async fn set_active(
    connection: &mut PgConnection,
    id: UserId,
    active: bool,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let set = sqlx::query(
        "UPDATE users SET is_active = $2, version = version + (is_active <> $2)::int, \
             updated_at = CASE WHEN is_active <> $2 THEN $3 ELSE updated_at END \
         WHERE id = $1",
    )
    .bind(id.0)
    .bind(active)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(set.rows_affected() == 1)
}

impl TryFrom<UserRow> for User {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self, Self::Error> {
        let username: Username = row.username.parse().map_err(corrupt)?;
        let role: Role = row.role.parse().map_err(corrupt)?;
        let new = NewUser::new(UserId(row.id), username, role).with_contact(row.email, row.full_name);
        let mut user = User::created(&new, row.number, row.created_at);
        user.is_active = row.is_active;
        user.password_changed = row.password_changed;
        user.is_protected = row.is_protected;
        user.last_sign_in_at = row.last_sign_in_at;
        user.updated_at = row.updated_at;
        user.version = row.version;
        Ok(user)
    }
}

/// `false` when the identity is linked already.
async fn insert_identity(
    connection: &mut PgConnection,
    id: UserId,
    identity: &ExternalIdentity,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    check_identity(identity)?;
    let inserted = sqlx::query(
        "INSERT INTO external_identities (provider, subject, user_id, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (provider, subject) DO NOTHING",
    )
    .bind(&identity.provider)
    .bind(&identity.subject)
    .bind(id.0)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

fn check_identity(identity: &ExternalIdentity) -> Result<(), StoreError> {
    text::check([
        ("provider", Some(identity.provider.as_str())),
        ("subject", Some(identity.subject.as_str())),
    ])
}

fn fold_email(email: &str) -> String {
    email.to_lowercase()
}

fn optional(row: Option<UserRow>) -> Result<Option<User>, StoreError> {
    row.map(User::try_from).transpose()
}

fn corrupt(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    BackendError::never("postgres", source).into()
}
