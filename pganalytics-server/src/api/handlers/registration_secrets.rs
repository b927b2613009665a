use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use pganalytics_core::audit::Resource;
use pganalytics_core::ids::RegistrationSecretId;
use pganalytics_core::random::os_secret;
use pganalytics_store::postgres::registration_secrets::{
    self, NewRegistrationSecret, RegistrationSecret, RegistrationSecretChanges,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::names::{check_end, check_name};
use crate::api::{
    Access, ApiError, ApiJson, ApiPath, ErrorBody, Permission, Replay, Routes, SignedInUser, WorkHandle,
};
use crate::app::App;

const ADMINISTER: Access = Access::Permission(Permission::Administer);

/// More than anybody has: the web interface does not page through them.
const LIST_MAX: u32 = 10_000;

/// Lets scanners find secrets in source code.
const PREFIX: &str = "pgar_";
const SECRET_BYTES: usize = 32;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .read(ADMINISTER, routes!(list))
        .read(ADMINISTER, routes!(find))
        .mutate(ADMINISTER, Replay::Sealed, "registration_secret.create", routes!(create))
        .mutate(ADMINISTER, Replay::Stored, "registration_secret.update", routes!(update))
        .mutate(ADMINISTER, Replay::Stored, "registration_secret.delete", routes!(delete))
}

/// A registration secret, as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = RegistrationSecret)]
struct SecretView {
    id: Uuid,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Always empty: only the response that made the secret shows it.
    secret_value: &'static str,
    active: bool,
    /// The number of the user who made it, while that user exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<i64>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
    total_registrations: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<DateTime<Utc>>,
}

impl From<&RegistrationSecret> for SecretView {
    fn from(secret: &RegistrationSecret) -> Self {
        Self {
            id: secret.id.0,
            name: secret.name.clone(),
            description: secret.description.clone(),
            secret_value: "",
            active: secret.is_active,
            created_by: secret.created_by_number,
            created_at: secret.created_at,
            updated_at: secret.updated_at,
            expires_at: secret.expires_at,
            total_registrations: secret.total_registrations,
            last_used_at: secret.last_used_at,
        }
    }
}

/// All registration secrets.
#[derive(Debug, Serialize, ToSchema)]
struct Secrets {
    secrets: Vec<SecretView>,
    count: usize,
}

/// The registration secrets, oldest first, without the secrets themselves.
#[utoipa::path(get, path = "/api/v1/registration-secrets", tag = "registration secrets",
    responses((status = 200, body = Secrets)))]
async fn list(State(app): State<App>) -> Result<Json<Secrets>, ApiError> {
    let mut connection = app.database.read().await?;
    let found = registration_secrets::list(&mut connection, None, LIST_MAX).await?;
    let secrets: Vec<SecretView> = found.iter().map(SecretView::from).collect();
    Ok(Json(Secrets { count: secrets.len(), secrets }))
}

/// A registration secret, without the secret itself.
#[utoipa::path(get, path = "/api/v1/registration-secrets/{id}", tag = "registration secrets",
    params(("id" = Uuid, Path)), responses((status = 200, body = SecretView), (status = 404, body = ErrorBody)))]
async fn find(State(app): State<App>, ApiPath(id): ApiPath<Uuid>) -> Result<Json<SecretView>, ApiError> {
    let mut connection = app.database.read().await?;
    Ok(Json(SecretView::from(&by_id(&mut connection, id).await?)))
}

/// A registration secret to be made.
#[derive(Debug, Deserialize, ToSchema)]
struct CreateSecret {
    /// 1 to 255 characters.
    name: String,
    description: Option<String>,
    /// From when on it may not be used; never, if left out.
    expires_at: Option<DateTime<Utc>>,
}

/// A registration secret that was made.
#[derive(Debug, Serialize, ToSchema)]
struct CreatedSecret {
    id: Uuid,
    name: String,
    /// The secret. Shown once; only its SHA-256 is kept.
    secret_value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    message: &'static str,
}

/// Makes a registration secret.
#[utoipa::path(post, path = "/api/v1/registration-secrets", tag = "registration secrets", request_body = CreateSecret,
    responses((status = 201, body = CreatedSecret), (status = 400, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiJson(body): ApiJson<CreateSecret>,
) -> Result<(StatusCode, Json<CreatedSecret>), ApiError> {
    check_name(&body.name)?;
    let now = app.clock.now();
    check_end(body.expires_at, now)?;
    let secret_value = format!("{PREFIX}{}", hex::encode(os_secret(SECRET_BYTES).expose()));
    let new = NewRegistrationSecret {
        id: RegistrationSecretId::generate(&*app.clock, &*app.random),
        name: &body.name,
        description: body.description.as_deref(),
        secret_hash: Sha256::digest(&secret_value).into(),
        expires_at: body.expires_at,
        created_by: Some(principal.id),
    };
    let mut work = work.begin().await?;
    let secret = registration_secrets::create(work.connection(), &new, now).await?;
    work.created(resource(&secret), &SecretView::from(&secret))?;
    let created = CreatedSecret {
        id: secret.id.0,
        name: secret.name,
        secret_value,
        description: secret.description,
        active: secret.is_active,
        expires_at: secret.expires_at,
        created_at: secret.created_at,
        message: "Keep the secret now: it is not shown again.",
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// What to change of a registration secret; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
struct UpdateSecret {
    /// 1 to 255 characters.
    name: Option<String>,
    description: Option<String>,
    /// Whether it may be used.
    active: Option<bool>,
}

/// Changes a registration secret.
#[utoipa::path(put, path = "/api/v1/registration-secrets/{id}", tag = "registration secrets",
    request_body = UpdateSecret, params(("id" = Uuid, Path)), responses(
    (status = 200, body = SecretView), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody),
))]
async fn update(
    State(app): State<App>,
    work: WorkHandle,
    ApiPath(id): ApiPath<Uuid>,
    ApiJson(body): ApiJson<UpdateSecret>,
) -> Result<Json<SecretView>, ApiError> {
    body.name.as_deref().map_or(Ok(()), check_name)?;
    let mut work = work.begin().await?;
    let before = by_id(work.connection(), id).await?;
    let changes = RegistrationSecretChanges {
        name: body.name.as_deref().unwrap_or(&before.name),
        description: body.description.as_deref().or(before.description.as_deref()),
        is_active: body.active.unwrap_or(before.is_active),
        expires_at: before.expires_at,
    };
    let now = app.clock.now();
    let after =
        registration_secrets::update(work.connection(), before.id, before.version, &changes, now).await?;
    let after = after.ok_or_else(|| ApiError::conflict("the secret was changed by somebody else"))?;
    let view = SecretView::from(&after);
    work.changed(resource(&after), &SecretView::from(&before), &view)?;
    Ok(Json(view))
}

/// A few words on what was done.
#[derive(Debug, Serialize, ToSchema)]
struct Deleted {
    message: &'static str,
}

/// Deletes a registration secret. The collectors that used it stay registered.
#[utoipa::path(delete, path = "/api/v1/registration-secrets/{id}", tag = "registration secrets",
    params(("id" = Uuid, Path)), responses((status = 200, body = Deleted), (status = 404, body = ErrorBody)))]
async fn delete(work: WorkHandle, ApiPath(id): ApiPath<Uuid>) -> Result<Json<Deleted>, ApiError> {
    let mut work = work.begin().await?;
    let deleted = registration_secrets::delete(work.connection(), RegistrationSecretId(id)).await?;
    let deleted = deleted.ok_or_else(no_such_secret)?;
    work.deleted(resource(&deleted), &SecretView::from(&deleted))?;
    Ok(Json(Deleted { message: "The registration secret was deleted." }))
}

async fn by_id(connection: &mut PgConnection, id: Uuid) -> Result<RegistrationSecret, ApiError> {
    let found = registration_secrets::find(connection, RegistrationSecretId(id)).await?;
    found.ok_or_else(no_such_secret)
}

fn no_such_secret() -> ApiError {
    ApiError::not_found("there is no such registration secret")
}

fn resource(secret: &RegistrationSecret) -> Resource {
    Resource::new("registration_secret", secret.id)
}
