use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use pganalytics_auth::principal::{Principal, UserPrincipal};
use pganalytics_core::ids::CollectorId;

use super::ApiError;

/// Extracts the signed-in user. The route's declared access has refused everybody else before.
#[derive(Clone, Debug)]
pub struct SignedInUser(pub Arc<UserPrincipal>);

/// Extracts the collector. The route's declared access has refused everybody else before.
#[derive(Clone, Copy, Debug)]
pub struct KnownCollector(pub CollectorId);

impl<S: Sync> FromRequestParts<S> for SignedInUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let user = parts.extensions.get::<Principal>().and_then(Principal::user);
        user.cloned().map(Self).ok_or_else(ApiError::unauthorized)
    }
}

impl<S: Sync> FromRequestParts<S> for KnownCollector {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let collector = parts.extensions.get::<Principal>().and_then(Principal::collector);
        collector.map(Self).ok_or_else(|| ApiError::forbidden("a collector's token is needed"))
    }
}
