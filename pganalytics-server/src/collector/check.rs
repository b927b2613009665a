//! `collector check`: what may and may not be read, and what to do about it.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::assembly::{StartError, instances};
use super::client::CallError;
use super::config::CollectorConfig;
use super::identity::read_credentials;
use super::link::client_for;
use super::session::{Facts, Instance, Session, SessionError};
use super::sources::{Layout, Source, postgres_sources};

/// Everything that was tried.
#[derive(Debug, Serialize)]
pub(super) struct CheckReport {
    /// Whether everything can be read and the server takes what is pushed.
    pub ok: bool,
    server: ServerCheck,
    instances: Vec<InstanceCheck>,
}

#[derive(Debug, Serialize)]
struct ServerCheck {
    url: String,
    reachable: Outcome,
    token: Outcome,
}

#[derive(Debug, Serialize)]
struct InstanceCheck {
    name: String,
    connection: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pg_monitor: Option<bool>,
    databases: Vec<String>,
    sources: Vec<SourceCheck>,
    /// What to do, most useful first.
    advice: Vec<String>,
}

/// One type in one database, or in the whole instance.
#[derive(Debug, Serialize)]
struct SourceCheck {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Outcome {
    state: State,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Some of it cannot be read.
    Partial,
    /// Not there, and nothing is wrong with that.
    Absent,
    Failed,
}

/// Tries everything that the collector does, without collecting, registering or changing anything.
///
/// # Errors
/// When a secret or certificate that the configuration names cannot be used.
pub(super) async fn check(config: &CollectorConfig) -> Result<CheckReport, StartError> {
    let instances = instances(config)?;
    let server = check_server(config).await?;
    let mut checks = Vec::with_capacity(instances.len());
    for instance in &instances {
        checks.push(check_instance(instance, config).await);
    }
    let ok = server.reachable.is_fine()
        && server.token.is_fine()
        && checks.iter().all(|check| {
            check.connection.is_fine() && check.sources.iter().all(|source| source.outcome.is_fine())
        });
    Ok(CheckReport { ok, server, instances: checks })
}

async fn check_server(config: &CollectorConfig) -> Result<ServerCheck, StartError> {
    let credentials = read_credentials(&config.node.state_dir);
    let stored = credentials.as_ref().ok().and_then(Option::as_ref);
    let client = client_for(&config.server, stored)?;
    let reachable = match client.health().await {
        Ok(()) => Outcome::ok("healthy"),
        // Something answers; what it lacks is its own affair.
        Err(CallError::Later { answer, .. }) if answer.status == 503 => {
            Outcome::new(State::Partial, format!("it is up and says that it is degraded: {answer}"))
        }
        Err(error) => Outcome::new(State::Failed, error.to_string()),
    };
    let token = match &credentials {
        Err(error) => Outcome::new(State::Failed, error.to_string()),
        Ok(None) => check_registration_secret(config),
        Ok(Some(stored)) => match client.config(&stored.collector_id, &stored.token).await {
            Ok(_) => Outcome::ok(format!("accepted, collector {}", stored.collector_id)),
            Err(CallError::Unaccepted(refusal)) => Outcome::new(
                State::Partial,
                format!("{refusal}; it will be refreshed, or the node registered anew, at the next push"),
            ),
            Err(error) => Outcome::new(State::Failed, error.to_string()),
        },
    };
    Ok(ServerCheck { url: config.server.url.to_string(), reachable, token })
}

fn check_registration_secret(config: &CollectorConfig) -> Outcome {
    match config.server.registration_secret.as_ref().map(|reference| reference.read()) {
        Some(Ok(_)) => {
            Outcome::new(State::Absent, "not registered yet; the registration secret can be read".into())
        }
        Some(Err(error)) => Outcome::new(State::Failed, error.to_string()),
        None => Outcome::new(
            State::Failed,
            "not registered, and no `server.registration_secret` is configured".into(),
        ),
    }
}

async fn check_instance(instance: &Instance, config: &CollectorConfig) -> InstanceCheck {
    let mut check = InstanceCheck {
        name: instance.section.name.clone(),
        connection: Outcome::ok(""),
        version: None,
        role: None,
        pg_monitor: None,
        databases: Vec::new(),
        sources: Vec::new(),
        advice: Vec::new(),
    };
    let limits = &config.postgres;
    let deadline = Instant::now() + Duration::from_secs(limits.collection_timeout_seconds);
    let mut home = match Session::open(instance, None, limits, deadline).await {
        Ok(session) => session,
        Err(error) => {
            check.connection = Outcome::new(State::Failed, error.to_string());
            check.advice.push(connection_advice(&error));
            return check;
        }
    };
    let facts = home.facts.clone();
    check.version = Some(facts.version_text());
    check.role = Some(facts.role.clone());
    check.pg_monitor = Some(facts.has_pg_monitor);
    if !facts.has_pg_monitor {
        check.advice.push(format!(
            "GRANT pg_monitor TO {};  -- statements of other roles, settings, the WAL folder",
            quoted(&facts.role)
        ));
    }
    check.advise_on_closed(&mut home).await;
    let sources = postgres_sources();
    let mut statements = None;
    check.read_instance(&sources, &mut home).await;
    check.databases = check.watched(&mut home, instance, config).await;
    let home_name = facts.database.clone();
    for database in check.databases.clone() {
        if database == home_name {
            check.read_database(&sources, &mut home, &mut statements).await;
            continue;
        }
        match Session::open(instance, Some(&database), limits, deadline).await {
            Ok(mut session) => {
                check.read_database(&sources, &mut session, &mut statements).await;
                session.close().await;
            }
            Err(error) => {
                check.add("connection", Some(database), Outcome::new(State::Failed, error.to_string()))
            }
        }
    }
    check.finish_statements(statements, &mut home).await;
    home.close().await;
    check
}

impl InstanceCheck {
    fn add(&mut self, kind: &'static str, database: Option<String>, outcome: Outcome) {
        self.sources.push(SourceCheck { kind, database, outcome });
    }

    async fn advise_on_closed(&mut self, home: &mut Session) {
        match home.closed_databases().await {
            Ok(closed) => {
                let role = quoted(&home.facts.role);
                let grant = |name: &String| format!("GRANT CONNECT ON DATABASE {} TO {role};", quoted(name));
                self.advice.extend(closed.iter().map(grant));
            }
            Err(error) => self.add("databases", None, Outcome::new(State::Failed, error.to_string())),
        }
    }

    async fn watched(
        &mut self,
        home: &mut Session,
        instance: &Instance,
        config: &CollectorConfig,
    ) -> Vec<String> {
        let mut names = instance.section.databases.clone();
        if names.is_empty() {
            names = match home.databases(config.postgres.max_databases).await {
                Ok(names) => names,
                Err(error) => {
                    self.add("databases", None, Outcome::new(State::Failed, error.to_string()));
                    vec![home.facts.database.clone()]
                }
            };
        }
        names.retain(|name| !instance.section.exclude_databases.contains(name));
        names
    }

    async fn read_instance(&mut self, sources: &[std::sync::Arc<dyn Source>], home: &mut Session) {
        for source in sources {
            if matches!(source.layout(), Layout::Instance | Layout::DatabasesAtOnce) {
                let outcome = read(source.as_ref(), home).await;
                self.add(source.kind(), None, outcome);
            }
        }
    }

    async fn read_database(
        &mut self,
        sources: &[std::sync::Arc<dyn Source>],
        session: &mut Session,
        statements: &mut Option<Outcome>,
    ) {
        let database = session.facts.database.clone();
        for source in sources {
            match source.layout() {
                Layout::PerDatabase | Layout::Databases => {
                    let outcome = read(source.as_ref(), session).await;
                    self.add(source.kind(), Some(database.clone()), outcome);
                }
                Layout::PerDatabaseAtOnce if statements.as_ref().is_none_or(|outcome| !outcome.is_fine()) => {
                    let facts = session.facts.clone();
                    if let Some(version) = facts.statements_version() {
                        if let Some(schema) = facts.closed_statements_schema() {
                            let [schema, role] = [schema, &facts.role].map(quoted);
                            self.advice
                                .push(format!("GRANT USAGE ON SCHEMA {schema} TO {role};  -- in {database}"));
                        }
                        let mut outcome = read(source.as_ref(), session).await;
                        if outcome.detail.is_empty() {
                            outcome.detail = format!("version {version}, through database {database}");
                        }
                        *statements = Some(outcome);
                    }
                }
                _ => {}
            }
        }
    }

    async fn finish_statements(&mut self, statements: Option<Outcome>, home: &mut Session) {
        if let Some(outcome) = statements {
            return self.add("pg_query_stats", None, outcome);
        }
        self.advise_on_statements(home).await;
        let detail = "the extension pg_stat_statements is in none of the databases".to_owned();
        self.add("pg_query_stats", None, Outcome::new(State::Absent, detail));
    }

    async fn advise_on_statements(&mut self, home: &mut Session) {
        // A role that may not see the setting is told to look for itself.
        if !matches!(home.preloads_statements().await, Ok(Some(true))) {
            self.advice.push("shared_preload_libraries = 'pg_stat_statements' and a restart".into());
        }
        let database = quoted(&home.facts.database);
        self.advice.push(format!("CREATE EXTENSION pg_stat_statements;  -- in {database}, as a superuser"));
    }
}

/// Reads every section and forgets the answers.
async fn read(source: &dyn Source, session: &mut Session) -> Outcome {
    let sections = source.sections();
    let mut failed = Vec::new();
    for section in sections {
        if let Err(error) = session.read(section).await {
            failed.push(format!("{}: {error}", section.name));
        }
    }
    let state = match failed.len() {
        0 => State::Ok,
        count if count == sections.len() => State::Failed,
        _ => State::Partial,
    };
    match hidden(source.kind(), &session.facts) {
        Some(hidden) if state != State::Failed => {
            failed.push(hidden.to_owned());
            Outcome::new(State::Partial, failed.join("; "))
        }
        _ => Outcome::new(state, failed.join("; ")),
    }
}

/// What PostgreSQL leaves out of an answer, without an error, for a role that may not see it.
fn hidden(kind: &str, facts: &Facts) -> Option<&'static str> {
    let reason = match kind {
        "pg_query_stats" => "the statements of other roles are hidden",
        "pg_activity" | "pg_connections" | "pg_locks" => {
            "what other roles' sessions do and wait for is hidden"
        }
        "pg_replication" => "the positions of standbys are hidden",
        "pg_settings" => {
            return (!facts.reads_all_settings)
                .then_some("paths and other settings of superusers are hidden");
        }
        _ => return None,
    };
    (!facts.reads_all_stats).then_some(reason)
}

fn connection_advice(error: &SessionError) -> String {
    let text = error.to_string();
    let advice = [
        ("(28P01)", "check the password that `password` refers to"),
        ("(28000)", "allow the role in pg_hba.conf, and create it: CREATE ROLE … LOGIN IN ROLE pg_monitor"),
        ("(3D000)", "name a database in the URL that exists"),
        ("(42501)", "grant the role CONNECT on the database of the URL"),
        ("(53300)", "the server has no free connection left for this role"),
    ];
    advice
        .iter()
        .find(|(code, _)| text.contains(code))
        .map_or("check host, port and TLS options of `url`", |(_, advice)| advice)
        .to_owned()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Outcome {
    fn new(state: State, detail: String) -> Self {
        Self { state, detail }
    }

    fn ok(detail: impl Into<String>) -> Self {
        Self::new(State::Ok, detail.into())
    }

    fn is_fine(&self) -> bool {
        matches!(self.state, State::Ok | State::Absent)
    }

    fn line(&self, label: &str) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Partial => "PARTIAL",
            State::Absent => "absent",
            State::Failed => "FAILED",
        };
        format!("  {label:<34} {state:<8} {}", self.detail).trim_end().to_owned() + "\n"
    }
}

impl CheckReport {
    /// For people: what is well on one line a type, what is not with its reason, then what to do.
    pub(super) fn table(&self) -> String {
        let mut text = format!("Server {}\n", self.server.url);
        text += &self.server.reachable.line("reachable");
        text += &self.server.token.line("token");
        for instance in &self.instances {
            instance.describe(&mut text);
        }
        if self.instances.is_empty() {
            text += "\nNo `[[instances]]` are configured: only this host is watched.\n";
        }
        text += if self.ok { "\nEverything can be read.\n" } else { "\nNot everything works, see above.\n" };
        text
    }
}

impl InstanceCheck {
    fn describe(&self, text: &mut String) {
        let unknown = || "?".to_owned();
        // Writing to a text cannot fail.
        let _ = write!(text, "\nInstance {}", self.name);
        if let (Some(version), Some(role)) = (&self.version, &self.role) {
            let member = if self.pg_monitor == Some(true) { "with" } else { "WITHOUT" };
            let _ = write!(text, ": PostgreSQL {version}, role {role} {member} pg_monitor");
        }
        text.push('\n');
        *text += &self.connection.line("connection");
        if self.version.is_some() {
            let names = if self.databases.is_empty() { unknown() } else { self.databases.join(", ") };
            let _ = writeln!(text, "  {:<34} {names}", "databases");
        }
        let mut kinds: Vec<&'static str> = self.sources.iter().map(|source| source.kind).collect();
        kinds.dedup();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            self.describe_kind(kind, text);
        }
        for advice in &self.advice {
            let _ = writeln!(text, "  do: {advice}");
        }
    }

    /// One line when a type is well everywhere, else one a database where it is not.
    fn describe_kind(&self, kind: &str, text: &mut String) {
        let of_kind: Vec<&SourceCheck> = self.sources.iter().filter(|source| source.kind == kind).collect();
        let bad: Vec<&&SourceCheck> =
            of_kind.iter().filter(|source| source.outcome.state != State::Ok).collect();
        if bad.is_empty() {
            let detail = of_kind.first().map_or("", |source| source.outcome.detail.as_str());
            *text += &Outcome::ok(detail).line(kind);
        }
        for source in bad {
            let label = match &source.database {
                Some(database) => format!("{kind} ({database})"),
                None => kind.to_owned(),
            };
            *text += &source.outcome.line(&label);
        }
    }
}
