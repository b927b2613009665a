use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use pganalytics_core::audit::Resource;
use pganalytics_core::ids::UserId;
use pganalytics_core::random::os_random;
use pganalytics_core::secret::SecretString;
use pganalytics_core::users::{NewUser, Role, User, Username};
use pganalytics_store::postgres::users::{self, SealedUser, UserChanges};
use pganalytics_store::postgres::{UserPassword, session_epochs};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::{
    Access, ApiError, ApiJson, ApiPath, ApiQuery, ErrorBody, PageQuery, Paged, Permission, Replay, Routes,
    SignedInUser, WorkHandle,
};
use crate::app::App;
use crate::identity::Outdated;

const ADMINISTER: Access = Access::Permission(Permission::Administer);

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .read(ADMINISTER, routes!(list))
        .mutate(ADMINISTER, Replay::Stored, "user.create", routes!(create))
        .mutate(ADMINISTER, Replay::Stored, "user.update", routes!(update))
        .mutate(ADMINISTER, Replay::Stored, "user.delete", routes!(delete))
        .mutate(ADMINISTER, Replay::Sealed, "user.password.reset", routes!(reset_password))
}

/// A user, as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserView {
    /// The number that the API calls a user's id.
    id: i64,
    /// The id inside the system.
    uuid: uuid::Uuid,
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_name: Option<String>,
    /// `admin`, `user`, `viewer` or `auditor`.
    role: &'static str,
    is_active: bool,
    /// Whether the user has chosen the password.
    password_changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_login: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<&User> for UserView {
    fn from(user: &User) -> Self {
        Self {
            id: user.number,
            uuid: user.id.0,
            username: user.username.as_str().into(),
            email: user.email.clone(),
            full_name: user.full_name.clone(),
            role: user.role.as_str(),
            is_active: user.is_active,
            password_changed: user.password_changed,
            last_login: user.last_sign_in_at,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// The users, oldest first.
#[utoipa::path(get, path = "/api/v1/users", tag = "users", params(PageQuery),
    responses((status = 200, body = Paged<UserView>)))]
async fn list(
    State(app): State<App>,
    ApiQuery(page): ApiQuery<PageQuery>,
) -> Result<Json<Paged<UserView>>, ApiError> {
    let (number, size) = page.checked()?;
    let mut connection = app.database.read().await?;
    let found = users::page(&mut connection, number, size).await?;
    let views = found.rows.iter().map(UserView::from).collect();
    Ok(Json(Paged::new(views, found.total.unsigned_abs(), number, size)))
}

/// A user to be made.
#[derive(Debug, Deserialize, ToSchema)]
struct CreateUser {
    /// 1 to 255 characters; case does not distinguish.
    #[schema(value_type = String)]
    username: Username,
    email: Option<String>,
    #[schema(value_type = String)]
    password: SecretString,
    full_name: Option<String>,
    /// `admin`, `user`, `viewer` or `auditor`.
    #[schema(value_type = String)]
    role: Role,
}

/// Makes a user.
#[utoipa::path(post, path = "/api/v1/users", tag = "users", request_body = CreateUser, responses(
    (status = 201, body = UserView), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody),
))]
async fn create(
    State(app): State<App>,
    work: WorkHandle,
    ApiJson(body): ApiJson<CreateUser>,
) -> Result<(StatusCode, Json<UserView>), ApiError> {
    let hash = app.hash_new_password(body.username.as_str(), &body.password).await?;
    let id = UserId::generate(&*app.clock, &*app.random);
    let new = NewUser::new(id, body.username, body.role)
        .with_contact(body.email, body.full_name)
        .with_password(hash, false);
    let sealed = SealedUser::seal(&app.sealer, &new).await?;
    let mut work = work.begin().await?;
    let user = users::create(work.connection(), &sealed, app.clock.now()).await?;
    let view = UserView::from(&user);
    work.created(resource(&user), &view)?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// What to change of a user; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
struct UpdateUser {
    email: Option<String>,
    full_name: Option<String>,
    /// `admin`, `user`, `viewer` or `auditor`.
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    is_active: Option<bool>,
}

/// Changes a user. A change of role or activity ends the user's sessions.
#[utoipa::path(put, path = "/api/v1/users/{id}", tag = "users", request_body = UpdateUser,
    params(("id" = i64, Path)), responses(
    (status = 200, body = UserView), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
))]
async fn update(
    State(app): State<App>,
    work: WorkHandle,
    ApiPath(number): ApiPath<i64>,
    ApiJson(body): ApiJson<UpdateUser>,
) -> Result<Json<UserView>, ApiError> {
    let mut work = work.begin().await?;
    let before = by_number(work.connection(), number).await?;
    let changes = UserChanges {
        email: body.email.as_deref().or(before.email.as_deref()),
        full_name: body.full_name.as_deref().or(before.full_name.as_deref()),
        role: body.role.unwrap_or(before.role),
        is_active: body.is_active.unwrap_or(before.is_active),
    };
    let rights_change = changes.role != before.role || changes.is_active != before.is_active;
    if before.is_protected && rights_change {
        return Err(ApiError::forbidden("role and activity of the first administrator cannot be changed"));
    }
    if changes.role != Role::Admin || !changes.is_active {
        keep_an_admin(work.connection(), &before).await?;
    }
    let after = users::update(work.connection(), before.id, before.version, &changes, app.clock.now())
        .await?
        .ok_or_else(|| ApiError::conflict("the user was changed by somebody else"))?;
    work.changed(resource(&after), &UserView::from(&before), &UserView::from(&after))?;
    if rights_change {
        session_epochs::raise(work.connection(), after.id, app.clock.now()).await?;
        work.outdates(Outdated::Users);
    }
    Ok(Json(UserView::from(&after)))
}

/// Deletes a user with its sessions and tokens.
#[utoipa::path(delete, path = "/api/v1/users/{id}", tag = "users", params(("id" = i64, Path)), responses(
    (status = 204), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 409, body = ErrorBody),
))]
async fn delete(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiPath(number): ApiPath<i64>,
) -> Result<StatusCode, ApiError> {
    let mut work = work.begin().await?;
    let user = by_number(work.connection(), number).await?;
    if user.is_protected || user.id == principal.id {
        return Err(ApiError::forbidden("the first administrator and oneself cannot be deleted"));
    }
    keep_an_admin(work.connection(), &user).await?;
    let deleted = users::delete(work.connection(), user.id).await?;
    deleted.ok_or_else(|| ApiError::conflict("the user was changed by somebody else"))?;
    session_epochs::raise(work.connection(), user.id, app.clock.now()).await?;
    work.deleted(resource(&user), &UserView::from(&user))?;
    work.outdates(Outdated::Users);
    Ok(StatusCode::NO_CONTENT)
}

/// A password that was made for a user.
#[derive(Debug, Serialize, ToSchema)]
struct TemporaryPassword {
    username: String,
    /// Shown once. The user is to change it.
    temp_password: String,
    message: &'static str,
}

/// Gives a user a random password, and ends the user's sessions.
#[utoipa::path(post, path = "/api/v1/users/{id}/reset-password", tag = "users", params(("id" = i64, Path)), responses(
    (status = 200, body = TemporaryPassword), (status = 404, body = ErrorBody),
))]
async fn reset_password(
    State(app): State<App>,
    work: WorkHandle,
    ApiPath(number): ApiPath<i64>,
) -> Result<Json<TemporaryPassword>, ApiError> {
    let temp_password = random_password();
    let hash = app.hash_password(&SecretString::new(temp_password.clone())).await?;
    app.sealer.prepare::<UserPassword>().await?;
    let mut work = work.begin().await?;
    let before = by_number(work.connection(), number).await?;
    let now = app.clock.now();
    let password = users::seal_password(&app.sealer, before.id, &hash).await?;
    users::set_password(work.connection(), &password, false, now).await?;
    session_epochs::raise(work.connection(), before.id, app.clock.now()).await?;
    let after = by_number(work.connection(), number).await?;
    work.changed(resource(&after), &UserView::from(&before), &UserView::from(&after))?;
    work.outdates(Outdated::Users);
    Ok(Json(TemporaryPassword {
        username: after.username.as_str().into(),
        temp_password,
        message: "The password was reset. The user should change it after signing in.",
    }))
}

/// Refuses to take the rights of the last administrator, after whom nobody could give any.
async fn keep_an_admin(connection: &mut PgConnection, user: &User) -> Result<(), ApiError> {
    let is_admin = user.role == Role::Admin && user.is_active;
    if is_admin && !users::is_another_admin_active(connection, user.id).await? {
        return Err(ApiError::conflict(
            "this is the last active administrator, who can be neither demoted, deactivated nor deleted",
        ));
    }
    Ok(())
}

pub(super) async fn by_number(connection: &mut PgConnection, number: i64) -> Result<User, ApiError> {
    users::find_by_number(connection, number)
        .await?
        .ok_or_else(|| ApiError::not_found("there is no such user"))
}

pub(super) fn resource(user: &User) -> Resource {
    Resource::new("user", user.id)
}

/// 130 bits from the operating system, in the letters of Crockford's base 32.
pub fn random_password() -> String {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bytes = [0; 26];
    os_random(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}
