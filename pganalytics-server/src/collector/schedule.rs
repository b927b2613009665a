//! When what is collected, and how long to wait after a failure.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::random::{Random, RandomExt};
use uuid::Uuid;

/// Slots of time, aligned to the clock and shifted by a part that is the node's own: after a common restart the nodes
/// do not collect and push together, and each keeps its rhythm through its own restarts.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Microseconds by which the node's slots begin later than the clock's. One for all intervals, so that those which
    /// divide each other fall together and share their connections.
    shift: i64,
    intervals: BTreeMap<&'static str, TimeDelta>,
    last_slots: BTreeMap<&'static str, i64>,
}

impl Schedule {
    /// A schedule in which everything is due at once.
    pub(super) fn new(node: Uuid) -> Self {
        // The id's last bytes are random, its first ones are a time.
        let random = (node.as_u128() & u128::from(u64::MAX)) as u64;
        let shift = i64::try_from(random % DAY_MICROS).unwrap_or(0);
        Self { shift, intervals: BTreeMap::new(), last_slots: BTreeMap::new() }
    }

    /// Sets what is collected and how often. Types that go on keep their rhythm.
    pub(super) fn set(&mut self, intervals: BTreeMap<&'static str, Duration>) {
        let known = |kind: &&str| self.last_slots.contains_key(*kind);
        let changed: Vec<&'static str> = intervals
            .iter()
            .filter(|(kind, interval)| {
                known(kind) && self.intervals.get(*kind) != TimeDelta::from_std(**interval).ok().as_ref()
            })
            .map(|(kind, _)| *kind)
            .collect();
        for kind in changed {
            self.last_slots.remove(kind);
        }
        self.intervals = intervals
            .into_iter()
            .filter_map(|(kind, interval)| Some((kind, TimeDelta::from_std(interval).ok()?)))
            .collect();
    }

    /// Takes what is due. What was missed is not made up for.
    pub(super) fn take_due(&mut self, now: DateTime<Utc>) -> Vec<&'static str> {
        let mut due = Vec::new();
        for (kind, interval) in &self.intervals {
            let slot = self.slot(now, *interval);
            if self.last_slots.insert(kind, slot) != Some(slot) {
                due.push(*kind);
            }
        }
        due
    }

    /// How long until something is due.
    pub(super) fn until_next(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.intervals
            .iter()
            .map(|(kind, interval)| {
                let slot = self.slot(now, *interval);
                if self.last_slots.get(kind) != Some(&slot) {
                    return Duration::ZERO;
                }
                let next = micros(*interval) * (slot + 1) + self.offset(*interval);
                let wait = next.saturating_sub(now.timestamp_micros()).max(0);
                Duration::from_micros(u64::try_from(wait).unwrap_or(0))
            })
            .min()
    }

    fn slot(&self, now: DateTime<Utc>, interval: TimeDelta) -> i64 {
        (now.timestamp_micros() - self.offset(interval)).div_euclid(micros(interval))
    }

    fn offset(&self, interval: TimeDelta) -> i64 {
        self.shift % micros(interval)
    }
}

/// No interval is longer.
const DAY_MICROS: u64 = 86_400_000_000;

fn micros(interval: TimeDelta) -> i64 {
    interval.num_microseconds().unwrap_or(i64::MAX).max(1)
}

/// Waiting times after failures: uniformly random up to a limit that doubles ("full jitter"), so that collectors do
/// not come back together.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    base: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) const fn new(base: Duration, limit: Duration) -> Self {
        Self { base, limit, failures: 0 }
    }

    /// The wait after one more failure; never shorter than what the server asked for.
    pub(super) fn next(&mut self, random: &dyn Random, asked: Option<Duration>) -> Duration {
        let ceiling = self.base.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.limit);
        self.failures = self.failures.saturating_add(1);
        let wait = ceiling.mul_f64(random.next_fraction());
        match asked {
            // Those who were told the same time must not come back at the same time either.
            Some(asked) => asked.min(MAX_ASKED) + wait.min(asked),
            None => wait,
        }
    }

    /// It works again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Longest `Retry-After` that is obeyed.
const MAX_ASKED: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn schedule(node: u128, intervals: &[(&'static str, u64)]) -> Schedule {
        let mut schedule = Schedule::new(Uuid::from_u128(node));
        schedule.set(intervals.iter().map(|(kind, s)| (*kind, Duration::from_secs(*s))).collect());
        schedule
    }

    #[test]
    fn everything_is_due_at_the_start_and_then_once_an_interval() {
        let mut schedule = schedule(0, &[("slow", 300), ("fast", 60)]);
        assert_eq!(schedule.take_due(at(0)), ["fast", "slow"]);
        assert!(schedule.take_due(at(59)).is_empty());
        assert_eq!(schedule.take_due(at(60)), ["fast"]);
        assert_eq!(schedule.take_due(at(299)), ["fast"]);
        assert_eq!(schedule.take_due(at(300)), ["fast", "slow"]);
    }

    #[test]
    fn missed_slots_are_not_made_up_for() {
        let mut schedule = schedule(0, &[("fast", 60)]);
        schedule.take_due(at(0));
        assert_eq!(schedule.take_due(at(100_000)), ["fast"]);
        assert!(schedule.take_due(at(100_001)).is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_the_collection() {
        let mut schedule = schedule(0, &[("fast", 60)]);
        schedule.take_due(at(100_000));
        assert_eq!(schedule.take_due(at(0)), ["fast"]);
        assert!(schedule.until_next(at(0)).unwrap() <= Duration::from_secs(60));
    }

    #[test]
    fn nodes_are_spread_over_the_interval_and_keep_their_place() {
        let wait = |node| {
            let mut schedule = schedule(node, &[("fast", 60)]);
            schedule.take_due(at(0));
            schedule.until_next(at(0)).unwrap()
        };
        let node = |number: u128| number * 0x9e37_79b9_7f4a_7c15;
        let waits: BTreeSet<_> = (1..65).map(|number| wait(node(number))).collect();
        assert_eq!(waits.len(), 64);
        assert!(*waits.last().unwrap() - *waits.first().unwrap() > Duration::from_secs(50));
        assert_eq!(wait(node(7)), wait(node(7)));
    }

    #[test]
    fn the_wait_ends_when_something_is_due() {
        let mut schedule = schedule(u128::from(u64::MAX / 3), &[("fast", 60), ("slow", 300)]);
        schedule.take_due(at(0));
        let mut now = at(0);
        let mut together = 0;
        for _ in 0..100 {
            now += schedule.until_next(now).unwrap();
            let due = schedule.take_due(now);
            assert!(due.contains(&"fast"), "{due:?}");
            together += usize::from(due.contains(&"slow"));
        }
        assert!(now > at(5900) && now <= at(6000));
        assert_eq!(together, 20);
    }

    #[test]
    fn a_new_interval_takes_effect_at_once_and_leaves_other_types_alone() {
        let mut schedule = schedule(0, &[("a", 60), ("b", 60)]);
        schedule.take_due(at(0));
        schedule.set([("a", Duration::from_secs(10)), ("b", Duration::from_secs(60))].into());
        assert_eq!(schedule.take_due(at(1)), ["a"]);
        assert_eq!(schedule.take_due(at(10)), ["a"]);
        schedule.set(BTreeMap::new());
        assert_eq!(schedule.until_next(at(10)), None);
    }

    #[derive(Debug)]
    struct Highest;

    impl Random for Highest {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(0xff);
        }
    }

    #[derive(Debug)]
    struct Lowest;

    impl Random for Lowest {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(0);
        }
    }

    #[test]
    fn waits_double_up_to_the_limit_and_start_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let waits: Vec<u64> =
            (0..8).map(|_| backoff.next(&Highest, None).as_secs_f64().round() as u64).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert!(backoff.next(&Highest, None) <= Duration::from_secs(1));
        assert_eq!(backoff.next(&Lowest, None), Duration::ZERO);
    }

    #[test]
    fn the_servers_wish_is_a_lower_bound_and_is_itself_bounded() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(backoff.next(&Lowest, Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert!(backoff.next(&Highest, Some(Duration::from_secs(30))) > Duration::from_secs(30));
        assert_eq!(backoff.next(&Lowest, Some(Duration::MAX)), MAX_ASKED);
    }
}
