//! The routes, a module for each family.

mod alert_rules;
mod api_tokens;
mod audit;
mod collector_config;
mod collectors;
mod config_text;
mod documentation;
mod health;
mod metrics;
mod names;
mod outbox;
mod protocol;
mod registration_secrets;
mod sessions;
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
        .group(sessions::routes)
        .group(users::routes)
        .group(metrics::routes)
        .group(alert_rules::routes)
        .group(collectors::routes)
        .group(collector_config::routes)
        .group(registration_secrets::routes)
        .group(api_tokens::routes)
        .group(outbox::routes)
        .group(audit::routes)
        .group(audit::proof_routes)
        .group(audit::witness_routes)
        .group(protocol::routes)
}
