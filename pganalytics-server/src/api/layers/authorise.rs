use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use pganalytics_auth::principal::{Principal, UserPrincipal};
use pganalytics_core::tokens::Scope;

use crate::api::{Access, ApiError, Permission};

/// Refuses whoever the route's declared access does not let in.
pub(in crate::api) async fn check(
    State(access): State<Access>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let principal = request.extensions().get::<Principal>();
    let verdict = match (access, principal) {
        (Access::Public, _) => Ok(()),
        (Access::SignedIn, Some(Principal::User(_))) => Ok(()),
        (Access::Permission(permission) | Access::CollectorOr(permission), Some(Principal::User(user))) => {
            allow(user, permission)
        }
        (Access::Collector | Access::CollectorOr(_), Some(Principal::Collector(_))) => Ok(()),
        (Access::Collector | Access::CollectorOr(_), _) => Err(refuse_collector(&request)),
        (_, Some(_)) => Err(ApiError::forbidden("a user's credentials are needed")),
        (_, None) => Err(ApiError::unauthorized()),
    };
    verdict?;
    Ok(next.run(request).await)
}

fn allow(user: &UserPrincipal, permission: Permission) -> Result<(), ApiError> {
    if !permission.is_given_to(user.role) {
        return Err(ApiError::forbidden(format!("role `{}` does not allow this", user.role)));
    }
    match user.scopes() {
        Some(scopes) if !scopes.contains(&Scope(permission.scope().into())) => {
            Err(ApiError::forbidden(format!("the token needs the scope `{}`", permission.scope())))
        }
        _ => Ok(()),
    }
}

/// A collector that shows a token is never answered 401, whatever is wrong with the token: older ones throw their data
/// away on it, or ask again without end.
fn refuse_collector(request: &Request) -> ApiError {
    if request.headers().contains_key(header::AUTHORIZATION) {
        ApiError::forbidden("the token is not accepted")
    } else {
        ApiError::unauthorized()
    }
}
