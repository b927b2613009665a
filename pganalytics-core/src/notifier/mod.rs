//! Telling other servers that something happened.

mod port;

pub use port::{Notification, Notifier, NotifierError, PAYLOAD_MAX_BYTES, Subscription};
