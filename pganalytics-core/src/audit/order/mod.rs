//! Orders to take something out of the audit log, signed with a key that no server holds.
//!
//! An order is a signed note (c2sp.org/signed-note) whose text has exactly this form, version 1. Each line ends in a newline:
//!
//! ```text
//! pga.audit.order.1
//! id <UUID>
//! log <name>
//! issued <time>
//! expires <time>
//! by <text>
//! reason <text>
//! erase personal
//! actor user <UUID>
//! resource user <UUID>
//! event <time> <UUID>
//! before <time>
//! ```
//!
//! After `erase personal` there is one selector or more, in the order shown and rising within a kind; at most one is `before`.
//! It takes the personal fields of all events that any selector selects. To take whole months instead, the last lines are
//!
//! ```text
//! drop events
//! month <YYYY-MM>
//! ```
//!
//! with one month or more, rising, each over when the order was issued. Times are UTC with six digits of the second,
//! `2026-11-23T09:30:00.000000Z`; UUIDs are in lower case with hyphens. Texts have 1 to 500 bytes, no control or bidirectional
//! formatting characters and no white space at their ends. Whatever differs from this by a byte is no order.
//!
//! `log` is the name of the log without an era. An order covers only events from before it was issued: what comes later needs
//! another one. From `expires` on nobody begins to execute it; what was taken before stays covered.
//!
//! # For who verifies the log
//! Something that is gone was taken, unless an order [covers](Order::covers) it that [opens](Order::open) with a pinned key:
//! ```
//! use pganalytics_core::audit::LeafRow;
//! use pganalytics_core::audit::order::{Order, Removed};
//! use pganalytics_core::tlog::{Ed25519Verifier, Origin, SignedNote, VerifierKeys};
//!
//! fn opened(notes: &[SignedNote], log: &Origin, keys: &VerifierKeys, ed25519: &dyn Ed25519Verifier) -> Vec<Order> {
//!     notes.iter().filter_map(|note| Order::open(note, log, keys, ed25519).ok()).collect()
//! }
//!
//! fn was_ordered(orders: &[Order], gone: &LeafRow<'_>) -> bool {
//!     orders.iter().any(|order| order.covers(gone, Removed::PersonalFields))
//! }
//! ```

mod document;
mod month;
mod selector;
mod text;

pub use document::{Order, OrderHeading, OrderedAct};
pub use month::{InvalidMonth, Month};
pub use selector::{Removed, Selector};
pub use text::{InvalidOrder, ORDER_TEXT_MAX_BYTES, OrderError};

#[cfg(test)]
mod tests;
