use std::time::Duration;

use async_trait::async_trait;

use super::ports::faulty_port;
use crate::ids::InstanceId;
use crate::leader::{Leader, LeaderError, Lease};
use crate::testing::Faulty;

faulty_port! {
    Leader fails with LeaderError {
        fn name() -> &'static str;
        async fn acquire(role: &str, holder: InstanceId, ttl: Duration) -> Option<Lease>;
        async fn renew(lease: &Lease, ttl: Duration) -> Option<Lease>;
        async fn release(lease: &Lease) -> ();
        async fn holder(role: &str) -> Option<Lease>;
    }
}
