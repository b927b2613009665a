//! What was removed under a signed order, and what was not.

use std::collections::HashSet;
use std::sync::Arc;

use pganalytics_core::audit::LeafRow;
use pganalytics_core::audit::order::Removed;
use pganalytics_store::postgres::{ErasureOrders, Finding, Notice};
use uuid::Uuid;

use super::fixture::ProvedLog;
use crate::samples::uuid;

/// Orders that cover these events.
#[derive(Debug)]
struct Ordered {
    events: HashSet<Uuid>,
    removed: Removed,
}

impl Ordered {
    fn of(events: impl IntoIterator<Item = u128>, removed: Removed) -> Arc<Self> {
        Arc::new(Self { events: events.into_iter().map(uuid).collect(), removed })
    }
}

impl ErasureOrders for Ordered {
    fn covers(&self, event: &LeafRow<'_>, removed: Removed) -> bool {
        self.removed == removed && self.events.contains(&event.id)
    }
}

#[tokio::test]
async fn erased_fields_need_an_order() {
    let Some(log) = ProvedLog::sealed().await else { return };
    for number in [4, 5] {
        let erased: i64 = sqlx::query_scalar(
            "SELECT audit_erase_personal(array_agg(at), array_agg(id)) FROM audit_events WHERE id = $1",
        )
        .bind(uuid(number))
        .fetch_one(log.database.pool())
        .await
        .unwrap();
        assert_eq!(erased, 1);
    }
    let both = Ordered::of([4, 5], Removed::PersonalFields);
    let report = log.verifier().await.with_orders(both).verify(|_| {}).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.notices, [Notice::Erased { events: 0, personal: 2 }]);
    for (one, removed) in [(5, Removed::PersonalFields), (4, Removed::Event)] {
        let orders = Ordered::of([one], removed);
        let report = log.verifier().await.with_orders(orders).verify(|_| {}).await.unwrap();
        let Some(Finding::PersonalGone { event, fields }) = report.findings.first() else {
            panic!("{report}")
        };
        assert_eq!(
            (event.id, &fields[..]),
            (uuid(4), &["actor_name", "address", "user_agent", "changes"][..])
        );
    }
}

#[tokio::test]
async fn dropped_partition_needs_an_order() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.attack("DROP TABLE audit_events_default; DROP TABLE audit_personal_default").await;
    let orders = Ordered::of(0..30, Removed::Event);
    let report = log.verifier().await.with_orders(orders).verify(|_| {}).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.notices, [Notice::Erased { events: 30, personal: 0 }]);
    let orders = Ordered::of((0..30).filter(|number| *number != 7), Removed::Event);
    let report = log.verifier().await.with_orders(orders).verify(|_| {}).await.unwrap();
    let [Finding::MonthGone { rows: 1, first, .. }] = &report.findings[..] else { panic!("{report}") };
    assert_eq!(first.id, uuid(7));
}
