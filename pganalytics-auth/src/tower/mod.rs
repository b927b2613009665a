//! Authentication as a tower layer.

mod bearer;
mod layer;

pub use bearer::bearer_token;
pub use layer::{AuthenticationLayer, AuthenticationService, Authenticator};
