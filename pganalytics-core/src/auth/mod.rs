//! Signing in.

mod memory_account;
mod memory_provider;
mod memory_redirect;
mod provider;
mod redirect;

pub use memory_account::MemoryAccount;
pub use memory_provider::MemoryAuthProvider;
pub use memory_redirect::MemoryRedirectSignIn;
pub use provider::{
    Attempt, AuthError, AuthOutcome, AuthProvider, CallbackParameter, Challenge, ChallengeKind, Identity,
    ProviderId, Refusal,
};
pub use redirect::{
    BeginSignIn, BegunSignIn, InvalidReturnPath, PendingState, Redirect, RedirectSignIn, ReturnPath,
};
