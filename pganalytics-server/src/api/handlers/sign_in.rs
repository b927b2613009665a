use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, http::StatusCode};
use chrono::{DateTime, Utc};
use pganalytics_auth::principal::Principal;
use pganalytics_auth::token::{AccessGrant, JwksDocument, RefreshRefusal, RefreshTokenText, RefreshVerdict};
use pganalytics_core::audit::{Actor, ActorKind, Resource};
use pganalytics_core::auth::{Attempt, AuthOutcome, ProviderId, Refusal};
use pganalytics_core::ids::UserId;
use pganalytics_core::secret::SecretString;
use pganalytics_core::session::{NewSession, Session, SessionId, SessionLifetimes, SessionToken};
use pganalytics_core::users::{NewUser, Role, User, Username};
use pganalytics_store::postgres::session_epochs;
use pganalytics_store::postgres::users::{self, SealedUser};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::users::{UserView, resource};
use crate::api::{
    Access, AccessNotes, ApiError, ApiJson, ErrorBody, Replay, RequestMeta, Routes, SignedInUser, WorkHandle,
    refuse_body,
};
use crate::app::App;
use crate::cookies;
use crate::identity::Outdated;
use crate::wiring::LOCAL_PROVIDER;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .mutate(Access::Public, Replay::Never, "session.create", routes!(login))
        .mutate(Access::Public, Replay::Never, "session.refresh", routes!(refresh))
        .mutate(Access::Public, Replay::Never, "session.delete", routes!(logout))
        .mutate(Access::Public, Replay::Never, "user.setup", routes!(setup))
        .mutate(Access::SignedIn, Replay::Never, "user.password.change", routes!(change_password))
        .read(Access::SignedIn, routes!(me))
        .read(Access::Public, routes!(methods))
        .read(Access::Public, routes!(jwks))
}

/// Name and password.
#[derive(Debug, Deserialize, ToSchema)]
struct Login {
    username: String,
    #[schema(value_type = String)]
    password: SecretString,
}

/// What a client gets that has signed in. A browser also gets cookies, and needs none of the tokens.
#[derive(Debug, Serialize, ToSchema)]
struct SignedIn {
    message: &'static str,
    /// To be repeated in the header `X-CSRF-Token` by clients that use cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    csrf_token: Option<String>,
    /// The access token, by the name that some clients know.
    token: String,
    /// A JWT for `Authorization: Bearer`.
    access_token: String,
    /// For `POST /api/v1/auth/refresh`, once: each use yields the next one. A browser that refreshes by its cookie gets none.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// The refresh token, by the name that some clients know.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<String>,
    token_type: &'static str,
    /// Seconds that the access token is valid.
    expires_in: u64,
    /// When the access token ends.
    expires_at: DateTime<Utc>,
    user: UserView,
}

/// Signs in with name and password.
#[utoipa::path(post, path = "/api/v1/auth/login", tag = "auth", request_body = Login, responses(
    (status = 200, body = SignedIn), (status = 401, body = ErrorBody), (status = 429, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
async fn login(
    State(app): State<App>,
    Extension(meta): Extension<RequestMeta>,
    notes: AccessNotes,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Login>,
) -> Result<Response, ApiError> {
    note_attempt(&notes, &app, &body.username);
    let judged = judge_sign_in(&app, (&meta, &notes), body).await;
    let outcome = judged.as_ref().map_or_else(refusal_name, |_| "accepted");
    metrics::counter!("pganalytics_sign_ins_total", "outcome" => outcome).increment(1);
    let (user, provider) = judged?;
    // A session that somebody may have planted in this browser ends here.
    end_session_of(&app, &headers).await?;
    begin_session(&app, (&meta, &notes), &user, &provider.0, "Login successful").await
}

/// Until it is proved, the name is only what somebody claims.
fn note_attempt(notes: &AccessNotes, app: &App, username: &str) {
    notes.did("session.create");
    notes.tell(|facts| {
        facts.actor = Some(Actor { name: Some(username.to_owned()), ..Actor::anonymous() });
        facts.resource = Some(Resource { kind: "session".into(), id: None });
        facts.provider = Some(app.sign_in.id().0.clone());
    });
}

/// From here on it is known who asks.
fn note_session(notes: &AccessNotes, user: &User, session: &Session) {
    notes.tell(|facts| {
        facts.actor = Some(Actor {
            kind: ActorKind::User,
            id: Some(user.id.to_string()),
            name: Some(user.username.as_str().to_owned()),
            role: Some(user.role.to_string()),
        });
        facts.resource = Some(Resource::new("session", session.id));
        facts.session = Some(session.id);
        facts.provider = Some(session.provider.clone());
    });
}

/// For the audit log; the client is not told.
fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Credentials => "bad_credentials",
        Refusal::Disabled => "disabled",
        Refusal::Locked => "locked",
        Refusal::PasswordExpired => "password_expired",
        Refusal::InvalidResponse => "invalid_response",
        Refusal::NotEntitled => "not_entitled",
        Refusal::Challenge => "challenge",
        _ => "refused",
    }
}

async fn judge_sign_in(
    app: &App,
    (meta, notes): (&RequestMeta, &AccessNotes),
    body: Login,
) -> Result<(User, ProviderId), ApiError> {
    let because = |reason: &str| notes.tell(|facts| facts.reason = Some(reason.to_owned()));
    app.rate_limits.sign_in(meta.address).inspect_err(|_| because("too_many_attempts"))?;
    let attempt = Attempt::Password { username: body.username, password: body.password };
    let identity = match app.sign_in.attempt(&attempt).await? {
        AuthOutcome::Accepted(identity) => identity,
        AuthOutcome::Refused(refusal) => {
            tracing::info!(?refusal, address = %meta.address, "sign-in refused");
            because(reason(refusal));
            return Err(ApiError::invalid_credentials());
        }
        AuthOutcome::NotMine | AuthOutcome::Continue(_) => return Err(ApiError::invalid_credentials()),
    };
    let user = match identity.user {
        Some(id) => app.users.find(id).await?,
        None => None,
    };
    let Some(user) = user else {
        because("unknown_user");
        return Err(ApiError::invalid_credentials());
    };
    Ok((user, identity.provider))
}

/// For metrics: whose fault it is.
fn refusal_name(error: &ApiError) -> &'static str {
    match error.status() {
        StatusCode::UNAUTHORIZED => "refused",
        StatusCode::TOO_MANY_REQUESTS => "limited",
        _ => "failed",
    }
}

async fn begin_session(
    app: &App,
    (meta, notes): (&RequestMeta, &AccessNotes),
    user: &User,
    provider: &str,
    message: &'static str,
) -> Result<Response, ApiError> {
    let auth = &app.config.auth;
    let lifetimes = SessionLifetimes::new(
        auth.session_idle_seconds.as_duration(),
        auth.session_lifetime_seconds.as_duration(),
    );
    let new = NewSession::new(user.id, lifetimes, provider)
        .with_client(Some(meta.address), meta.user_agent.as_deref().map(str::to_owned));
    let (token, session) = app.sessions.create(new).await?;
    notes.did("session.create");
    note_session(notes, user, &session);
    let refresh = app.refresh_tokens.issue(&session).await.map_err(ApiError::unavailable)?;
    let shown = Shown { cookie: Some(token), refresh: Some(refresh.text) };
    answer_signed_in(app, user, &session, &shown, message).await
}

/// What the client holds of a session from now on.
struct Shown {
    cookie: Option<SessionToken>,
    refresh: Option<RefreshTokenText>,
}

async fn answer_signed_in(
    app: &App,
    user: &User,
    session: &Session,
    shown: &Shown,
    message: &'static str,
) -> Result<Response, ApiError> {
    let grant = AccessGrant { user: user.id, session: session.id, role: user.role, epoch: session.epoch };
    let access = app.access_tokens.issue(&grant).await.map_err(ApiError::unavailable)?;
    let access_token = access.text.expose().to_owned();
    let csrf_token = shown.cookie.as_ref().map(cookies::csrf_token);
    let max_age = (session.expires_at - app.clock.now()).num_seconds().max(0).unsigned_abs();
    let cookies = match shown.cookie.as_ref().zip(csrf_token.as_deref()) {
        Some((token, csrf)) => app.cookies.begin(token, csrf, max_age).map_err(ApiError::internal)?.to_vec(),
        None => Vec::new(),
    };
    let refresh_token = shown.refresh.as_ref().map(RefreshTokenText::expose);
    let body = SignedIn {
        message,
        csrf_token,
        token: access_token.clone(),
        access_token,
        session_token: refresh_token.clone(),
        refresh_token,
        token_type: "Bearer",
        expires_in: app.config.auth.access_token_lifetime_seconds.get(),
        expires_at: access.expires_at,
        user: UserView::from(user),
    };
    Ok(with_cookies(Json(body).into_response(), cookies))
}

/// A refresh token; left out by browsers, which have the cookie.
#[derive(Debug, Deserialize, ToSchema)]
struct GivenRefreshToken {
    #[schema(value_type = Option<String>)]
    refresh_token: Option<SecretString>,
}

impl GivenRefreshToken {
    /// One client of the web interface sends no body at all, and no content type.
    fn of(body: Result<Bytes, BytesRejection>) -> Result<Option<SecretString>, ApiError> {
        let body = body.map_err(|rejection| refuse_body(&rejection))?;
        if body.is_empty() {
            return Ok(None);
        }
        let given: Self = serde_json::from_slice(&body).map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "Invalid JSON").with_details(error.to_string())
        })?;
        Ok(given.refresh_token)
    }
}

/// Gives a new access token to a session that lives.
#[utoipa::path(post, path = "/api/v1/auth/refresh", tag = "auth", request_body = Option<GivenRefreshToken>, responses(
    (status = 200, body = SignedIn), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
async fn refresh(
    State(app): State<App>,
    notes: AccessNotes,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let renewal = match GivenRefreshToken::of(body)? {
        Some(text) => refresh_by_token(&app, &headers, &text).await,
        None => refresh_by_cookie(&app, &headers).await,
    };
    let outcome = renewal.as_ref().map_or_else(refusal_name, |renewal| renewal.outcome);
    notes.did("session.refresh");
    metrics::counter!("pganalytics_refreshes_total", "outcome" => outcome).increment(1);
    let Some((session, shown)) = renewal?.renewed else {
        notes.tell(|facts| facts.reason = Some(outcome.to_owned()));
        return Err(ApiError::unauthorized());
    };
    let user = app.users.find(session.user).await?.filter(|user| user.is_active);
    let user = user.ok_or_else(ApiError::unauthorized)?;
    note_session(&notes, &user, &session);
    answer_signed_in(&app, &user, &session, &shown, "Token refreshed").await
}

/// What a refresh came to.
struct Renewal {
    /// For metrics.
    outcome: &'static str,
    /// The session that goes on, if one does.
    renewed: Option<(Session, Shown)>,
}

async fn refresh_by_token(app: &App, headers: &HeaderMap, text: &SecretString) -> Result<Renewal, ApiError> {
    let token: RefreshTokenText = text.expose().parse().map_err(|_| ApiError::unauthorized())?;
    match app.refresh_tokens.refresh(&token).await.map_err(ApiError::unavailable)? {
        RefreshVerdict::Refreshed { session, token, is_repeated } => {
            let cookie = app.cookies.session_token(headers).filter(|cookie| cookie.id() == session.id);
            let shown = Shown { cookie, refresh: Some(token.text) };
            let outcome = if is_repeated { "repeated" } else { "rotated" };
            Ok(Renewal { outcome, renewed: Some((*session, shown)) })
        }
        RefreshVerdict::Refused(RefreshRefusal::Reused { session }) => {
            app.identity.forget_session(session);
            tracing::warn!(%session, "a refresh token was used again: its session was ended");
            Ok(Renewal { outcome: "reused", renewed: None })
        }
        _ => Ok(Renewal { outcome: "refused", renewed: None }),
    }
}

async fn refresh_by_cookie(app: &App, headers: &HeaderMap) -> Result<Renewal, ApiError> {
    let token = app.cookies.session_token(headers).ok_or_else(ApiError::unauthorized)?;
    let session = app.sessions.load(&token).await?.ok_or_else(ApiError::unauthorized)?;
    app.sessions.touch(session.id).await?;
    let shown = Shown { cookie: Some(token), refresh: None };
    Ok(Renewal { outcome: "by_cookie", renewed: Some((session, shown)) })
}

/// A few words on what was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Message {
    pub(super) message: &'static str,
    pub(super) status: &'static str,
}

/// Ends the session, and with it every token of it.
///
/// A refresh token in the body is enough, without any other credential. As in RFC 7009 the answer is the same for one that is
/// unknown or over.
#[utoipa::path(post, path = "/api/v1/auth/logout", tag = "auth", request_body = Option<GivenRefreshToken>, responses(
    (status = 200, body = Message), (status = 400, body = ErrorBody), (status = 503, body = ErrorBody),
))]
async fn logout(
    State(app): State<App>,
    notes: AccessNotes,
    principal: Option<Extension<Principal>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let given = GivenRefreshToken::of(body)?;
    let mut ended = None;
    if let Some(Extension(principal)) = principal
        && let Some(session) = principal.session()
    {
        app.sessions.delete(session).await?;
        app.identity.forget_session(session);
        ended = Some(session);
    }
    ended = end_session_of(&app, &headers).await?.or(ended);
    if let Some(Ok(token)) = given.map(|text| text.expose().parse::<RefreshTokenText>())
        && let Some(session) = app.refresh_tokens.revoke(&token).await.map_err(ApiError::unavailable)?
    {
        app.identity.forget_session(session);
        ended = Some(session);
    }
    if let Some(session) = ended {
        notes.did("session.delete");
        notes.tell(|facts| facts.resource = Some(Resource::new("session", session)));
    }
    let cookies = app.cookies.end().map_err(ApiError::internal)?;
    Ok(with_cookies(Json(Message { message: "Logged out", status: "ok" }).into_response(), cookies))
}

/// Ends the session of the request's cookie, and says which, if it has one.
async fn end_session_of(app: &App, headers: &HeaderMap) -> Result<Option<SessionId>, ApiError> {
    if let Some(token) = app.cookies.session_token(headers)
        && let Some(session) = app.sessions.load(&token).await?
    {
        app.sessions.delete(session.id).await?;
        app.identity.forget_session(session.id);
        return Ok(Some(session.id));
    }
    Ok(None)
}

/// The signed-in user.
#[utoipa::path(get, path = "/api/v1/auth/me", tag = "auth", responses((status = 200, body = UserView)))]
async fn me(
    State(app): State<App>,
    SignedInUser(principal): SignedInUser,
) -> Result<Json<UserView>, ApiError> {
    let user = app.users.find(principal.id).await?.ok_or_else(ApiError::unauthorized)?;
    Ok(Json(UserView::from(&user)))
}

/// How one can sign in here.
#[derive(Debug, Serialize, ToSchema)]
struct Methods {
    methods: Vec<&'static str>,
}

/// How one can sign in here.
#[utoipa::path(get, path = "/api/v1/auth/methods", tag = "auth", responses((status = 200, body = Methods)))]
async fn methods() -> Json<Methods> {
    Json(Methods { methods: vec![LOCAL_PROVIDER] })
}

/// The public keys of access tokens (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "auth", responses((status = 200), (status = 304)))]
async fn jwks(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let document = JwksDocument::of(&app.keys, JwksDocument::MAX_AGE).await.map_err(ApiError::unavailable)?;
    let caching = [(header::CACHE_CONTROL, document.cache_control()), (header::ETAG, document.etag.clone())];
    let mut known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if known.any(|tags| document.is_known(tags)) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let content_type = [(header::CONTENT_TYPE, JwksDocument::CONTENT_TYPE)];
    Ok((caching, content_type, document.body).into_response())
}

/// The old and the new password.
#[derive(Debug, Deserialize, ToSchema)]
struct ChangePassword {
    #[schema(value_type = String)]
    old_password: SecretString,
    #[schema(value_type = String)]
    new_password: SecretString,
}

/// Changes one's own password, and ends one's other sessions.
#[utoipa::path(post, path = "/api/v1/auth/change-password", tag = "auth", request_body = ChangePassword, responses(
    (status = 200, body = Message), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
))]
async fn change_password(
    State(app): State<App>,
    Extension(meta): Extension<RequestMeta>,
    SignedInUser(principal): SignedInUser,
    work: WorkHandle,
    ApiJson(body): ApiJson<ChangePassword>,
) -> Result<Response, ApiError> {
    app.rate_limits.sign_in(meta.address)?;
    if body.old_password == body.new_password {
        return Err(ApiError::bad_request("`new_password` is the old one"));
    }
    let user = app.users.find(principal.id).await?.ok_or_else(ApiError::unauthorized)?;
    let attempt = Attempt::Password { username: user.username.as_str().into(), password: body.old_password };
    let AuthOutcome::Accepted(_) = app.sign_in.attempt(&attempt).await? else {
        return Err(ApiError::invalid_credentials());
    };
    let hash = app.hash_new_password(user.username.as_str(), &body.new_password).await?;
    let password = users::seal_password(&app.sealer, user.id, &hash).await?;
    let mut work = work.begin().await?;
    users::set_password(work.connection(), &password, true, app.clock.now()).await?;
    session_epochs::raise(work.connection(), user.id, app.clock.now()).await?;
    let after = users::find(work.connection(), user.id).await?.ok_or_else(ApiError::unauthorized)?;
    work.changed(resource(&after), &UserView::from(&user), &UserView::from(&after))?;
    work.outdates(Outdated::Users);
    let cookies = app.cookies.end().map_err(ApiError::internal)?;
    let message = Message { message: "Password changed; please sign in again", status: "ok" };
    Ok(with_cookies(Json(message).into_response(), cookies))
}

/// The first administrator.
#[derive(Debug, Deserialize, ToSchema)]
struct Setup {
    #[schema(value_type = String)]
    username: Username,
    email: Option<String>,
    #[schema(value_type = String)]
    password: SecretString,
    full_name: Option<String>,
}

/// Makes the first administrator and signs in. Only while there is no user, and only if the configuration allows it.
///
/// When the sign-in fails after the administrator was made (503), `POST /api/v1/auth/login` is the way on.
#[utoipa::path(post, path = "/api/v1/auth/setup", tag = "auth", request_body = Setup, responses(
    (status = 200, body = SignedIn), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
async fn setup(
    State(app): State<App>,
    Extension(meta): Extension<RequestMeta>,
    notes: AccessNotes,
    work: WorkHandle,
    ApiJson(body): ApiJson<Setup>,
) -> Result<Response, ApiError> {
    if !app.config.auth.setup_enabled {
        return Err(ApiError::forbidden("`auth.setup_enabled` is off"));
    }
    app.rate_limits.sign_in(meta.address)?;
    let hash = app.hash_new_password(body.username.as_str(), &body.password).await?;
    let id = UserId::generate(&*app.clock, &*app.random);
    let new = NewUser::new(id, body.username, Role::Admin)
        .with_contact(body.email, body.full_name)
        .with_password(hash, true)
        .protected();
    let sealed = SealedUser::seal(&app.sealer, &new).await?;
    let mut work = work.begin().await?;
    let Some(user) = users::create_first(work.connection(), &sealed, app.clock.now()).await? else {
        return Err(ApiError::forbidden("there is a user already"));
    };
    work.created(resource(&user), &UserView::from(&user))?;
    // A session is of a user whom every connection sees.
    work.commit().await?;
    begin_session(&app, (&meta, &notes), &user, LOCAL_PROVIDER, "The first administrator was made").await
}

fn with_cookies(mut response: Response, cookies: impl IntoIterator<Item = HeaderValue>) -> Response {
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
