//! Telling other servers that something happened.

mod memory;
mod port;

pub use memory::MemoryNotifier;
pub use port::{
    CHANNEL_MAX_BYTES, Notification, Notifier, NotifierError, PAYLOAD_MAX_BYTES, Subscription, check_channel,
    check_payload,
};
