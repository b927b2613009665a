use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clap::Args;
use nix::unistd::{AccessFlags, access};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::random::{OsRandom, Random};
use pganalytics_store::postgres::{Compatibility, Database, EncryptionPhase, EncryptionState, Migrator};
use serde::Serialize;

use super::{Failure, print};
use crate::api::error_chain;
use crate::config::{AuditConfig, RedisConfig, ServerConfig, SessionStoreKind};
use crate::wiring;

/// Tokens and sessions bear with a clock that is off by less.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);

/// Look for what keeps the server from working, and say what to do about it.
///
/// Changes nothing. Without a configuration it looks at a development server of this user.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What was found about one thing.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    outcome: Outcome,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Good,
    Warning,
    Bad,
}

pub(super) async fn run(command: Doctor, file: Option<&Path>) -> Result<(), Failure> {
    let config = super::load_or_development(file)?;
    let findings = examine(&config).await;
    if command.json {
        print(serde_json::to_string_pretty(&findings).map_err(Failure::internal)?);
    } else {
        for finding in &findings {
            print(finding.text());
        }
    }
    let bad = findings.iter().filter(|finding| finding.outcome == Outcome::Bad).count();
    if bad == 0 {
        return Ok(());
    }
    Err(Failure::refused(format!("{bad} of {} checks failed", findings.len())))
}

async fn examine(config: &ServerConfig) -> Vec<Finding> {
    let mut findings = vec![good("configuration", "every setting is known and in its range")];
    findings.push(match wiring::check(config) {
        Ok(()) => good("secrets and keys", "every secret can be read, and the keys can be used"),
        Err(error) => bad(
            "secrets and keys",
            error_chain(&error),
            "make what is missing or mend the reference; `pganalytics-api keys init` makes the keys of a new \
             installation",
        ),
    });
    findings.push(examine_audit(&config.audit));
    match wiring::database(&config.database) {
        Ok(database) => examine_database(&database, &mut findings).await,
        Err(error) => findings.push(bad("database", error_chain(&error), "mend `database.url`")),
    }
    if config.auth.session_store == SessionStoreKind::Redis {
        findings.push(examine_redis(&config.redis).await);
    }
    findings
}

fn examine_audit(config: &AuditConfig) -> Finding {
    if !config.requests {
        return good("audit", "requests are not recorded, as `audit.requests` says");
    }
    let folder = &config.folder;
    let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(folder);
    let writable = access(existing, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK);
    match writable {
        Ok(()) if existing.is_dir() => {
            good("audit", format!("this user can record requests in {}", folder.display()))
        }
        _ => bad(
            "audit",
            format!("this user cannot write {}, where requests are recorded", folder.display()),
            "make the folder of `audit.folder` for the server's user, or set `audit.requests` to false",
        ),
    }
}

async fn examine_redis(config: &RedisConfig) -> Finding {
    let remedy = "check `redis`, and that it runs: nobody can sign in without it";
    let random: Arc<dyn Random> = Arc::new(OsRandom);
    match wiring::redis(config, &random) {
        Err(error) => bad("redis", error_chain(&error), remedy),
        Ok(redis) => match redis.ping().await {
            Ok(()) => good("redis", "it answers"),
            Err(error) => bad("redis", error_chain(&error), remedy),
        },
    }
}

async fn examine_database(database: &Database, findings: &mut Vec<Finding>) {
    let began = Instant::now();
    match server_facts(database).await {
        Ok(facts) => {
            let took = began.elapsed().as_millis();
            let detail = format!("PostgreSQL {} answers {} after {took} ms", facts.version, facts.role);
            findings.push(good("database", detail));
            findings.push(facts.clock());
            let schema = schema(database).await;
            let is_migrated = schema.outcome == Outcome::Good;
            findings.push(schema);
            if is_migrated {
                findings.push(encryption(database).await);
            }
            findings.push(facts.rights());
        }
        Err(error) => findings.push(bad(
            "database",
            error_chain(&*error),
            "check address and password of `database.url`, and that PostgreSQL runs; for a development server, that \
             `pganalytics-api dev` runs",
        )),
    }
}

async fn schema(database: &Database) -> Finding {
    match Migrator::new().check_compatible(database).await {
        Ok(Compatibility::Ready) => good("schema", "this program can work with it"),
        Ok(Compatibility::Pending(versions)) => bad(
            "schema",
            format!("{} migrations are missing", versions.len()),
            "run `pganalytics-api migrate up`",
        ),
        Ok(_) => bad("schema", "it is in a state that this program does not know", "use a newer program"),
        Err(error) => bad(
            "schema",
            error_chain(&error),
            "use the program that the schema belongs to; `pganalytics-api migrate status` shows the versions",
        ),
    }
}

async fn encryption(database: &Database) -> Finding {
    let state = async { EncryptionState::load(&mut *database.read().await?).await };
    match state.await {
        Ok(EncryptionState { phase: EncryptionPhase::Final, is_rewritten: true }) => {
            good("encryption", "what is secret is sealed, and nothing of it lies in plain text")
        }
        Ok(EncryptionState { phase: EncryptionPhase::Dual, .. }) => warning(
            "encryption",
            "passwords, configurations and webhooks lie in plain text, besides or instead of sealed",
            "when all servers are of this version, run `pganalytics-api keys migrate --run`",
        ),
        Ok(_) => warning(
            "encryption",
            "what is secret is sealed, but the plain columns have left their values on the disk",
            "when you will not go back, run `pganalytics-api keys migrate --finalise`",
        ),
        Err(error) => bad("encryption", error_chain(&error), "run `pganalytics-api migrate status`"),
    }
}

/// What PostgreSQL says about itself and about who is asking.
#[derive(Debug, sqlx::FromRow)]
struct ServerFacts {
    version: String,
    role: String,
    now: DateTime<Utc>,
    is_superuser: bool,
    has_rights: bool,
    role_exists: bool,
    #[sqlx(skip)]
    asked_at: DateTime<Utc>,
}

async fn server_facts(database: &Database) -> Result<ServerFacts, Box<dyn Error + Send + Sync>> {
    let mut connection = database.read().await?;
    let asked_at = SystemClock.now();
    let mut facts: ServerFacts = sqlx::query_as(
        "SELECT current_setting('server_version') AS version, current_user::text AS role, clock_timestamp() AS now,
             (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
             EXISTS (SELECT FROM pg_roles
                 WHERE rolname = 'pganalytics_app' AND pg_has_role(current_user, oid, 'USAGE')) AS has_rights,
             EXISTS (SELECT FROM pg_roles WHERE rolname = 'pganalytics_app') AS role_exists",
    )
    .fetch_one(&mut *connection)
    .await?;
    facts.asked_at = asked_at + (SystemClock.now() - asked_at) / 2;
    Ok(facts)
}

impl ServerFacts {
    fn clock(&self) -> Finding {
        let difference = (self.now - self.asked_at).abs().to_std().unwrap_or_default();
        let detail = format!("the database's clock differs by {} ms", difference.as_millis());
        if difference <= CLOCK_DIFFERENCE_MAX {
            return good("clock", detail);
        }
        bad("clock", detail, "set both clocks by NTP: tokens end early or late otherwise")
    }

    fn rights(&self) -> Finding {
        let role = &self.role;
        if self.is_superuser {
            return warning(
                "rights",
                format!("`{role}` is a superuser, who may change the schema and rewrite what is append-only"),
                "let the server log in as a member of `pganalytics_app`: CREATE ROLE … LOGIN IN ROLE pganalytics_app",
            );
        }
        if self.has_rights {
            return good("rights", format!("`{role}` is a member of `pganalytics_app`"));
        }
        let remedy = if self.role_exists {
            format!("GRANT pganalytics_app TO {role}")
        } else {
            "run `pganalytics-api migrate up` as a user who may make roles".into()
        };
        bad(
            "rights",
            format!("`{role}` is not a member of `pganalytics_app`, which holds the rights"),
            remedy,
        )
    }
}

impl Finding {
    fn text(&self) -> String {
        let outcome = match self.outcome {
            Outcome::Good => "good",
            Outcome::Warning => "warning",
            Outcome::Bad => "BAD",
        };
        let remedy =
            self.remedy.as_deref().map(|remedy| format!("\n{:28}do: {remedy}", "")).unwrap_or_default();
        format!("{outcome:<8} {:<17}  {}{remedy}", self.what, self.detail)
    }
}

fn good(what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { what, outcome: Outcome::Good, detail: detail.into(), remedy: None }
}

fn warning(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what, outcome: Outcome::Warning, detail: detail.into(), remedy: Some(remedy.into()) }
}

fn bad(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what, outcome: Outcome::Bad, detail: detail.into(), remedy: Some(remedy.into()) }
}
