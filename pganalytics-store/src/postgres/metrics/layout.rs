//! Which rows an entry becomes.

use std::borrow::Cow;
use std::ops::Range;

use super::entry::SkipReason;
use super::scan::{Fault, Member, elements, members};

/// The most rows that one entry may become. A schema of 10 000 tables with 20 columns each is below it.
const MAX_ROWS: usize = 500_000;

/// The largest row. Large enough for the text of any query that somebody wrote; PostgreSQL needs a multiple of it
/// in memory while it parses.
const MAX_ROW_LEN: usize = 4 << 20;

/// The longest name of a database or list.
const MAX_DATABASE_LEN: usize = 255;
const MAX_SECTION_LEN: usize = 64;

/// How an entry's text divides into rows: the entry itself, then each of its `databases`.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    pub(super) parts: Vec<Part<'a>>,
}

/// An object whose lists become rows of their own, and whose other values become one row.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// Empty for the entry itself where it is about no single database.
    pub(super) database: Cow<'a, str>,
    object: Range<usize>,
    /// What the row of plain values leaves out, ascending.
    cuts: Vec<Cut>,
    pub(super) sections: Vec<Section<'a>>,
}

/// A list: the value of `name`, or of `outer.inner` within a nested object.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) rows: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Cut {
    value: Range<usize>,
    replacement: &'static str,
}

impl<'a> Layout<'a> {
    /// Divides the text of an entry that [`check`](super::scan::check) has passed. `database` is what the entry as
    /// a whole is about.
    pub(super) fn new(text: &'a str, database: &'a str) -> Result<Self, Fault> {
        let mut layout = Self { parts: Vec::with_capacity(1) };
        let mut entry = Part::new(Cow::Borrowed(database), 0..text.len());
        for member in last_of_each_key(members(text, 0..text.len()), &mut entry.cuts) {
            if member.key == "databases" && text[member.value.clone()].starts_with('{') {
                layout.divide_databases(text, member.value.clone())?;
                entry.cuts.push(Cut { value: member.value, replacement: "{}" });
            } else {
                entry.divide_member(text, member, None);
            }
        }
        layout.parts.push(entry);
        for part in &mut layout.parts {
            part.cuts.sort_by_key(|cut| cut.value.start);
        }
        layout.check_sizes()?;
        Ok(layout)
    }

    /// How many rows the entry becomes.
    pub(super) fn row_count(&self) -> usize {
        let listed = self.parts.iter().flat_map(|part| &part.sections).map(|section| section.rows.len());
        self.parts.len() + listed.sum::<usize>()
    }

    fn divide_databases(&mut self, text: &'a str, databases: Range<usize>) -> Result<(), Fault> {
        let mut superseded = Vec::new();
        for member in last_of_each_key(members(text, databases), &mut superseded) {
            check_database(&member.key).map_err(|reason| reason.at(member.value.start))?;
            let mut part = Part::new(member.key, member.value.clone());
            if text[member.value.clone()].starts_with('{') {
                for inner in last_of_each_key(members(text, member.value), &mut part.cuts) {
                    part.divide_member(text, inner, None);
                }
            }
            self.parts.push(part);
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), Fault> {
        if self.row_count() > MAX_ROWS {
            return Err(SkipReason::TooManyRows.at(0));
        }
        for part in &self.parts {
            if part.plain_len() > MAX_ROW_LEN {
                return Err(SkipReason::RowTooLarge.at(part.object.start));
            }
            let rows = part.sections.iter().flat_map(|section| &section.rows);
            if let Some(row) = rows.into_iter().find(|row| row.len() > MAX_ROW_LEN) {
                return Err(SkipReason::RowTooLarge.at(row.start));
            }
        }
        Ok(())
    }
}

impl<'a> Part<'a> {
    fn new(database: Cow<'a, str>, object: Range<usize>) -> Self {
        Self { database, object, cuts: Vec::new(), sections: Vec::new() }
    }

    /// Appends the row of plain values: the object with an empty list in the place of each that became rows.
    pub(super) fn write_plain(&self, text: &str, into: &mut Vec<u8>) {
        let mut done = self.object.start;
        for cut in &self.cuts {
            into.extend_from_slice(&text.as_bytes()[done..cut.value.start]);
            into.extend_from_slice(cut.replacement.as_bytes());
            done = cut.value.end;
        }
        into.extend_from_slice(&text.as_bytes()[done..self.object.end]);
    }

    fn plain_len(&self) -> usize {
        let cut: usize = self.cuts.iter().map(|cut| cut.value.len() - cut.replacement.len()).sum();
        self.object.len() - cut
    }

    /// Lists of objects become sections, here and in objects directly within.
    fn divide_member(&mut self, text: &'a str, member: Member<'a>, outer: Option<&str>) {
        let Member { key, value } = member;
        if !is_section_name(&key) {
            return;
        }
        match text.as_bytes()[value.start] {
            b'[' => {
                let rows = rows_of(text, value.clone());
                if !rows.is_empty() {
                    let name = match outer {
                        Some(outer) => Cow::Owned(format!("{outer}.{key}")),
                        None => key,
                    };
                    self.sections.push(Section { name, rows });
                    self.cuts.push(Cut { value, replacement: "[]" });
                }
            }
            b'{' if outer.is_none() => {
                for inner in last_of_each_key(members(text, value), &mut self.cuts) {
                    self.divide_member(text, inner, Some(&key));
                }
            }
            _ => (),
        }
    }
}

/// The length and form of a database's name that can be a key.
pub(super) fn check_database(name: &str) -> Result<(), SkipReason> {
    match name.len() {
        1..=MAX_DATABASE_LEN => Ok(()),
        _ => Err(SkipReason::InvalidDatabase),
    }
}

/// Of members with the same key jsonb keeps the last, so the others are cut out of the text.
fn last_of_each_key<'a>(found: impl Iterator<Item = Member<'a>>, cuts: &mut Vec<Cut>) -> Vec<Member<'a>> {
    let mut kept: Vec<Member<'a>> = found.collect();
    let mut by_key: Vec<usize> = (0..kept.len()).collect();
    by_key.sort_by(|&a, &b| kept[a].key.cmp(&kept[b].key).then(a.cmp(&b)));
    let mut superseded = vec![false; kept.len()];
    for pair in by_key.windows(2).filter(|pair| kept[pair[0]].key == kept[pair[1]].key) {
        superseded[pair[0]] = true;
        cuts.push(Cut { value: kept[pair[0]].value.clone(), replacement: "0" });
    }
    let mut superseded = superseded.into_iter();
    kept.retain(|_| superseded.next() == Some(false));
    kept
}

/// The elements of an array of objects; nothing when there is another value among them.
fn rows_of(text: &str, array: Range<usize>) -> Vec<Range<usize>> {
    let mut rows = Vec::new();
    for element in elements(text, array) {
        if text.as_bytes()[element.start] != b'{' {
            return Vec::new();
        }
        rows.push(element);
    }
    rows
}

fn is_section_name(key: &str) -> bool {
    (1..=MAX_SECTION_LEN).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
