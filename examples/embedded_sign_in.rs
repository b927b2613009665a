//! Sign-in and sessions inside a service of your own, behind three ports: who somebody is (`AuthProvider`), which user that
//! is here (`UserStore`), and that they are signed in (`SessionStore`).
//!
//! ```text
//! cargo run -p examples --example embedded_sign_in
//! ```
//!
//! Everything is kept in memory, so that nothing else has to run. A real service puts other adapters into [`App`] (a directory,
//! PostgreSQL, Redis) and changes nothing else.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use pganalytics_core::auth::{
    Attempt, AuthOutcome, AuthProvider, Identity, MemoryAccount, MemoryAuthProvider, ProviderId,
};
use pganalytics_core::clock::{Clock, SystemClock};
use pganalytics_core::ids::UserId;
use pganalytics_core::random::OsRandom;
use pganalytics_core::secret::SecretString;
use pganalytics_core::session::{MemorySessionStore, NewSession, Session, SessionLifetimes, SessionStore};
use pganalytics_core::users::{ExternalIdentity, MemoryUserStore, NewUser, Role, User, UserStore};

const COOKIE_NAME: &str = "__Host-session";

#[derive(Clone)]
struct App {
    provider: Arc<dyn AuthProvider>,
    users: Arc<dyn UserStore>,
    sessions: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    lifetimes: SessionLifetimes,
}

#[derive(serde::Deserialize)]
struct Credentials {
    username: String,
    password: SecretString,
}

/// Why a request is not answered. Neither says more than its status: a denial never tells which part was wrong.
enum Problem {
    Denied,
    Unavailable(Box<dyn Error>),
}

impl App {
    fn in_memory(clock: Arc<dyn Clock>, account: MemoryAccount) -> Self {
        let provider = MemoryAuthProvider::new(ProviderId("demo".into()), Arc::clone(&clock));
        Self {
            provider: Arc::new(provider.with_account(account)),
            users: Arc::new(MemoryUserStore::new(Arc::clone(&clock))),
            sessions: Arc::new(MemorySessionStore::new(Arc::clone(&clock), Arc::new(OsRandom))),
            clock,
            lifetimes: SessionLifetimes::new(Duration::from_secs(30 * 60), Duration::from_secs(12 * 3600)),
        }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/login", post(login))
            .route("/me", get(me))
            .route("/logout", post(logout))
            .with_state(self)
    }

    /// The user that is linked to the identity; somebody who comes for the first time becomes a viewer.
    async fn user_of(&self, identity: Identity) -> Result<User, Problem> {
        let id = UserId::generate(&*self.clock, &OsRandom);
        let username = identity.username.parse().map_err(|_| Problem::Denied)?;
        let new = NewUser::new(id, username, Role::Viewer).with_contact(identity.email, identity.full_name);
        let external = ExternalIdentity { provider: identity.provider.0, subject: identity.subject };
        let user = self.users.provision(&external, &new).await?.into_user();
        if user.is_active { Ok(user) } else { Err(Problem::Denied) }
    }

    async fn session(&self, headers: &HeaderMap) -> Result<Session, Problem> {
        let cookies = headers.get(COOKIE).and_then(|value| value.to_str().ok()).ok_or(Problem::Denied)?;
        let token = cookies
            .split("; ")
            .find_map(|cookie| cookie.strip_prefix(COOKIE_NAME)?.strip_prefix('='))
            .ok_or(Problem::Denied)?;
        let token = token.parse().map_err(|_| Problem::Denied)?;
        let session = self.sessions.load(&token).await?.ok_or(Problem::Denied)?;
        self.sessions.touch(session.id).await?;
        Ok(session)
    }
}

async fn login(State(app): State<App>, Form(credentials): Form<Credentials>) -> Result<Response, Problem> {
    let Credentials { username, password } = credentials;
    let outcome = app.provider.attempt(&Attempt::Password { username, password }).await?;
    let AuthOutcome::Accepted(identity) = outcome else { return Err(Problem::Denied) };
    let provider = identity.provider.0.clone();
    let user = app.user_of(*identity).await?;
    let (token, _) = app.sessions.create(NewSession::new(user.id, app.lifetimes, provider)).await?;
    Ok((StatusCode::NO_CONTENT, AppendHeaders([(SET_COOKIE, cookie(&token.expose()))])).into_response())
}

async fn me(State(app): State<App>, headers: HeaderMap) -> Result<Json<User>, Problem> {
    let session = app.session(&headers).await?;
    app.users.find(session.user).await?.filter(|user| user.is_active).map(Json).ok_or(Problem::Denied)
}

async fn logout(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    let session = app.session(&headers).await?;
    app.sessions.delete(session.id).await?;
    let removed = cookie("") + "; Max-Age=0";
    Ok((StatusCode::NO_CONTENT, AppendHeaders([(SET_COOKIE, removed)])).into_response())
}

/// Scripts cannot read it, it is not sent without TLS (but on loopback), and other sites' forms do not carry it.
fn cookie(value: &str) -> String {
    format!("{COOKIE_NAME}={value}; Path=/; HttpOnly; Secure; SameSite=Lax")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::Denied => StatusCode::UNAUTHORIZED.into_response(),
            Self::Unavailable(error) => {
                println!("{error}");
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
        }
    }
}

/// Whatever a port reports as an error is an outage, and never a denial.
impl<E: Error + 'static> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let account = MemoryAccount::new("1", "demo").with_password("a demo password");
    let app = App::in_memory(Arc::new(SystemClock), account);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    println!("curl -i -c jar -d 'username=demo&password=a demo password' {url}/login");
    println!("curl -i -b jar {url}/me");
    println!("curl -i -b jar -X POST {url}/logout");
    println!("Ctrl-C ends it.");
    let stop = async {
        // Without the signal's handler there is nothing to wait for.
        tokio::signal::ctrl_c().await.unwrap_or_default();
    };
    axum::serve(listener, app.router()).with_graceful_shutdown(stop).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use axum::http::header::CONTENT_TYPE;
    use pganalytics_core::testing::ManualClock;
    use tower::ServiceExt;

    use super::*;

    fn app(clock: &ManualClock) -> Router {
        let account = MemoryAccount::new("1", "demo").with_password("right");
        App::in_memory(Arc::new(clock.clone()), account).router()
    }

    async fn log_in(app: &Router, password: &str) -> Response {
        let request = Request::post("/login")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(format!("username=demo&password={password}")))
            .unwrap();
        app.clone().oneshot(request).await.unwrap()
    }

    async fn send(app: &Router, method: &str, path: &str, cookie: &str) -> StatusCode {
        let request = Request::builder().method(method).uri(path).header(COOKIE, cookie);
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    fn cookie_of(response: &Response) -> String {
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
        cookie.split_once(';').unwrap().0.to_owned()
    }

    #[tokio::test]
    async fn somebody_is_signed_in_until_the_logout() {
        let app = app(&ManualClock::new());
        let cookie = cookie_of(&log_in(&app, "right").await);
        assert_eq!(send(&app, "GET", "/me", &format!("other=1; {cookie}")).await, StatusCode::OK);
        assert_eq!(send(&app, "POST", "/logout", &cookie).await, StatusCode::NO_CONTENT);
        assert_eq!(send(&app, "GET", "/me", &cookie).await, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn a_wrong_password_gets_no_session() {
        let response = log_in(&app(&ManualClock::new()), "wrong").await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(response.headers().get(SET_COOKIE).is_none());
    }

    #[tokio::test]
    async fn an_idle_session_ends() {
        let clock = ManualClock::new();
        let app = app(&clock);
        let cookie = cookie_of(&log_in(&app, "right").await);
        for (minutes, expected) in
            [(29, StatusCode::OK), (29, StatusCode::OK), (30, StatusCode::UNAUTHORIZED)]
        {
            clock.advance(Duration::from_secs(minutes * 60));
            assert_eq!(send(&app, "GET", "/me", &cookie).await, expected);
        }
    }
}
