//! The routes, a module for each family.

mod alert_rules;
mod collectors;
mod documentation;
mod health;
mod metrics;
mod protocol;
mod sign_in;
mod users;

pub(super) use documentation::documentation;
pub use protocol::PushMemory;
pub use users::random_password;

use super::Routes;

/// Registers every route.
pub(super) fn register(routes: Routes) -> Routes {
    routes
        .group(health::routes)
        .group(sign_in::routes)
        .group(users::routes)
        .group(metrics::routes)
        .group(alert_rules::routes)
        .group(collectors::routes)
        .group(protocol::routes)
}
