//! The contract of [`SessionEpochs`], a function for each clause.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::ids::UserId;
use crate::session::{Epoch, SessionEpochs, SessionId};
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `SessionEpochs` on the adapter that the expression yields (`async` →
/// `Option<Subject<dyn SessionEpochs>>`).
#[macro_export]
macro_rules! session_epochs_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::session_epochs,
            $subject,
            [
                an_unknown_user_is_in_epoch_zero,
                a_raised_epoch_is_seen_at_once,
                concurrent_raises_count_each,
                raised_epochs_are_paged_in_order,
                any_session_is_announced,
            ]
        );
    };
}

type EpochsSubject = Subject<dyn SessionEpochs>;

fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

/// Clause 1.
pub async fn an_unknown_user_is_in_epoch_zero(subject: EpochsSubject) {
    subject.port.raise(user(1)).await.unwrap();
    assert_eq!(subject.port.epoch(user(2)).await.unwrap(), Epoch(0));
}

/// Clause 2.
pub async fn a_raised_epoch_is_seen_at_once(subject: EpochsSubject) {
    for epoch in 1..=3 {
        assert_eq!(subject.port.raise(user(1)).await.unwrap(), Epoch(epoch));
        assert_eq!(subject.port.epoch(user(1)).await.unwrap(), Epoch(epoch));
    }
}

/// Clause 3.
pub async fn concurrent_raises_count_each(subject: EpochsSubject) {
    let raises = (0..16).map(|_| {
        let epochs = Arc::clone(&subject.port);
        async move { epochs.raise(user(1)).await.unwrap() }
    });
    let mut raised = together(raises).await;
    raised.sort();
    assert_eq!(raised, (1..=16).map(Epoch).collect::<Vec<_>>());
    assert_eq!(subject.port.epoch(user(1)).await.unwrap(), Epoch(16));
}

/// Clause 4.
pub async fn raised_epochs_are_paged_in_order(subject: EpochsSubject) {
    subject.port.raise(user(9)).await.unwrap();
    subject.pass(Duration::from_millis(2)).await;
    let since = subject.now();
    for number in [3, 1, 2, 1] {
        subject.port.raise(user(number)).await.unwrap();
    }
    let (mut found, mut page) = (Vec::new(), subject.port.raised_since(since, None, 2).await.unwrap());
    while let Some(last) = page.last().copied() {
        assert!(page.len() <= 2);
        found.append(&mut page);
        page = subject.port.raised_since(last.at, Some(last.user), 2).await.unwrap();
    }
    assert!(found.is_sorted_by_key(|raised| (raised.at, raised.user)), "{found:?}");
    let mut raised: Vec<_> = found.iter().map(|raised| (raised.user, raised.epoch)).collect();
    raised.sort();
    assert_eq!(raised, [(user(1), Epoch(2)), (user(2), Epoch(1)), (user(3), Epoch(1))]);
}

/// Clause 5.
pub async fn any_session_is_announced(subject: EpochsSubject) {
    let session = SessionId::for_user(user(1), Uuid::from_u128(7));
    for _ in 0..2 {
        subject.port.announce(session).await.unwrap();
    }
}
