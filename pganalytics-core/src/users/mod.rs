//! The users that sign-in needs.

mod port;
mod value;

pub use port::{UserStore, UserStoreError};
pub use value::{
    ExternalIdentity, InvalidUsername, LocalCredential, NewUser, PasswordHash, ProvisionedUser, Role,
    UnknownRole, User, Username,
};
