//! The routes that collectors call, also those that were in the field before this server. Where their rules differ
//! from those of the API, theirs win: what such a collector does with an answer cannot be changed any more.

mod certificate;
mod config_pull;
mod push;
mod push_body;
mod push_memory;
mod refresh_token;
mod register;

pub use push_memory::PushMemory;

use crate::api::Routes;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.group(register::routes).group(refresh_token::routes).group(push::routes).group(config_pull::routes)
}
