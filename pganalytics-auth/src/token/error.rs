use pganalytics_core::error::{PortError, Retry};
use pganalytics_core::signing::SignError;

/// Why a token is not accepted. For the log: the client is told one and the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefusal {
    /// Not three parts of base64url with a plain header, or longer than 8 KiB.
    #[error("the token is malformed")]
    Malformed,
    /// Signed by another algorithm, or not at all.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// A token for another purpose.
    #[error("the token is of another type")]
    Type,
    /// The key that it names is not, or no longer, one of ours.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// The signature was not made by the key that it names.
    #[error("the token's signature is wrong")]
    Signature,
    /// Signed by us, but claims are missing, repeated or of a wrong form.
    #[error("the token's claims are malformed")]
    Claims,
    /// Made by another installation.
    #[error("the token has another issuer")]
    Issuer,
    /// Made for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Made or valid only in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Over.
    #[error("the token has expired")]
    Expired,
}

/// Why a token could not be accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The token is no good.
    #[error(transparent)]
    Refused(#[from] TokenRefusal),
    /// The keys that tokens are signed with cannot be had: nothing is said about the token.
    #[error("signing keys cannot be read")]
    Keys(#[from] SignError),
}

impl TokenError {
    /// Whether the same token may be accepted later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(_) => Retry::Never,
            Self::Keys(error) => error.retry(),
        }
    }
}
