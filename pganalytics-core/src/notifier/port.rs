use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{BackendError, port_error};

/// The largest payload: what fits into a PostgreSQL NOTIFY after it is made printable.
pub const PAYLOAD_MAX_BYTES: usize = 5 * 1024;

/// The longest name of a channel, in bytes: PostgreSQL's identifiers have 63, and an adapter may put a prefix before it.
pub const CHANNEL_MAX_BYTES: usize = 40;

/// Tells whoever listens, at most once, and says when it may have missed something.
///
/// # Contract
/// 1. `a_message_reaches_every_subscriber`: each live subscription of the channel gets it once, the sender's own included.
/// 2. `messages_of_one_sender_keep_their_order`: within a channel.
/// 3. `channels_are_independent`: a subscription sees its own channel alone.
/// 4. `nothing_from_before_is_delivered`: a subscription sees everything from when `subscribe` returned, and nothing that was
///    delivered before. What was still on its way then it may see: not every backend can hold that back.
/// 5. `a_gap_is_announced`: whenever a subscription may have missed a message (lost connection, a full buffer) it yields `Gap`
///    before any later message, and without waiting for one. A subscriber that keeps state drops it.
/// 6. `an_oversized_payload_is_refused`: over [`PAYLOAD_MAX_BYTES`] is `TooLarge`.
/// 7. `binary_payloads_come_back_verbatim`: any bytes, also none.
/// 8. `a_dropped_subscription_costs_nothing`: publishing goes on when subscribers are gone.
/// 9. `a_cancelled_wait_loses_nothing`: a dropped call of `next` loses neither a message nor a gap.
/// 10. `an_invalid_channel_is_refused`: a channel has 1 to [`CHANNEL_MAX_BYTES`] of a-z, 0-9 and _, else it is `InvalidChannel`.
#[async_trait]
pub trait Notifier: Debug + Send + Sync + 'static {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Tells everybody who listens to the channel.
    async fn publish(&self, channel: &str, payload: &[u8]) -> Result<(), NotifierError>;

    /// Listens to a channel.
    async fn subscribe(&self, channel: &str) -> Result<Box<dyn Subscription>, NotifierError>;
}

/// A subscription; it ends when it is dropped.
#[async_trait]
pub trait Subscription: Debug + Send + 'static {
    /// Waits for what comes next. Cancel safe (clause 9).
    async fn next(&mut self) -> Notification;
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A message.
    Message(Bytes),
    /// Something may have been missed.
    Gap,
}

/// Why nobody could be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotifierError {
    /// The channel's name breaks the rules: 1 to 40 of a-z, 0-9 and _.
    #[error("{channel:?} is no channel: 1 to 40 of a-z, 0-9 and _")]
    InvalidChannel {
        /// The name.
        channel: String,
    },
    /// The payload is too large.
    #[error("payload has {size} bytes, limit is {limit}")]
    TooLarge {
        /// Bytes of the payload.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The backend could not answer.
    #[error(transparent)]
    Backend(BackendError),
}
port_error!(NotifierError);

/// The check of clause 10, for adapters.
///
/// # Errors
/// `InvalidChannel`.
pub fn check_channel(channel: &str) -> Result<(), NotifierError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    if !(1..=CHANNEL_MAX_BYTES).contains(&channel.len()) || !channel.bytes().all(allowed) {
        return Err(NotifierError::InvalidChannel { channel: channel.into() });
    }
    Ok(())
}

/// The check of clause 6, for adapters.
///
/// # Errors
/// `TooLarge`.
pub fn check_payload(payload: &[u8]) -> Result<(), NotifierError> {
    if payload.len() > PAYLOAD_MAX_BYTES {
        return Err(NotifierError::TooLarge { size: payload.len(), limit: PAYLOAD_MAX_BYTES });
    }
    Ok(())
}

macro_rules! forward_notifier {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<N: Notifier + ?Sized> Notifier for $pointer<N> {
            fn name(&self) -> &'static str {
                (**self).name()
            }

            async fn publish(&self, channel: &str, payload: &[u8]) -> Result<(), NotifierError> {
                (**self).publish(channel, payload).await
            }

            async fn subscribe(&self, channel: &str) -> Result<Box<dyn Subscription>, NotifierError> {
                (**self).subscribe(channel).await
            }
        }
    };
}
forward_notifier!(Arc);
forward_notifier!(Box);
