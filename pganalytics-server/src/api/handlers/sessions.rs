use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use pganalytics_core::audit::Resource;
use pganalytics_core::ids::UserId;
use pganalytics_core::session::{Session, SessionId};
use pganalytics_store::postgres::{EndedSessions, PostgresSessionStore, session_epochs};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::api_tokens::refuse_api_token;
use super::users;
use crate::api::{
    Access, ApiError, ApiPath, ErrorBody, Permission, Replay, Routes, SignedInUser, Work, WorkHandle,
};
use crate::app::App;
use crate::config::SessionStoreKind;
use crate::identity::Outdated;

const ADMINISTER: Access = Access::Permission(Permission::Administer);

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .read(Access::SignedIn, routes!(list))
        .mutate(Access::SignedIn, Replay::Stored, "session.end", routes!(end))
        .mutate(Access::SignedIn, Replay::Stored, "session.end_others", routes!(end_others))
        .read(ADMINISTER, routes!(list_of_user))
        .mutate(ADMINISTER, Replay::Stored, "user.sessions.end", routes!(end_of_user))
}

/// A session, as the API shows it. Its id is public and opens nothing.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionView {
    #[schema(value_type = String)]
    id: SessionId,
    /// Whether the request belongs to it.
    is_current: bool,
    /// Who accepted the sign-in.
    provider: String,
    /// From where the sign-in came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    created_at: DateTime<Utc>,
    /// When it was last seen in use; exact to the minute.
    last_seen_at: DateTime<Utc>,
    /// When it ends if it is not used.
    idle_expires_at: DateTime<Utc>,
    /// When it ends in any case.
    expires_at: DateTime<Utc>,
}

impl SessionView {
    fn new(session: &Session, current: Option<SessionId>) -> Self {
        Self {
            id: session.id,
            is_current: current == Some(session.id),
            provider: session.provider.clone(),
            address: session.address,
            user_agent: session.user_agent.clone(),
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            idle_expires_at: session.idle_expires_at,
            expires_at: session.expires_at,
        }
    }
}

/// Sessions of one user.
#[derive(Debug, Serialize, ToSchema)]
struct Sessions {
    sessions: Vec<SessionView>,
    count: usize,
}

impl Sessions {
    fn new(sessions: &[Session], current: Option<SessionId>) -> Self {
        let sessions: Vec<_> = sessions.iter().map(|session| SessionView::new(session, current)).collect();
        Self { count: sessions.len(), sessions }
    }
}

/// How many sessions were ended.
#[derive(Debug, Serialize, ToSchema)]
struct Ended {
    ended: usize,
}

/// One's own live sessions, newest first.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", responses(
    (status = 200, body = Sessions), (status = 403, body = ErrorBody),
))]
async fn list(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
) -> Result<Json<Sessions>, ApiError> {
    refuse_api_token(&principal)?;
    let sessions = app.sessions.list(principal.id).await?;
    Ok(Json(Sessions::new(&sessions, principal.session())))
}

/// Ends one of one's own sessions, with its tokens, on every server.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path)), responses(
    (status = 200, body = Ended), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
))]
async fn end(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiPath(id): ApiPath<SessionId>,
) -> Result<Json<Ended>, ApiError> {
    refuse_api_token(&principal)?;
    let mut work = work.begin().await?;
    let which = EndedSessions::One(id);
    let ended = end_kept(&app, &mut work, principal.id, which).await?;
    if ended.is_empty() {
        return Err(ApiError::not_found("there is no such session of yours"));
    }
    record(&mut work, &ended, principal.session())?;
    Ok(Json(Ended { ended: ended.len() }))
}

/// Ends all of one's own sessions but the one that asks.
#[utoipa::path(delete, path = "/api/v1/sessions", tag = "sessions", responses(
    (status = 200, body = Ended), (status = 403, body = ErrorBody),
))]
async fn end_others(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
) -> Result<Json<Ended>, ApiError> {
    refuse_api_token(&principal)?;
    let current = principal.session().ok_or_else(ApiError::unauthorized)?;
    let mut work = work.begin().await?;
    let which = EndedSessions::AllBut(current);
    let ended = end_kept(&app, &mut work, principal.id, which).await?;
    record(&mut work, &ended, Some(current))?;
    Ok(Json(Ended { ended: ended.len() }))
}

/// Ends sessions where they are kept: in the database with the commit, elsewhere at once. That they have ended although the
/// commit failed harms nobody: whoever asked for it asks again.
async fn end_kept(
    app: &App,
    work: &mut Work,
    user: UserId,
    which: EndedSessions,
) -> Result<Vec<Session>, ApiError> {
    if app.config.auth.session_store == SessionStoreKind::Postgres {
        return Ok(PostgresSessionStore::end(work.connection(), user, which, app.clock.now()).await?);
    }
    let mut ended = app.sessions.list(user).await?;
    ended.retain(|session| which.covers(session.id));
    for session in &ended {
        app.sessions.delete(session.id).await?;
    }
    Ok(ended)
}

fn record(work: &mut Work, ended: &[Session], current: Option<SessionId>) -> Result<(), ApiError> {
    for session in ended {
        work.deleted(Resource::new("session", session.id), &SessionView::new(session, current))?;
        work.outdates(Outdated::Session(session.id));
    }
    Ok(())
}

/// The live sessions of a user, newest first.
#[utoipa::path(get, path = "/api/v1/users/{id}/sessions", tag = "sessions", params(("id" = i64, Path)), responses(
    (status = 200, body = Sessions), (status = 404, body = ErrorBody),
))]
async fn list_of_user(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    ApiPath(number): ApiPath<i64>,
) -> Result<Json<Sessions>, ApiError> {
    let user = users::by_number(&mut *app.database.read().await?, number).await?;
    let sessions = app.sessions.list(user.id).await?;
    Ok(Json(Sessions::new(&sessions, principal.session())))
}

/// Ends all sessions of a user, with their tokens, on every server.
#[utoipa::path(delete, path = "/api/v1/users/{id}/sessions", tag = "sessions", params(("id" = i64, Path)), responses(
    (status = 200, body = Ended), (status = 404, body = ErrorBody),
))]
async fn end_of_user(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiPath(number): ApiPath<i64>,
) -> Result<Json<Ended>, ApiError> {
    let now = app.clock.now();
    let mut work = work.begin().await?;
    let user = users::by_number(work.connection(), number).await?;
    let ended = end_kept(&app, &mut work, user.id, EndedSessions::All).await?;
    // Also ends one that begins meanwhile.
    session_epochs::raise(work.connection(), user.id, now).await?;
    work.deleted(users::resource(&user), &Sessions::new(&ended, principal.session()))?;
    work.outdates(Outdated::Users);
    Ok(Json(Ended { ended: ended.len() }))
}
