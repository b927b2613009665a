//! The users that sign-in needs.

mod memory;
mod port;
mod value;

pub use memory::MemoryUserStore;
pub use port::{UserStore, UserStoreError, check_identity, check_new_user, check_password_hash};
pub use value::{
    ExternalIdentity, InvalidUsername, LocalCredential, NewUser, PasswordHash, ProvisionedUser, Role,
    UnknownRole, User, Username,
};
