use std::fmt::Write;

/// What a transaction could see: the text of a `pg_snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::postgres::audit) struct Snapshot {
    text: String,
    xmin: u64,
    xmax: u64,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip,…`, and takes nothing else: it becomes part of statements.
    pub(in crate::postgres::audit) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let in_progress = parts.next()?;
        in_progress.bytes().all(|byte| byte.is_ascii_digit() || byte == b',').then_some(())?;
        Some(Self { text: text.to_owned(), xmin, xmax })
    }
}

/// The rows of an era that one snapshot sees and another one did not.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) rows_era: i16,
    /// What was sealed before; nothing at the beginning.
    pub(super) before: Option<Snapshot>,
    /// What is sealed; nothing for all that there is.
    pub(super) until: Option<Snapshot>,
}

impl Window {
    /// The condition on rows `e`. The comparisons with the ends of the snapshots are for the index.
    pub(super) fn condition(&self) -> String {
        let mut sql = format!("e.era = {}", self.rows_era);
        if let Some(Snapshot { text, xmin, .. }) = &self.before {
            write!(
                sql,
                " AND e.xid >= '{xmin}'::xid8 AND NOT pg_visible_in_snapshot(e.xid, '{text}'::pg_snapshot)"
            )
            .expect("a string takes everything");
        }
        if let Some(Snapshot { text, xmax, .. }) = &self.until {
            write!(
                sql,
                " AND e.xid < '{xmax}'::xid8 AND pg_visible_in_snapshot(e.xid, '{text}'::pg_snapshot)"
            )
            .expect("a string takes everything");
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_numbers_and_nothing_else() {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        assert_eq!((snapshot.xmin, snapshot.xmax), (10, 20));
        assert!(Snapshot::parse("10:10:").is_some());
        for text in ["", "10", "10:20", "10:20:x", "10:20:14'", "a:20:", "10:b:", "10:20:1:2"] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
        }
    }
}
