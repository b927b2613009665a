use std::fmt::Write;
use std::str::Split;

use chrono::{DateTime, Utc};

use super::selector::canonical;
use super::{Month, Order, OrderedAct, Selector};
use crate::tlog::{InvalidNote, NoteError, NoteText, Origin};

const FIRST_LINE: &str = "pga.audit.order.1";
const ERASE: &str = "erase personal";
const DROP: &str = "drop events";

/// The longest text in an order, in bytes.
pub const ORDER_TEXT_MAX_BYTES: usize = 500;

/// Why something is no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOrder {
    /// A line is not what stands there in an order.
    #[error("line {line} is not `{expected}`")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// A text is empty, too long, or has characters that could hide what it says.
    #[error(
        "`{field}` has 1 to {ORDER_TEXT_MAX_BYTES} bytes, no control or bidirectional characters and no white space at its ends"
    )]
    Text {
        /// The field.
        field: &'static str,
    },
    /// A time has parts of a microsecond or does not lie within the years 1 to 9998.
    #[error("a time of the order is not one of whole microseconds in the years 1 to 9998")]
    Time,
    /// It selects nothing.
    #[error("the order says of nothing what should be done to it")]
    NothingSelected,
    /// Selectors or months do not rise, or there are two that say `before`.
    #[error("the selectors do not rise strictly, or `before` is there twice")]
    NotRising,
    /// It is about what is still to come.
    #[error("the order is about a time that was not over when it was issued")]
    NotOver,
    /// It expires before it was issued.
    #[error("the order expires before it was issued")]
    Expiry,
    /// It does not fit into a note.
    #[error("the order does not fit into a note")]
    Note(#[source] InvalidNote),
}

/// Why a note is not taken for an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// It is no signed note.
    #[error("it is no signed note")]
    Note(#[source] InvalidNote),
    /// It is not signed with a known key for orders.
    #[error("the order is not signed with a key of `audit.order_keys`")]
    Signature(#[source] Option<NoteError>),
    /// It is signed, and is no order.
    #[error("what is signed is no order")]
    Invalid(#[from] InvalidOrder),
    /// It is an order for another log.
    #[error("the order is for the log `{found}`, and this one is `{expected}`")]
    OtherLog {
        /// The log of the order.
        found: Origin,
        /// This log.
        expected: Origin,
    },
}

impl Order {
    /// What is to be signed.
    ///
    /// # Errors
    /// When it is not what [`check`](Self::check) accepts, or does not fit into a note.
    pub fn to_text(&self) -> Result<NoteText, InvalidOrder> {
        self.check()?;
        let mut text = format!(
            "{FIRST_LINE}\nid {}\nlog {}\nissued {}\nexpires {}\nby {}\nreason {}\n",
            self.id,
            self.log,
            time(self.issued_at),
            time(self.expires_at),
            self.by,
            self.reason
        );
        match &self.act {
            OrderedAct::ErasePersonal(selectors) => {
                text.push_str(ERASE);
                selectors.iter().for_each(|selector| put_selector(&mut text, selector));
            }
            OrderedAct::DropEvents(months) => {
                text.push_str(DROP);
                months.iter().for_each(|month| put(&mut text, format_args!("\nmonth {month}")));
            }
        }
        text.push('\n');
        NoteText::new(text).map_err(InvalidOrder::Note)
    }

    /// Reads the text of an order. That proves nothing: [`open`](Self::open) does.
    ///
    /// # Errors
    /// What makes it no order.
    pub fn parse(text: &NoteText) -> Result<Self, InvalidOrder> {
        let mut lines = Lines { lines: text.as_str().split('\n'), line: 0 };
        lines.exactly(FIRST_LINE)?;
        let id = lines.field("id <UUID>", canonical)?;
        let log = lines.field("log <name>", |name| name.parse().ok())?;
        let issued_at = lines.field("issued <time>", parse_time)?;
        let expires_at = lines.field("expires <time>", parse_time)?;
        let by = lines.field("by <text>", |text| Some(text.to_owned()))?;
        let reason = lines.field("reason <text>", |text| Some(text.to_owned()))?;
        let act = match lines.next() {
            Some(ERASE) => {
                OrderedAct::ErasePersonal(lines.rest("actor, resource, event or before", parse_selector)?)
            }
            Some(DROP) => OrderedAct::DropEvents(
                lines.rest("month <YYYY-MM>", |line| line.strip_prefix("month ")?.parse::<Month>().ok())?,
            ),
            _ => return Err(lines.refuse("erase personal` or `drop events")),
        };
        let order = Self { id, log, issued_at, expires_at, by, reason, act };
        order.check()?;
        Ok(order)
    }

    /// Makes sure that this is what an order can say.
    ///
    /// # Errors
    /// What cannot be said.
    pub fn check(&self) -> Result<(), InvalidOrder> {
        check_text("by", &self.by)?;
        check_text("reason", &self.reason)?;
        check_text("log", self.log.as_str())?;
        check_time(self.issued_at)?;
        check_time(self.expires_at)?;
        if self.expires_at <= self.issued_at {
            return Err(InvalidOrder::Expiry);
        }
        match &self.act {
            OrderedAct::ErasePersonal(selectors) => {
                check_rising(selectors)?;
                let before = selectors.iter().filter(|selector| matches!(selector, Selector::Before(_)));
                if before.count() > 1 {
                    return Err(InvalidOrder::NotRising);
                }
                selectors.iter().try_for_each(|selector| self.check_selector(selector))
            }
            OrderedAct::DropEvents(months) => {
                check_rising(months)?;
                let is_over = months.iter().all(|month| month.end() <= self.issued_at);
                if is_over { Ok(()) } else { Err(InvalidOrder::NotOver) }
            }
        }
    }

    fn check_selector(&self, selector: &Selector) -> Result<(), InvalidOrder> {
        match *selector {
            Selector::ActorUser(_) | Selector::ResourceUser(_) => Ok(()),
            Selector::Event { at, .. } | Selector::Before(at) => {
                check_time(at)?;
                if at <= self.issued_at { Ok(()) } else { Err(InvalidOrder::NotOver) }
            }
        }
    }
}

struct Lines<'t> {
    lines: Split<'t, char>,
    line: usize,
}

impl<'t> Lines<'t> {
    fn next(&mut self) -> Option<&'t str> {
        self.line += 1;
        self.lines.next()
    }

    fn refuse(&self, expected: &'static str) -> InvalidOrder {
        InvalidOrder::Line { line: self.line, expected }
    }

    fn exactly(&mut self, expected: &'static str) -> Result<(), InvalidOrder> {
        let line = self.next();
        if line == Some(expected) { Ok(()) } else { Err(self.refuse(expected)) }
    }

    /// A line of the name that `expected` begins with, and what the rest of it says.
    fn field<T>(
        &mut self,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, InvalidOrder> {
        let (name, _) = expected.split_once(' ').expect("the constants have a space");
        let value = self.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(parse).ok_or_else(|| self.refuse(expected))
    }

    /// All lines that are left. The last one is empty, since the text ends in a newline.
    fn rest<T>(
        &mut self,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, InvalidOrder> {
        let mut rest = Vec::new();
        while let Some(line) = self.next() {
            if line.is_empty() && self.lines.clone().next().is_none() {
                return Ok(rest);
            }
            rest.push(parse(line).ok_or_else(|| self.refuse(expected))?);
        }
        Ok(rest)
    }
}

fn put_selector(text: &mut String, selector: &Selector) {
    match selector {
        Selector::ActorUser(id) => put(text, format_args!("\nactor user {id}")),
        Selector::ResourceUser(id) => put(text, format_args!("\nresource user {id}")),
        Selector::Event { at, id } => put(text, format_args!("\nevent {} {id}", time(*at))),
        Selector::Before(at) => put(text, format_args!("\nbefore {}", time(*at))),
    }
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a string takes everything");
}

fn parse_selector(line: &str) -> Option<Selector> {
    let (kind, value) = line.split_once(' ')?;
    match kind {
        "actor" => value.strip_prefix("user ").and_then(canonical).map(Selector::ActorUser),
        "resource" => value.strip_prefix("user ").and_then(canonical).map(Selector::ResourceUser),
        "event" => {
            let (at, id) = value.split_once(' ')?;
            Some(Selector::Event { at: parse_time(at)?, id: canonical(id)? })
        }
        "before" => parse_time(value).map(Selector::Before),
        _ => None,
    }
}

fn time(at: DateTime<Utc>) -> impl std::fmt::Display {
    at.format("%Y-%m-%dT%H:%M:%S%.6fZ")
}

fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    (check_time(at).is_ok() && time(at).to_string() == text).then_some(at)
}

/// Leap seconds have more nanoseconds than a second has.
fn check_time(at: DateTime<Utc>) -> Result<(), InvalidOrder> {
    let is_whole = DateTime::from_timestamp_micros(at.timestamp_micros()) == Some(at);
    if is_whole && Month::of(at).is_some() { Ok(()) } else { Err(InvalidOrder::Time) }
}

fn check_text(field: &'static str, text: &str) -> Result<(), InvalidOrder> {
    let fits = (1..=ORDER_TEXT_MAX_BYTES).contains(&text.len());
    if fits && text.trim() == text && !text.chars().any(hides) {
        Ok(())
    } else {
        Err(InvalidOrder::Text { field })
    }
}

/// Control characters, line separators and what turns the direction of writing (Unicode, UAX #9, section 2).
fn hides(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn check_rising<T: Ord>(rising: &[T]) -> Result<(), InvalidOrder> {
    if rising.is_empty() {
        return Err(InvalidOrder::NothingSelected);
    }
    if rising.is_sorted_by(|one, next| one < next) { Ok(()) } else { Err(InvalidOrder::NotRising) }
}
