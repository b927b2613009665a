use std::borrow::Cow;

use pganalytics_core::audit::AuditEvent;
use sqlx::{AssertSqlSafe, PgConnection};

use super::commitment::Committed;
use super::row::{EVENT_COLUMNS, PERSONAL_COLUMNS, Record, bounded, salts};
use super::writer::{AuditWriter, PendingNumbers};
use crate::postgres::StoreError;
use crate::postgres::unit_of_work::Statements;

/// Adds one INSERT of all events, and one of their personal fields. What it yields is to be settled once they are committed.
pub(in crate::postgres) fn insert(
    statements: &mut Statements,
    writer: &AuditWriter,
    events: &[AuditEvent],
) -> Result<PendingNumbers, StoreError> {
    let events: Vec<Cow<'_, AuditEvent>> = events.iter().map(bounded).collect();
    let records = records(writer, &events)?;
    let pending = PendingNumbers::new(writer, records.iter().map(|record| (record.sequence, record.key)));
    statements.then("INSERT INTO audit_events (").sql(EVENT_COLUMNS).sql(") VALUES ");
    statements.rows(&records, |statements, record| put_event(statements, record, writer));
    let personal: Vec<&Record<'_>> = records.iter().filter(|record| record.is_personal()).collect();
    if !personal.is_empty() {
        statements.then("INSERT INTO audit_personal (").sql(PERSONAL_COLUMNS).sql(") VALUES ");
        statements.rows(&personal, |statements, record| put_personal(statements, record));
    }
    Ok(pending)
}

/// Stores events in a transaction that goes on. What it yields is to be settled once that is committed.
pub(super) async fn store_events(
    connection: &mut PgConnection,
    writer: &AuditWriter,
    events: &[AuditEvent],
) -> Result<PendingNumbers, StoreError> {
    let mut statements = Statements::beginning_with("");
    let pending = insert(&mut statements, writer, events)?;
    sqlx::raw_sql(AssertSqlSafe(statements.into_sql())).execute(connection).await?;
    Ok(pending)
}

fn records<'e>(
    writer: &AuditWriter,
    events: &'e [Cow<'_, AuditEvent>],
) -> Result<Vec<Record<'e>>, StoreError> {
    let numbers = writer.take_numbers(events.len());
    let numbered = events.iter().zip(numbers.clone().zip(salts(events.len())));
    let records = numbered.map(|(event, (number, salts))| Record::of(event, (writer.id(), number), salts));
    records.collect::<Result<_, _>>().inspect_err(|_| writer.void(numbers))
}

fn put_event(statements: &mut Statements, record: &Record<'_>, writer: &AuditWriter) {
    statements.time(record.key.at).sql(",").uuid(record.key.id).sql(",");
    statements.uuid(record.writer).sql(",").integer(record.sequence);
    for text in &record.texts {
        statements.sql(",").optional(text.as_deref(), Statements::text);
    }
    for field in &record.personal {
        statements.sql(",").optional(field.as_ref(), |into, field| into.bytes(&field.commitment));
    }
    let mac = writer.key().map(|key| key.sign(&record.columns()));
    statements.sql(",").optional(mac.as_deref(), Statements::bytes);
}

fn put_personal(statements: &mut Statements, record: &Record<'_>) {
    let [name, address, agent, changes] = &record.personal;
    statements.time(record.key.at).sql(",").uuid(record.key.id).sql(",");
    put_text(statements, name.as_ref());
    statements.sql(",");
    match (address, record.address) {
        (Some(field), Some(address)) => statements.text(&address.to_string()).sql(",").bytes(&field.salt),
        _ => statements.sql("NULL,NULL"),
    };
    statements.sql(",");
    put_text(statements, agent.as_ref());
    statements.sql(",");
    put_text(statements, changes.as_ref());
}

fn put_text(statements: &mut Statements, field: Option<&Committed<'_>>) {
    match field {
        None => statements.sql("NULL,NULL"),
        Some(Committed { value, salt, .. }) => {
            let text = std::str::from_utf8(value).expect("the field is a text");
            statements.text(text).sql(",").bytes(salt)
        }
    };
}
