use pganalytics_core::keys::{Column, FieldRef, SealedValue};
use pganalytics_core::secret::SecretString;
use pganalytics_core::tokens::TokenDigest;
use pganalytics_core::users::PasswordHash;

/// A sealed column of this schema.
pub trait StoredColumn: Column {
    /// What its values are.
    type Value: SealedValue;

    /// Its statements.
    #[doc(hidden)]
    const SQL: &'static ColumnSql;
}

/// What a column is called, and the statements that treat all columns alike. Plain values are bytes in them, whatever the type
/// of the plain column; lists of rows are parallel arrays.
#[derive(Debug)]
#[doc(hidden)]
pub struct ColumnSql {
    pub(in crate::postgres) field: FieldRef,
    pub(in crate::postgres) is_indexed: bool,
    /// ids → id, plain value.
    pub(in crate::postgres) read_plain: &'static str,
    /// id, plain value.
    pub(in crate::postgres) write_plain: &'static str,
    /// → rows that are not sealed yet, rows that are.
    pub(in crate::postgres) count: &'static str,
    /// The same where there is no plain column any more.
    pub(in crate::postgres) count_sealed: &'static str,
    /// id to begin after, limit → id, plain value, of rows that are not sealed yet.
    pub(in crate::postgres) unsealed: &'static str,
    /// ids, plain values, sealed values, indexes: seals what still has that plain value.
    pub(in crate::postgres) seal: &'static str,
    /// id to begin after, limit → id, plain value, sealed value, index, of rows that have a plain value.
    pub(in crate::postgres) pairs: &'static str,
    /// id to begin after, limit → id, sealed value, of rows without a plain value.
    pub(in crate::postgres) sealed_alone: &'static str,
    /// ids, sealed values, plain values: writes the plain value where there is none.
    pub(in crate::postgres) restore: &'static str,
    /// length of a mark → marks of the sealed values, rows.
    pub(in crate::postgres) marks: &'static str,
    /// length of a mark → marks of the blind indexes, rows.
    pub(in crate::postgres) index_marks: Option<&'static str>,
    /// id to begin after, limit, mark of the values, mark of the indexes → id, sealed value, of rows that bear another.
    pub(in crate::postgres) outdated: &'static str,
    /// ids, former sealed values, new sealed values, new indexes: replaces what is still the former.
    pub(in crate::postgres) replace: &'static str,
}

macro_rules! plain_as_bytes {
    (text $column:literal) => {
        concat!("convert_to(", $column, ", 'UTF8')")
    };
    (bytea $column:literal) => {
        $column
    };
}

macro_rules! bytes_as_plain {
    (text $bytes:literal) => {
        concat!("convert_from(", $bytes, ", 'UTF8')")
    };
    (bytea $bytes:literal) => {
        $bytes
    };
}

macro_rules! sealed {
    ($plain:literal) => {
        concat!($plain, "_sealed")
    };
}

/// What differs between columns with and without a blind index.
macro_rules! if_indexed {
    (plain: $with:expr, $without:expr) => {
        $without
    };
    (indexed: $with:expr, $without:expr) => {
        $with
    };
}

macro_rules! stored_column {
    (
        $(#[$doc:meta])*
        $name:ident($value:ty) = $table:literal, $plain:literal ($type:ident), $kind:ident, purpose $purpose:literal
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl Column for $name {
            const FIELD: FieldRef = FieldRef { table: $table, column: $plain, purpose: $purpose };
        }

        impl StoredColumn for $name {
            type Value = $value;

            const SQL: &'static ColumnSql = &ColumnSql {
                field: Self::FIELD,
                is_indexed: if_indexed!($kind: true, false),
                read_plain: concat!(
                    "SELECT id, ", plain_as_bytes!($type $plain), " FROM ", $table,
                    " WHERE id = ANY($1) AND ", $plain, " IS NOT NULL"
                ),
                write_plain: concat!(
                    "UPDATE ", $table, " SET ", $plain, " = ", bytes_as_plain!($type "$2"), " WHERE id = $1"
                ),
                count: concat!(
                    "SELECT count(*) FILTER (WHERE ", sealed!($plain), " IS NULL AND ", $plain, " IS NOT NULL), ",
                    "count(", sealed!($plain), ") FROM ", $table
                ),
                count_sealed: concat!("SELECT 0::bigint, count(", sealed!($plain), ") FROM ", $table),
                unsealed: concat!(
                    "SELECT id, ", plain_as_bytes!($type $plain), " FROM ", $table, " WHERE id > $1 AND ",
                    sealed!($plain), " IS NULL AND ", $plain, " IS NOT NULL ORDER BY id LIMIT $2"
                ),
                seal: concat!(
                    "UPDATE ", $table, " SET ", sealed!($plain), " = made.sealed_value",
                    if_indexed!($kind: concat!(", ", $plain, "_index = made.index_value"), ""),
                    " FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[])",
                    " AS made (row_id, plain_value, sealed_value, index_value)",
                    " WHERE id = made.row_id AND ", sealed!($plain), " IS NULL AND ",
                    plain_as_bytes!($type $plain), " = made.plain_value"
                ),
                pairs: concat!(
                    "SELECT id, ", plain_as_bytes!($type $plain), ", ", sealed!($plain), ", ",
                    if_indexed!($kind: concat!($plain, "_index"), "NULL::bytea"), " FROM ", $table,
                    " WHERE id > $1 AND ", $plain, " IS NOT NULL ORDER BY id LIMIT $2"
                ),
                sealed_alone: concat!(
                    "SELECT id, ", sealed!($plain), " FROM ", $table, " WHERE id > $1 AND ", $plain,
                    " IS NULL AND ", sealed!($plain), " IS NOT NULL ORDER BY id LIMIT $2"
                ),
                restore: concat!(
                    "UPDATE ", $table, " SET ", $plain, " = ", bytes_as_plain!($type "made.plain_value"),
                    " FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS made (row_id, sealed_value, plain_value)",
                    " WHERE id = made.row_id AND ", $plain, " IS NULL AND ", sealed!($plain), " = made.sealed_value"
                ),
                marks: concat!(
                    "SELECT substring(", sealed!($plain), " FROM 1 FOR $1), count(*) FROM ", $table,
                    " WHERE ", sealed!($plain), " IS NOT NULL GROUP BY 1 ORDER BY 1"
                ),
                index_marks: if_indexed!($kind:
                    Some(concat!(
                        "SELECT substring(", $plain, "_index FROM 1 FOR $1), count(*) FROM ", $table,
                        " WHERE ", $plain, "_index IS NOT NULL GROUP BY 1 ORDER BY 1"
                    )),
                    None
                ),
                outdated: concat!(
                    "SELECT id, ", sealed!($plain), " FROM ", $table,
                    " WHERE id > $1 AND (substring(", sealed!($plain), " FROM 1 FOR length($3)) <> $3",
                    " OR ", if_indexed!($kind: concat!("substring(", $plain, "_index FROM 1 FOR length($4))"), "$4"),
                    " <> $4) ORDER BY id LIMIT $2"
                ),
                replace: concat!(
                    "UPDATE ", $table, " SET ", sealed!($plain), " = made.sealed_value",
                    if_indexed!($kind: concat!(", ", $plain, "_index = made.index_value"), ""),
                    " FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[])",
                    " AS made (row_id, former_value, sealed_value, index_value)",
                    " WHERE id = made.row_id AND ", sealed!($plain), " = made.former_value"
                ),
            };
        }
    };
}

stored_column! {
    /// The hashes of local passwords.
    UserPassword(PasswordHash) = "users", "password_hash" (text), plain, purpose "passwords"
}

stored_column! {
    /// What collectors are configured with, which may hold passwords of databases.
    ConfigText(SecretString) = "collector_config", "text" (text), plain, purpose "collector-config"
}

stored_column! {
    /// Where alerts are posted to: the address may be all that it takes to post there.
    AlertWebhook(SecretString) = "alert_rules", "webhook_url" (text), plain, purpose "alert-rules"
}

stored_column! {
    /// The digests of API tokens, found by their blind index.
    ApiTokenDigest(TokenDigest) = "api_tokens", "digest" (bytea), indexed, purpose "api-tokens"
}

/// All of them.
pub(in crate::postgres) const COLUMNS: [&ColumnSql; 4] =
    [UserPassword::SQL, ConfigText::SQL, AlertWebhook::SQL, ApiTokenDigest::SQL];
