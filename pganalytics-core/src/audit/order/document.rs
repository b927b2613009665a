use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::selector::selectors_of;
use super::{InvalidOrder, Month, OrderError, Removed, Selector};
use crate::audit::LeafRow;
use crate::tlog::{Ed25519Verifier, NoteKeyKind, Origin, SignedNote, VerifierKeys};

/// An order. What [`open`](Self::open) yields is believed; one that is made by hand is still to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What it is known by: it is executed once.
    pub id: Uuid,
    /// Which log it is for, by its name without an era.
    pub log: Origin,
    /// When it was issued, by the clock of whoever signed, in whole microseconds. It covers nothing later.
    pub issued_at: DateTime<Utc>,
    /// From when on nobody may begin to execute it, in whole microseconds. What was done before stays covered.
    pub expires_at: DateTime<Utc>,
    /// Who gave it.
    pub by: String,
    /// Why. It is kept for as long as the log: best the number of a case, and no name.
    pub reason: String,
    /// What it orders.
    pub act: OrderedAct,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderedAct {
    /// Erase the personal fields of events that any of these selects, which rise strictly.
    ErasePersonal(Vec<Selector>),
    /// Drop the partitions of these months with all that they hold. The months rise strictly.
    DropEvents(Vec<Month>),
}

impl Order {
    /// An order to erase personal fields, its selectors put in order.
    ///
    /// # Errors
    /// When it is none that can be given.
    pub fn to_erase(
        heading: OrderHeading,
        selectors: impl IntoIterator<Item = Selector>,
    ) -> Result<Self, InvalidOrder> {
        Self::of(heading, OrderedAct::ErasePersonal(rising(selectors)))
    }

    /// An order to drop months, which are put in order.
    ///
    /// # Errors
    /// When it is none that can be given.
    pub fn to_drop(
        heading: OrderHeading,
        months: impl IntoIterator<Item = Month>,
    ) -> Result<Self, InvalidOrder> {
        Self::of(heading, OrderedAct::DropEvents(rising(months)))
    }

    fn of(heading: OrderHeading, act: OrderedAct) -> Result<Self, InvalidOrder> {
        let OrderHeading { id, log, issued_at, expires_at, by, reason } = heading;
        let whole = |at: DateTime<Utc>| DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at);
        let (issued_at, expires_at) = (whole(issued_at), whole(expires_at));
        let order = Self { id, log, issued_at, expires_at, by, reason, act };
        order.check()?;
        Ok(order)
    }

    /// Reads an order for this log and makes sure that one of these keys signed it.
    ///
    /// # Errors
    /// When none did, or what is signed is no order or is for another log.
    pub fn open(
        note: &SignedNote,
        log: &Origin,
        keys: &VerifierKeys,
        ed25519: &dyn Ed25519Verifier,
    ) -> Result<Self, OrderError> {
        let signed = note.verify(keys, ed25519).map_err(|error| OrderError::Signature(Some(error)))?;
        // A witness signs another text: the note under a time.
        if !signed.iter().any(|signed| signed.key.kind() == NoteKeyKind::Ed25519) {
            return Err(OrderError::Signature(None));
        }
        let order = Self::parse(note.unverified_text())?;
        if order.log != *log {
            return Err(OrderError::OtherLog { found: order.log, expected: log.clone() });
        }
        Ok(order)
    }

    /// Whether this order lets this be removed of the event, by what is proved of the event alone.
    pub fn covers(&self, event: &LeafRow<'_>, removed: Removed) -> bool {
        let Some(at) = event.at().filter(|at| *at < self.issued_at) else { return false };
        match &self.act {
            OrderedAct::ErasePersonal(selectors) => {
                // `before` is the last one, if it is there.
                let before = matches!(selectors.last(), Some(Selector::Before(before)) if at < *before);
                let mut selects = selectors_of(event).map(|it| selectors.binary_search(&it).is_ok());
                removed == Removed::PersonalFields && (before || selects.any(|selects| selects))
            }
            OrderedAct::DropEvents(months) => {
                Month::of(at).is_some_and(|month| months.binary_search(&month).is_ok())
            }
        }
    }
}

/// Which order it is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderHeading {
    /// What it is known by.
    pub id: Uuid,
    /// Which log it is for, by its name without an era.
    pub log: Origin,
    /// When it is issued; parts of a microsecond are cut off.
    pub issued_at: DateTime<Utc>,
    /// From when on nobody may begin to execute it; parts of a microsecond are cut off.
    pub expires_at: DateTime<Utc>,
    /// Who gives it.
    pub by: String,
    /// Why.
    pub reason: String,
}

fn rising<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items
}
