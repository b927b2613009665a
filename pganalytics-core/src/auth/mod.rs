//! Signing in.

mod provider;
mod redirect;

pub use provider::{
    Attempt, AuthError, AuthOutcome, AuthProvider, CallbackParameter, Challenge, ChallengeKind, Identity,
    ProviderId, Refusal,
};
pub use redirect::{BeginSignIn, BegunSignIn, PendingState, Redirect, RedirectSignIn};
