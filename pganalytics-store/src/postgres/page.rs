/// One page of a list that is asked for by number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The rows of this page; empty past the end.
    pub rows: Vec<T>,
    /// How many rows all pages have together.
    pub total: i64,
}

/// How many rows come before page `number`, the first of which is 1.
pub(super) fn rows_before(number: u32, size: u32) -> i64 {
    i64::from(number.saturating_sub(1)).saturating_mul(i64::from(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_page_has_nothing_before_it() {
        assert_eq!(rows_before(1, 20), 0);
        assert_eq!(rows_before(0, 20), 0);
        assert_eq!(rows_before(3, 20), 40);
        assert_eq!(rows_before(u32::MAX, u32::MAX), i64::MAX);
    }
}
