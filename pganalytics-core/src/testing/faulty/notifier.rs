use async_trait::async_trait;

use super::ports::faulty_port;
use crate::notifier::{Notifier, NotifierError, Subscription};
use crate::testing::Faulty;

// Waiting for the next notification cannot fail, so that no fault happens to it.
faulty_port! {
    Notifier fails with NotifierError {
        fn name() -> &'static str;
        async fn publish(channel: &str, payload: &[u8]) -> ();
        async fn subscribe(channel: &str) -> Box<dyn Subscription>;
    }
}
