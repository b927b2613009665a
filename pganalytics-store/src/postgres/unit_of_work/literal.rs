use std::fmt::{Display, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

/// Statements that are sent in one message, and so in one round trip. PostgreSQL takes no parameters there.
///
/// Whatever comes from outside is an escape string constant (PostgreSQL documentation, 4.1.2.2), whose meaning no setting of
/// the server changes. Only what is printable in ASCII stands for itself there, and neither a quote nor a backslash. It has
/// no type of its own: the column, or the other side of an operator, decides what it is.
#[derive(Debug)]
pub(in crate::postgres) struct Statements(String);

impl Statements {
    pub(in crate::postgres) fn beginning_with(statement: &str) -> Self {
        Self(statement.to_owned())
    }

    /// Begins the next statement.
    pub(in crate::postgres) fn then(&mut self, statement: &'static str) -> &mut Self {
        if !self.0.is_empty() {
            self.0.push(';');
        }
        self.sql(statement)
    }

    pub(in crate::postgres) fn sql(&mut self, sql: &'static str) -> &mut Self {
        self.0.push_str(sql);
        self
    }

    pub(in crate::postgres) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.push_str(r"E'\\x");
        self.0.push_str(&hex::encode(value));
        self.sql("'")
    }

    pub(in crate::postgres) fn text(&mut self, value: &str) -> &mut Self {
        self.0.push_str("E'");
        for character in value.chars() {
            match character {
                // PostgreSQL refuses this as a character that no text has, and the form below as wrong syntax.
                '\0' => self.0.push_str(r"\x00"),
                ' '..='~' if !matches!(character, '\'' | '\\') => self.0.push(character),
                other => write!(self.0, r"\U{:08X}", u32::from(other)).expect("a string takes everything"),
            }
        }
        self.sql("'")
    }

    pub(in crate::postgres) fn json(&mut self, value: &serde_json::Value) -> &mut Self {
        self.text(&value.to_string())
    }

    pub(in crate::postgres) fn integer(&mut self, value: i64) -> &mut Self {
        // In parentheses, since a minus would bind looser than a cast.
        self.display(format_args!("({value})"))
    }

    pub(in crate::postgres) fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.display(format_args!("'{value}'"))
    }

    pub(in crate::postgres) fn time(&mut self, value: DateTime<Utc>) -> &mut Self {
        let text = value.to_rfc3339_opts(SecondsFormat::Micros, true);
        self.display(format_args!("'{text}'"))
    }

    /// The value as `write` writes it, or NULL.
    pub(in crate::postgres) fn optional<T>(
        &mut self,
        value: Option<T>,
        write: impl FnOnce(&mut Self, T) -> &mut Self,
    ) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => self.sql("NULL"),
        }
    }

    /// Rows of a VALUES list.
    pub(in crate::postgres) fn rows<T>(
        &mut self,
        rows: &[T],
        mut write: impl FnMut(&mut Self, &T),
    ) -> &mut Self {
        for (index, row) in rows.iter().enumerate() {
            self.sql(if index == 0 { "(" } else { ",(" });
            write(self, row);
            self.sql(")");
        }
        self
    }

    /// An array of bytea.
    pub(in crate::postgres) fn array_of_bytes<'a>(
        &mut self,
        items: impl Iterator<Item = &'a [u8]>,
    ) -> &mut Self {
        self.sql("ARRAY[");
        for (index, item) in items.enumerate() {
            self.sql(if index == 0 { "" } else { "," }).bytes(item);
        }
        self.sql("]::bytea[]")
    }

    /// An array of text.
    pub(in crate::postgres) fn array_of_text<'a>(
        &mut self,
        items: impl Iterator<Item = &'a str>,
    ) -> &mut Self {
        self.sql("ARRAY[");
        for (index, item) in items.enumerate() {
            self.sql(if index == 0 { "" } else { "," }).text(item);
        }
        self.sql("]::text[]")
    }

    pub(in crate::postgres) fn into_sql(self) -> String {
        self.0
    }

    fn display(&mut self, value: impl Display) -> &mut Self {
        write!(self.0, "{value}").expect("a string takes everything");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_place() {
        let mut statements = Statements::beginning_with("BEGIN");
        statements.then("SELECT ").text("'; DROP TABLE users; --\\'\0\n💥").sql(",").bytes(b"');");
        assert_eq!(
            statements.into_sql(),
            r"BEGIN;SELECT E'\U00000027; DROP TABLE users; --\U0000005C\U00000027\x00\U0000000A\U0001F4A5',E'\\x27293b'"
        );
    }
}
