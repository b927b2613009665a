//! One collection: what is due is read from the host and from every instance and becomes entries.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use pganalytics_core::clock::Clock;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use super::batch::wire_time;
use super::config::PostgresSection;
use super::session::{Instance, Session, SessionError};
use super::sources::{
    Fields, Host, HostReading, Layout, LogTail, Place, Seen, Source, postgres_sources, raw, read_disk_usage,
    value,
};

/// A reading of the host that takes longer hangs on a dead network file system.
const HOST_TIMEOUT: Duration = Duration::from_secs(10);

/// Collects. Keeps what has to be compared between two collections.
#[derive(Debug)]
pub(super) struct Collection {
    instances: Vec<WatchedInstance>,
    sources: Vec<Arc<dyn Source>>,
    limits: PostgresSection,
    node: NodeNames,
    host: Arc<Mutex<Host>>,
    disks: Arc<Mutex<()>>,
    clock: Arc<dyn Clock>,
}

/// The names in entries.
#[derive(Clone, Debug)]
pub(super) struct NodeNames {
    pub collector_id: String,
    pub hostname: String,
}

#[derive(Debug)]
struct WatchedInstance {
    instance: Instance,
    log: Option<Mutex<LogTail>>,
}

/// What to collect.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub kinds: BTreeSet<&'static str>,
    /// Databases by instance, where the server says which; all others as configured.
    pub databases: BTreeMap<String, Vec<String>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub entries: Vec<Fields>,
    pub failures: Vec<Failure>,
    /// Types that an instance has nothing to tell about, for example without an extension.
    pub unavailable: Vec<String>,
}

/// A part that could not be collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    /// The type, and the section of it if only that failed.
    pub source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    pub error: String,
}

impl Collection {
    /// Prepares a collection; nothing is read yet. With `past`, log files are first told from some way back.
    pub(super) fn new(
        instances: Vec<Instance>,
        limits: PostgresSection,
        node: NodeNames,
        clock: Arc<dyn Clock>,
        past: bool,
    ) -> Self {
        let tail = if past { LogTail::with_past } else { LogTail::new };
        let instances = instances
            .into_iter()
            .map(|instance| WatchedInstance {
                log: instance.section.log_file.clone().map(|path| Mutex::new(tail(path))),
                instance,
            })
            .collect();
        let (host, disks) = (Arc::default(), Arc::default());
        Self { instances, sources: postgres_sources(), limits, node, host, disks, clock }
    }

    /// Reads what is wanted. One failing part never stops the others.
    pub(super) async fn collect(&self, wanted: &Wanted) -> Collected {
        let mut collected = self.collect_host(wanted).await;
        // Boxed: as a stream of borrowing closures the whole collection could not move between threads.
        let passes: Vec<BoxFuture<'_, (Collected, Rounds)>> =
            self.instances.iter().map(|watched| self.collect_instance(watched, wanted).boxed()).collect();
        let mut passes = stream::iter(passes).buffered(self.limits.parallel_instances);
        let mut rounds = BTreeMap::new();
        while let Some((pass, of_instance)) = passes.next().await {
            collected.entries.extend(pass.entries);
            collected.failures.extend(pass.failures);
            collected.unavailable.extend(pass.unavailable);
            for (kind, round) in of_instance {
                match rounds.entry(kind) {
                    Entry::Vacant(place) => drop(place.insert(round)),
                    Entry::Occupied(mut all) => all.get_mut().add(round),
                }
            }
        }
        for (kind, round) in rounds.into_iter().filter(|(_, round)| !round.databases.is_empty()) {
            collected.entries.push(round.entry(kind, &self.node));
        }
        collected
    }

    async fn collect_host(&self, wanted: &Wanted) -> Collected {
        let mut collected = Collected::default();
        if wanted.kinds.contains("sysstat") {
            let reading = off_thread(&self.host, Host::read_sysstat).await;
            collected.add_reading("sysstat", reading, self.clock.now());
        }
        if wanted.kinds.contains("disk_usage") {
            let reading = off_thread(&self.disks, |()| read_disk_usage()).await;
            collected.add_reading("disk_usage", reading, self.clock.now());
        }
        collected
    }

    async fn collect_instance(&self, watched: &WatchedInstance, wanted: &Wanted) -> (Collected, Rounds) {
        let mut pass = InstancePass {
            collection: self,
            name: &watched.instance.section.name,
            several: self.instances.len() > 1,
            collected: Collected::default(),
            rounds: Rounds::new(),
        };
        if let Some(log) = watched.log.as_ref().filter(|_| wanted.kinds.contains("pg_log")) {
            pass.read_log(log);
        }
        let due: Vec<&Arc<dyn Source>> =
            self.sources.iter().filter(|source| wanted.kinds.contains(source.kind())).collect();
        if !due.is_empty() {
            pass.read(&watched.instance, &due, wanted).await;
        }
        (pass.collected, pass.rounds)
    }
}

/// The collection of one instance.
struct InstancePass<'a> {
    collection: &'a Collection,
    name: &'a str,
    several: bool,
    collected: Collected,
    rounds: Rounds,
}

/// Entries that grow database by database, by type.
type Rounds = BTreeMap<&'static str, Round>;

/// What one type says about the databases of all instances. Readers take the newest entry of such a type for the state
/// of everything, so that there is one entry, however many instances there are.
#[derive(Debug)]
struct Round {
    at: DateTime<Utc>,
    databases: BTreeMap<String, Fields>,
    errors: Vec<String>,
}

impl Round {
    fn new(at: DateTime<Utc>) -> Self {
        Self { at, databases: BTreeMap::new(), errors: Vec::new() }
    }

    fn add(&mut self, other: Self) {
        self.at = self.at.min(other.at);
        self.databases.extend(other.databases);
        self.errors.extend(other.errors);
    }

    fn entry(&self, kind: &str, names: &NodeNames) -> Fields {
        let mut fields = Fields::from([
            ("databases".to_owned(), value(&self.databases)),
            ("collector_id".to_owned(), value(&names.collector_id)),
            ("hostname".to_owned(), value(&names.hostname)),
        ]);
        if !self.errors.is_empty() {
            fields.insert("collection_errors".into(), value(&self.errors));
        }
        stamped(kind, self.at, fields)
    }
}

/// The sections of a source that could be read, and those that could not.
#[derive(Default)]
struct Sections {
    fields: Fields,
    errors: Vec<String>,
    unavailable: bool,
}

impl InstancePass<'_> {
    async fn read(&mut self, instance: &Instance, due: &[&Arc<dyn Source>], wanted: &Wanted) {
        let limits = &self.collection.limits;
        let deadline = Instant::now() + Duration::from_secs(limits.collection_timeout_seconds);
        let mut home = match Session::open(instance, None, limits, deadline).await {
            Ok(session) => session,
            Err(error) => return self.fail("connection", None, &error),
        };
        let databases = self.databases(&mut home, instance, wanted).await;
        let mut once: Vec<&Arc<dyn Source>> = Vec::new();
        for source in due {
            match source.layout() {
                Layout::Instance => self.read_instance(source.as_ref(), &mut home).await,
                Layout::PerDatabaseAtOnce | Layout::DatabasesAtOnce => once.push(source),
                Layout::PerDatabase | Layout::Databases => {}
            }
        }
        self.read_once(&mut once, &mut home, &databases).await;
        let home_database = home.facts.database.clone();
        if databases.contains(&home_database) {
            self.read_database(due, &mut home).await;
        }
        home.close().await;
        for database in databases.iter().filter(|database| **database != home_database) {
            match Session::open(instance, Some(database), limits, deadline).await {
                Ok(mut session) => {
                    self.read_once(&mut once, &mut session, &databases).await;
                    self.read_database(due, &mut session).await;
                    session.close().await;
                }
                Err(error) => self.fail("connection", Some(database), &error),
            }
        }
        let unavailable = once.iter().map(|source| format!("{}: {}", self.name, source.kind()));
        self.collected.unavailable.extend(unavailable);
    }

    /// The databases to read: what the server says, else what is configured, else all that can be read.
    async fn databases(&mut self, home: &mut Session, instance: &Instance, wanted: &Wanted) -> Vec<String> {
        let section = &instance.section;
        let limit = self.collection.limits.max_databases;
        let mut names = wanted.databases.get(&section.name).unwrap_or(&section.databases).clone();
        if names.is_empty() {
            // One more than is read tells that there are more.
            match home.databases(limit + section.exclude_databases.len() + 1).await {
                Ok(all) => names = all,
                Err(error) => {
                    self.fail("databases", None, &error);
                    names.push(home.facts.database.clone());
                }
            }
        }
        names.retain(|name| !section.exclude_databases.contains(name));
        if names.len() > limit {
            let error =
                format!("only the first {limit} databases are read, `postgres.max_databases` says so");
            self.collected.failures.push(self.failure("databases", None, error));
            names.truncate(limit);
        }
        names
    }

    async fn read_instance(&mut self, source: &dyn Source, session: &mut Session) {
        let at = self.collection.clock.now();
        let mut sections = self.sections(source, session).await;
        if sections.fields.is_empty() {
            return;
        }
        source.complete(Seen { instance: self.name, at }, &mut sections.fields);
        let errors = std::mem::take(&mut sections.errors);
        sections.fields.insert("collection_errors".into(), value(&errors));
        if self.several {
            // Readers keep the newest entry of each type and database: instances must not replace each other.
            sections.fields.insert("database".into(), value(&self.name_of("")));
        }
        self.push(source.kind(), at, sections.fields);
    }

    /// Reads types of which one answer serves all databases, through the first database that has what they need.
    async fn read_once(
        &mut self,
        once: &mut Vec<&Arc<dyn Source>>,
        session: &mut Session,
        databases: &[String],
    ) {
        for source in std::mem::take(once) {
            let at = self.collection.clock.now();
            let sections = self.sections(source.as_ref(), session).await;
            if sections.unavailable {
                once.push(source);
                continue;
            }
            for section in source.sections() {
                let Some(answer) = sections.fields.get(section.name) else { continue };
                for (database, rows) in by_database(answer, databases) {
                    let fields = match section.place {
                        Place::Field => Fields::from([(section.name.to_owned(), rows)]),
                        Place::Inline => inlined(&rows),
                    };
                    self.place(source.as_ref(), &database, at, fields);
                }
            }
        }
    }

    fn place(&mut self, source: &dyn Source, database: &str, at: DateTime<Utc>, fields: Fields) {
        if source.layout() == Layout::DatabasesAtOnce {
            let name = self.name_of(database);
            self.round(source.kind(), at).databases.entry(name).or_default().extend(fields);
        } else {
            self.push_database(source.kind(), database, at, fields);
        }
    }

    async fn read_database(&mut self, due: &[&Arc<dyn Source>], session: &mut Session) {
        let database = session.facts.database.clone();
        for source in due {
            let at = self.collection.clock.now();
            match source.layout() {
                Layout::PerDatabase => {
                    let mut sections = self.sections(source.as_ref(), session).await;
                    if sections.fields.is_empty() {
                        continue;
                    }
                    if !sections.errors.is_empty() {
                        sections.fields.insert("collection_errors".into(), value(&sections.errors));
                    }
                    self.push_database(source.kind(), &database, at, sections.fields);
                }
                Layout::Databases => {
                    let sections = self.sections(source.as_ref(), session).await;
                    let name = self.name_of(&database);
                    let round = self.round(source.kind(), at);
                    round.errors.extend(sections.errors.iter().map(|error| format!("{name}: {error}")));
                    if !sections.fields.is_empty() {
                        round.databases.insert(name, sections.fields);
                    }
                }
                Layout::Instance | Layout::PerDatabaseAtOnce | Layout::DatabasesAtOnce => {}
            }
        }
    }

    /// Reads the sections of a source, each for itself.
    async fn sections(&mut self, source: &dyn Source, session: &mut Session) -> Sections {
        let mut read = Sections::default();
        for section in source.sections() {
            let answer = match session.read(section).await {
                Ok(text) => raw(text).map_err(|error| format!("not JSON: {error}")),
                Err(SessionError::NotHere) => {
                    read.unavailable = true;
                    continue;
                }
                Err(error) => Err(error.to_string()),
            };
            match (answer, section.place) {
                (Ok(answer), Place::Inline) if !is_at_once(source) => read.fields.extend(inlined(&answer)),
                (Ok(answer), _) => {
                    read.fields.insert(section.name.to_owned(), answer);
                }
                (Err(error), _) => {
                    let name = format!("{}.{}", source.kind(), section.name);
                    let database = session.facts.database.clone();
                    self.collected.failures.push(self.failure(&name, Some(&database), error.clone()));
                    read.errors.push(format!("{}: {error}", section.name));
                }
            }
        }
        read
    }

    fn read_log(&mut self, log: &Mutex<LogTail>) {
        let at = self.collection.clock.now();
        let entries = log.lock().expect("no holder of this lock panics").read(at);
        match entries {
            Ok(entries) if entries.is_empty() => {}
            Ok(entries) => {
                let fields = Fields::from([("entries".to_owned(), value(&entries))]);
                self.push_database("pg_log", "postgres", at, fields);
            }
            Err(error) => {
                let failure = self.failure("pg_log", None, error.to_string());
                self.collected.failures.push(failure);
            }
        }
    }

    fn round(&mut self, kind: &'static str, at: DateTime<Utc>) -> &mut Round {
        self.rounds.entry(kind).or_insert_with(|| Round::new(at))
    }

    fn push_database(&mut self, kind: &str, database: &str, at: DateTime<Utc>, mut fields: Fields) {
        fields.insert("database".into(), value(&self.name_of(database)));
        self.push(kind, at, fields);
    }

    fn push(&mut self, kind: &str, at: DateTime<Utc>, mut fields: Fields) {
        if self.several {
            fields.insert("instance".into(), value(&self.name));
        }
        self.collected.entries.push(stamped(kind, at, fields));
    }

    /// A database's name on the wire: instances may have databases of the same name.
    fn name_of(&self, database: &str) -> String {
        if self.several { format!("{}/{database}", self.name) } else { database.to_owned() }
    }

    fn fail(&mut self, source: &str, database: Option<&str>, error: &SessionError) {
        let failure = self.failure(source, database, error.to_string());
        self.collected.failures.push(failure);
    }

    fn failure(&self, source: &str, database: Option<&str>, error: String) -> Failure {
        Failure {
            source: source.to_owned(),
            instance: Some(self.name.to_owned()),
            database: database.map(str::to_owned),
            error,
        }
    }
}

impl Collected {
    fn add_reading(&mut self, kind: &str, reading: Result<HostReading, String>, at: DateTime<Utc>) {
        let fail = |error| Failure { source: kind.to_owned(), instance: None, database: None, error };
        match reading {
            Ok(reading) => {
                self.failures.extend(reading.errors.into_iter().map(fail));
                if !reading.fields.is_empty() {
                    self.entries.push(stamped(kind, at, reading.fields));
                }
            }
            Err(error) => self.failures.push(fail(error)),
        }
    }
}

/// Completes an entry with what every entry has.
pub(super) fn stamped(kind: &str, at: DateTime<Utc>, mut fields: Fields) -> Fields {
    fields.insert("type".into(), value(&kind));
    fields.insert("timestamp".into(), value(&wire_time(at)));
    fields
}

/// Reads the host on a thread of its own, where it may hang without stopping anything else.
async fn off_thread<T: Send + 'static>(
    state: &Arc<Mutex<T>>,
    read: impl FnOnce(&mut T) -> HostReading + Send + 'static,
) -> Result<HostReading, String> {
    let state = Arc::clone(state);
    let reading = tokio::task::spawn_blocking(move || match state.try_lock() {
        Ok(mut state) => Ok(read(&mut state)),
        Err(TryLockError::WouldBlock) => Err("the reading before has not come back yet".to_owned()),
        Err(TryLockError::Poisoned(_)) => Err("an earlier reading failed".to_owned()),
    });
    match timeout(HOST_TIMEOUT, reading).await {
        Ok(Ok(reading)) => reading,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", HOST_TIMEOUT.as_secs())),
    }
}

fn is_at_once(source: &dyn Source) -> bool {
    matches!(source.layout(), Layout::PerDatabaseAtOnce | Layout::DatabasesAtOnce)
}

/// The parts of an answer that are about watched databases.
fn by_database(answer: &RawValue, watched: &[String]) -> BTreeMap<String, Box<RawValue>> {
    let mut parts: BTreeMap<String, Box<RawValue>> = serde_json::from_str(answer.get()).unwrap_or_default();
    parts.retain(|database, _| watched.contains(database));
    parts
}

/// The fields of an object, each for itself.
fn inlined(object: &RawValue) -> Fields {
    serde_json::from_str(object.get()).unwrap_or_default()
}
