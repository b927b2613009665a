use std::collections::BTreeMap;
use std::fmt::Debug;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

/// The fields of one entry, or of one database inside an entry, sorted by name as on the wire.
///
/// Values stay the text that PostgreSQL made: they are passed on, never taken apart.
pub(in crate::collector) type Fields = BTreeMap<String, Box<RawValue>>;

/// How often a type is collected unless it is configured otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collector) enum Pace {
    /// What changes all the time.
    Fast,
    /// Catalogs and settings.
    Slow,
}

/// How the entries of a type lie on the wire (wire contract, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collector) enum Layout {
    /// One entry an instance; the sections are its fields.
    Instance,
    /// One entry a database; the sections are fields beside `database`.
    PerDatabase,
    /// One entry an instance; `databases` holds the sections by database.
    Databases,
    /// One entry an instance, from one connection: each section is an object by database and lands in
    /// `databases` under its database.
    DatabasesAtOnce,
    /// One entry a database, from one connection: each section is an object by database.
    PerDatabaseAtOnce,
}

/// Where the answer of a section goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collector) enum Place {
    /// The answer is the value of the field that has the section's name.
    Field,
    /// The answer is an object whose fields stand beside each other in the entry.
    Inline,
}

/// How many rows a section may return: the value that is bound to `$1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collector) enum Bound {
    /// The query returns one row by its nature and has no parameter.
    One,
    /// The rows that matter most, by the query's order.
    Top,
    /// A catalog.
    Catalog,
}

/// The oldest thing that a query works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collector) enum Since {
    /// Every server this collector supports.
    Always,
    /// A server of at least this `server_version_num`.
    Server(i32),
    /// `pg_stat_statements` of at least this version of the extension (major, minor), which may lag behind the
    /// server's.
    Statements(u16, u16),
}

/// One query of a type. A section that fails is reported and leaves the others alone.
#[derive(Debug)]
pub(in crate::collector) struct Section {
    /// The field's name on the wire, and the name in reports.
    pub name: &'static str,
    pub place: Place,
    pub bound: Bound,
    /// The queries, newest first: the first that the server can run is taken. Each returns one `json` value.
    pub queries: &'static [(Since, &'static str)],
}

/// When and where fields were collected.
#[derive(Clone, Copy, Debug)]
pub(in crate::collector) struct Seen<'a> {
    pub instance: &'a str,
    pub at: DateTime<Utc>,
}

/// A type of metrics that comes from PostgreSQL.
pub(in crate::collector) trait Source: Debug + Send + Sync + 'static {
    /// The `type` of its entries.
    fn kind(&self) -> &'static str;

    fn layout(&self) -> Layout;

    fn sections(&self) -> &'static [Section];

    /// Adds what can only be told from two collections.
    fn complete(&self, _seen: Seen<'_>, _fields: &mut Fields) {}
}

/// A type whose entries are what its queries return.
#[derive(Clone, Copy, Debug)]
pub(in crate::collector) struct SqlSource {
    pub kind: &'static str,
    pub layout: Layout,
    pub pace: Pace,
    pub sections: &'static [Section],
}

impl Source for SqlSource {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn sections(&self) -> &'static [Section] {
        self.sections
    }
}

impl Section {
    /// A field with at most the configured number of top rows.
    pub(in crate::collector) const fn top(
        name: &'static str,
        queries: &'static [(Since, &'static str)],
    ) -> Self {
        Self { name, place: Place::Field, bound: Bound::Top, queries }
    }

    /// A field with the rows of a catalog.
    pub(in crate::collector) const fn catalog(
        name: &'static str,
        queries: &'static [(Since, &'static str)],
    ) -> Self {
        Self { name, place: Place::Field, bound: Bound::Catalog, queries }
    }

    /// A field that holds one object.
    pub(in crate::collector) const fn object(
        name: &'static str,
        queries: &'static [(Since, &'static str)],
    ) -> Self {
        Self { name, place: Place::Field, bound: Bound::One, queries }
    }

    /// An object whose fields are fields of the entry.
    pub(in crate::collector) const fn inline(
        name: &'static str,
        queries: &'static [(Since, &'static str)],
    ) -> Self {
        Self { name, place: Place::Inline, bound: Bound::One, queries }
    }
}

/// Makes a field's value from text that is known to be JSON, or says where it is not.
pub(in crate::collector) fn raw(json: String) -> Result<Box<RawValue>, serde_json::Error> {
    RawValue::from_string(json)
}

/// Makes a field's value.
pub(in crate::collector) fn value(value: &impl serde::Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("plain values with text keys are JSON")
}
