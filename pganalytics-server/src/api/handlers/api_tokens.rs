use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use pganalytics_auth::principal::{Credential, UserPrincipal};
use pganalytics_auth::token::ApiTokenText;
use pganalytics_core::audit::Resource;
use pganalytics_core::ids::ApiTokenId;
use pganalytics_core::tokens::{ApiToken, NewApiToken, Scope};
use pganalytics_store::postgres::api_tokens::{self, SealedToken};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::names::{check_end, check_name};
use crate::api::{
    Access, ApiError, ApiJson, ApiPath, ErrorBody, Permission, Replay, Routes, SignedInUser, WorkHandle,
};
use crate::app::App;
use crate::identity::Outdated;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .read(Access::SignedIn, routes!(list))
        .mutate(Access::SignedIn, Replay::Sealed, "api_token.create", routes!(create))
        .mutate(Access::SignedIn, Replay::Stored, "api_token.revoke", routes!(revoke))
}

/// An API token, as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ApiToken)]
struct TokenView {
    id: Uuid,
    name: String,
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<DateTime<Utc>>,
}

impl From<&ApiToken> for TokenView {
    fn from(token: &ApiToken) -> Self {
        Self {
            id: token.id.0,
            name: token.name.clone(),
            scopes: token.scopes.iter().map(|scope| scope.0.clone()).collect(),
            created_at: token.created_at,
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
        }
    }
}

/// One's own API tokens.
#[derive(Debug, Serialize, ToSchema)]
struct Tokens {
    tokens: Vec<TokenView>,
    count: usize,
}

/// One's own API tokens that are in force, newest first.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses(
    (status = 200, body = Tokens), (status = 403, body = ErrorBody),
))]
async fn list(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
) -> Result<Json<Tokens>, ApiError> {
    refuse_api_token(&principal)?;
    let found = app.tokens.list(principal.id).await?;
    let tokens: Vec<TokenView> = found.iter().map(TokenView::from).collect();
    Ok(Json(Tokens { count: tokens.len(), tokens }))
}

/// An API token to be made.
#[derive(Debug, Deserialize, ToSchema)]
struct CreateToken {
    /// 1 to 255 characters.
    name: String,
    /// What the token may be used for, of what one's role allows: `read`, `alerts:write`, `collectors:write`, `admin`,
    /// `audit:read`.
    scopes: BTreeSet<String>,
    /// When it ends; never, if left out.
    expires_at: Option<DateTime<Utc>>,
}

/// An API token that was made.
#[derive(Debug, Serialize, ToSchema)]
struct CreatedToken {
    #[serde(flatten)]
    view: TokenView,
    /// For `Authorization: Bearer`. Shown once; only a keyed digest of it is kept.
    token: String,
}

/// Makes an API token of one's own.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = CreateToken, responses(
    (status = 201, body = CreatedToken), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody),
))]
async fn create(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiJson(body): ApiJson<CreateToken>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    refuse_api_token(&principal)?;
    check_name(&body.name)?;
    let now = app.clock.now();
    check_end(body.expires_at, now)?;
    let scopes = allowed(&principal, body.scopes)?;
    let text = ApiTokenText::generate();
    let id = ApiTokenId::generate(&*app.clock, &*app.random);
    let new = NewApiToken::new(id, principal.id, body.name, text.digest())
        .with_scopes(scopes)
        .expiring_at(body.expires_at);
    let sealed = SealedToken::seal(&app.sealer, &new).await?;
    let mut work = work.begin().await?;
    let token = api_tokens::create(work.connection(), &sealed, now).await?;
    let view = TokenView::from(&token);
    work.created(resource(token.id), &view)?;
    Ok((StatusCode::CREATED, Json(CreatedToken { view, token: text.expose().to_owned() })))
}

/// Ends an API token of one's own, at once on this server and within a second on others.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = Uuid, Path)), responses(
    (status = 204), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
))]
async fn revoke(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<StatusCode, ApiError> {
    refuse_api_token(&principal)?;
    let id = ApiTokenId(id);
    let mut work = work.begin().await?;
    let own = api_tokens::list(work.connection(), principal.id, app.clock.now()).await?;
    let no_such_token = || ApiError::not_found("there is no such token of yours");
    let token = own.iter().find(|token| token.id == id).ok_or_else(no_such_token)?;
    if !api_tokens::revoke(work.connection(), principal.id, id, app.clock.now()).await? {
        return Err(no_such_token());
    }
    work.deleted(resource(id), &TokenView::from(token))?;
    work.outdates(Outdated::Users);
    Ok(StatusCode::NO_CONTENT)
}

/// A token that could make tokens would have every scope of its owner, and none would end with it.
pub(super) fn refuse_api_token(principal: &UserPrincipal) -> Result<(), ApiError> {
    match principal.credential {
        Credential::ApiToken(..) => Err(ApiError::forbidden("tokens and sessions are managed by signing in")),
        _ => Ok(()),
    }
}

fn allowed(principal: &UserPrincipal, asked: BTreeSet<String>) -> Result<BTreeSet<Scope>, ApiError> {
    for scope in &asked {
        let permission = Permission::ALL.into_iter().find(|permission| permission.scope() == scope);
        let Some(permission) = permission else {
            let known = Permission::ALL.map(Permission::scope).join("`, `");
            return Err(ApiError::bad_request(format!("`scopes`: there are `{known}`")));
        };
        if !permission.is_given_to(principal.role) {
            let role = principal.role;
            return Err(ApiError::forbidden(format!("role `{role}` does not allow the scope `{scope}`")));
        }
    }
    Ok(asked.into_iter().map(Scope).collect())
}

fn resource(id: ApiTokenId) -> Resource {
    Resource::new("api_token", id)
}
