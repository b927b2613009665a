use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, Utc};

/// A month in UTC, of the years 1 to 9998: `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(NaiveDate);

/// A text that names no month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a month is written like 2026-11")]
pub struct InvalidMonth;

impl Month {
    /// The month of a time. `None` outside of the years 1 to 9998.
    pub fn of(at: DateTime<Utc>) -> Option<Self> {
        Self::of_date(at.date_naive())
    }

    /// The month of a day. `None` outside of the years 1 to 9998.
    pub fn of_date(date: NaiveDate) -> Option<Self> {
        let first = date.with_day(1)?;
        (1..=9998).contains(&first.year()).then_some(Self(first))
    }

    /// When it begins.
    pub fn start(self) -> DateTime<Utc> {
        self.0.and_time(NaiveTime::MIN).and_utc()
    }

    /// When the next one begins.
    pub fn end(self) -> DateTime<Utc> {
        self.start() + Months::new(1)
    }

    /// Its first day.
    pub fn first_day(self) -> NaiveDate {
        self.0
    }

    /// Whether the time lies in it.
    pub fn contains(self, at: DateTime<Utc>) -> bool {
        self.start() <= at && at < self.end()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0.year(), self.0.month())
    }
}

impl FromStr for Month {
    type Err = InvalidMonth;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (year, month) = text.split_once('-').ok_or(InvalidMonth)?;
        let (year, month) = (year.parse().ok(), month.parse().ok());
        let date = year.zip(month).and_then(|(year, month)| NaiveDate::from_ymd_opt(year, month, 1));
        let month = date.and_then(Self::of_date).ok_or(InvalidMonth)?;
        if month.to_string() == text { Ok(month) } else { Err(InvalidMonth) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_ends_where_the_next_begins() {
        let december: Month = "2026-12".parse().unwrap();
        assert_eq!(december.end(), "2027-01".parse::<Month>().unwrap().start());
        assert!(december.contains(december.start()) && !december.contains(december.end()));
        assert_eq!(Month::of(december.end()).unwrap().to_string(), "2027-01");
    }

    #[test]
    fn only_canonical_months_are_read() {
        for text in [
            "", "2026", "2026-", "2026-13", "2026-0", "2026-00", "2026-1", "+2026-01", "02026-01", "0000-01",
            "9999-12",
        ] {
            assert_eq!(text.parse::<Month>(), Err(InvalidMonth), "{text:?}");
        }
    }
}
