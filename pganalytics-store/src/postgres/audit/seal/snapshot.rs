use std::fmt::{self, Write};

/// What a transaction could see, as a `pg_snapshot` says it: transactions before `xmax`, but for those that were in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SealSnapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl SealSnapshot {
    /// Sees nothing.
    pub(super) fn nothing() -> Self {
        Self { xmin: 1, xmax: 1, in_progress: Vec::new() }
    }

    /// Sees all transactions of an era that is over.
    pub(super) fn everything() -> Self {
        let end = i64::MAX.unsigned_abs();
        Self { xmin: end, xmax: end, in_progress: Vec::new() }
    }

    /// Reads the text of a `pg_snapshot`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let in_progress = parts.next()?.split(',').filter(|xid| !xid.is_empty());
        let in_progress = in_progress.map(|xid| xid.parse().ok()).collect::<Option<_>>()?;
        Some(Self { xmin, xmax, in_progress })
    }

    /// The same, but that of the transactions which `before` did not see it sees none from this one on. What `before` saw stays
    /// seen, also where the cut is among those that were in progress then.
    pub(super) fn cut_at(&self, xid: u64, before: &Self) -> Self {
        let xmax = self.xmax.min(xid.max(before.xmax));
        let now = self.in_progress.iter().filter(|in_progress| **in_progress < xmax);
        let left = before.in_progress.iter().filter(|in_progress| **in_progress >= xid);
        let mut in_progress: Vec<u64> = now.chain(left).copied().collect();
        in_progress.sort_unstable();
        in_progress.dedup();
        Self { xmin: in_progress.first().copied().unwrap_or(xmax), xmax, in_progress }
    }

    /// The conditions on rows `e` that this snapshot does not see, in the order of their transactions. Each of them is a range of the
    /// index; in one statement they would have everything read that came after a transaction that stayed open for long.
    pub(super) fn unseen(&self) -> Vec<String> {
        let mut conditions = Vec::new();
        if !self.in_progress.is_empty() {
            let mut in_progress = String::new();
            self.list(&mut in_progress);
            conditions.push(format!("e.xid = ANY ('{{{in_progress}}}'::xid8[])"));
        }
        conditions.push(format!("e.xid >= '{}'::xid8", self.xmax));
        conditions
    }

    /// The condition on rows `e` that this snapshot sees.
    pub(super) fn seen(&self) -> String {
        format!("e.xid < '{}'::xid8 AND pg_visible_in_snapshot(e.xid, '{self}'::pg_snapshot)", self.xmax)
    }

    fn list(&self, into: &mut String) {
        for (place, xid) in self.in_progress.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(into, "{comma}{xid}").expect("a string takes everything");
        }
    }
}

impl fmt::Display for SealSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = String::new();
        self.list(&mut list);
        write!(f, "{}:{}:{list}", self.xmin, self.xmax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_written_as_they_are_read() {
        for text in ["10:20:10,14", "10:10:", "1:1:"] {
            assert_eq!(SealSnapshot::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "10", "10:20", "10:20:x", "10:20:14'", "a:20:", "10:b:", "10:20:1:2"] {
            assert_eq!(SealSnapshot::parse(text), None, "{text}");
        }
    }

    #[test]
    fn cut_snapshot_sees_no_later_transaction() {
        let (snapshot, nothing) = (SealSnapshot::parse("10:20:10,14").unwrap(), SealSnapshot::nothing());
        assert_eq!(snapshot.cut_at(12, &nothing).to_string(), "10:12:10");
        assert_eq!(snapshot.cut_at(10, &nothing).to_string(), "10:10:");
        assert_eq!(snapshot.cut_at(7, &nothing).to_string(), "7:7:");
        assert_eq!(snapshot.cut_at(30, &nothing), snapshot);
    }

    #[test]
    fn cut_among_transactions_that_were_in_progress_forgets_nothing_that_was_seen() {
        let before = SealSnapshot::parse("970:973:970,971").unwrap();
        let now = SealSnapshot::parse("980:980:").unwrap();
        assert_eq!(now.cut_at(971, &before).to_string(), "971:973:971");
        assert_eq!(now.cut_at(975, &before).to_string(), "975:975:");
        let now = SealSnapshot::parse("970:980:970").unwrap();
        assert_eq!(now.cut_at(971, &before).to_string(), "970:973:970,971");
    }

    #[test]
    fn what_is_unseen_began_later_or_was_in_progress() {
        assert_eq!(SealSnapshot::parse("10:10:").unwrap().unseen(), ["e.xid >= '10'::xid8"]);
        assert_eq!(
            SealSnapshot::parse("10:20:10,14").unwrap().unseen(),
            ["e.xid = ANY ('{10,14}'::xid8[])", "e.xid >= '20'::xid8"]
        );
    }
}
