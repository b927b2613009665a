use clap::Subcommand;
use pganalytics_auth::local::PasswordPolicy;
use pganalytics_core::audit::{Action, AuditEvent, Change, Resource};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::{EventId, UserId};
use pganalytics_core::random::OsRandom;
use pganalytics_core::secret::SecretString;
use pganalytics_core::users::{NewUser, Role, User, Username};
use pganalytics_store::postgres::users::{self, SealedUser};
use pganalytics_store::postgres::{
    Begun, Database, UnitOfWork, UnitOfWorkLimits, UserPassword, session_epochs,
};

use super::{Failure, print};
use crate::api::random_password;
use crate::config::ServerConfig;
use crate::secret_ref::SecretRef;
use crate::wiring;

/// Make and change users from the command line, for when nobody can sign in.
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Make a user. Without --password-file a random password is made and printed once.
    Create {
        /// The name for sign-in.
        username: Username,
        /// `admin`, `user`, `viewer` or `auditor`, who reads the audit log and nothing else.
        #[arg(long, default_value = "viewer")]
        role: Role,
        /// A file that holds the password.
        #[arg(long, value_name = "FILE")]
        password_file: Option<std::path::PathBuf>,
    },
    /// Give a user a random password, print it once, and end the user's sessions.
    ResetPassword {
        /// The name for sign-in.
        username: Username,
    },
    /// List the users.
    List,
}

pub(super) async fn run(command: UserCommand, config: ServerConfig) -> Result<(), Failure> {
    let database = wiring::database(&config.database)?;
    match command {
        UserCommand::Create { username, role, password_file } => {
            let given = password_file
                .map(|path| SecretRef::File(path).read())
                .transpose()
                .map_err(Failure::refused)?;
            create(&database, &config, username, role, given).await
        }
        UserCommand::ResetPassword { username } => reset_password(&database, &config, &username).await,
        UserCommand::List => list(&database).await,
    }
}

async fn create(
    database: &Database,
    config: &ServerConfig,
    username: Username,
    role: Role,
    given: Option<SecretString>,
) -> Result<(), Failure> {
    if let Some(password) = &given {
        PasswordPolicy::default().check(username.as_str(), password).map_err(Failure::refused)?;
    }
    let is_random = given.is_none();
    let (user, password) = make(database, config, username, role, given).await?;
    print(format_args!("user `{}` was made, with role {}", user.username, user.role));
    if is_random {
        print(format_args!("password: {}", password.expose()));
    }
    Ok(())
}

/// Makes a user, with a random password when none is given.
pub(super) async fn make(
    database: &Database,
    config: &ServerConfig,
    username: Username,
    role: Role,
    given: Option<SecretString>,
) -> Result<(User, SecretString), Failure> {
    let password = given.clone().unwrap_or_else(|| SecretString::new(random_password()));
    let hasher = wiring::password_hasher(&config.auth.passwords)?;
    let hash = hasher.hash(&password).await.map_err(Failure::internal)?;
    let id = UserId::generate(&SystemClock, &OsRandom);
    let new = NewUser::new(id, username, role).with_password(hash, given.is_some());
    let sealer = wiring::column_sealer(config, database, super::operator()).await?;
    let sealed = SealedUser::seal(&sealer, &new).await?;
    let mut work = begin(database).await?;
    let user = users::create(work.connection(), &sealed, SystemClock.now()).await?;
    let change = Change::created(&user).map_err(Failure::internal)?;
    work.record(event("user.create", user.id, change)?);
    work.commit().await.map_err(Failure::unavailable)?;
    Ok((user, password))
}

async fn reset_password(
    database: &Database,
    config: &ServerConfig,
    username: &Username,
) -> Result<(), Failure> {
    let password = SecretString::new(random_password());
    let hasher = wiring::password_hasher(&config.auth.passwords)?;
    let hash = hasher.hash(&password).await.map_err(Failure::internal)?;
    let sealer = wiring::column_sealer(config, database, super::operator()).await?;
    sealer.prepare::<UserPassword>().await?;
    let mut work = begin(database).await?;
    let Some(before) = users::find_by_name(work.connection(), username).await? else {
        return Err(Failure::refused(format!("there is no user `{username}`")));
    };
    let sealed = users::seal_password(&sealer, before.id, &hash).await?;
    users::set_password(work.connection(), &sealed, false, SystemClock.now()).await?;
    session_epochs::raise(work.connection(), before.id, SystemClock.now()).await?;
    let after = users::find(work.connection(), before.id).await?;
    let change = Change::between(&Some(before.clone()), &after).map_err(Failure::internal)?;
    work.record(event("user.password.reset", before.id, change)?);
    work.commit().await.map_err(Failure::unavailable)?;
    print(format_args!("password of `{username}`: {}", password.expose()));
    Ok(())
}

async fn list(database: &Database) -> Result<(), Failure> {
    let mut connection = database.read().await?;
    let mut after = None;
    loop {
        let page = users::list(&mut connection, after, 500).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.number);
        for user in &page {
            let active = if user.is_active { "active" } else { "inactive" };
            print(format_args!("{:>6}  {:<30}  {:<7} {active}", user.number, user.username, user.role));
        }
    }
}

async fn begin(database: &Database) -> Result<UnitOfWork, Failure> {
    match UnitOfWork::begin(database, None, UnitOfWorkLimits::default()).await? {
        Begun::Fresh(work) => Ok(work),
        _ => Err(Failure::internal("a unit of work without a key is always fresh")),
    }
}

fn event(action: &str, user: UserId, change: Change) -> Result<AuditEvent, Failure> {
    let action: Action = action.parse().map_err(Failure::internal)?;
    let (id, at) = (EventId::generate(&SystemClock, &OsRandom), SystemClock.now());
    Ok(AuditEvent::of_change(id, at, super::operator(), (action, Resource::new("user", user)), change))
}
