use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tower_layer::Layer;
use tower_service::Service;

use crate::idempotency::{
    Claim, Fingerprint, FreshClaim, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, IdempotencyKey, IdempotencyStore,
    StoredResponse, idempotency_key_in,
};

/// Headers of a moment or of a connection (RFC 9110, sections 6.6.1 and 7.6.1), and cookies, which are somebody's.
const NOT_KEPT: [HeaderName; 8] = [
    header::DATE,
    header::SET_COOKIE,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

/// Put into the extensions of a 4xx response by a handler that had begun to change something: the response is then kept, as
/// that of a success is. Otherwise a 4xx leaves the key free, for the corrected request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EffectsBegan;

/// Lets a request that is sent again with the same `Idempotency-Key` take effect once
/// (draft-ietf-httpapi-idempotency-key-header). What that promises is up to the store; see its docs.
///
/// Requests with a safe method (RFC 9110, section 9.2.1) pass untouched, as do those without a key, unless it is required.
/// The inner service runs in a task of its own, so that a client that hangs up does not cut it in the middle.
///
/// | the key | answer |
/// |---|---|
/// | is new | what the inner service says; kept if it is below 400, or a 4xx with [`EffectsBegan`] |
/// | has a kept response | that response, with `Idempotency-Replayed: true` |
/// | is being worked on | 409 |
/// | was used for another method, path, query, content type or body | 422 |
/// | is malformed, or missing where it is required | 400 |
/// | cannot be looked up | 503 |
///
/// A response that is too large to be kept is sent once; a retry gets 409. When the store fails after the effects, the client
/// gets its response all the same: a retry, which would have them twice, is what it would do without one.
#[derive(Clone)]
pub struct IdempotencyLayer {
    policy: Arc<Policy>,
}

#[derive(Clone)]
struct Policy {
    store: Arc<dyn IdempotencyStore>,
    scope: Arc<dyn Fn(&Parts) -> String + Send + Sync>,
    options: IdempotencyOptions,
}

/// How [`IdempotencyLayer`] treats requests.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct IdempotencyOptions {
    /// How long a response is kept: 24 hours unless told otherwise.
    pub ttl: Duration,
    /// The largest request body, in bytes; more is 413. 1 MiB unless told otherwise.
    pub request_max_bytes: usize,
    /// The largest response body that is kept, in bytes: 256 KiB unless told otherwise.
    pub response_max_bytes: usize,
    /// Whether a request without a key is refused.
    pub required: bool,
}

impl Default for IdempotencyOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 3600),
            request_max_bytes: 1024 * 1024,
            response_max_bytes: 256 * 1024,
            required: false,
        }
    }
}

impl IdempotencyLayer {
    /// A layer over a store. `scope` says whose key it is, by what an outer layer has proved of the caller: two callers with
    /// the same scope share their keys, and read each other's responses.
    pub fn new(
        store: Arc<dyn IdempotencyStore>,
        scope: impl Fn(&Parts) -> String + Send + Sync + 'static,
    ) -> Self {
        let options = IdempotencyOptions::default();
        Self { policy: Arc::new(Policy { store, scope: Arc::new(scope), options }) }
    }

    /// Replaces the options.
    #[must_use]
    pub fn with_options(self, options: IdempotencyOptions) -> Self {
        Self { policy: Arc::new(Policy { options, ..(*self.policy).clone() }) }
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("store", &self.policy.store)
            .field("options", &self.policy.options)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = IdempotencyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdempotencyService { inner, policy: self.policy.clone() }
    }
}

/// The service that [`IdempotencyLayer`] makes.
#[derive(Clone)]
pub struct IdempotencyService<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S: fmt::Debug> fmt::Debug for IdempotencyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for IdempotencyService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
    R: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    R::Error: std::error::Error + Send + Sync + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let policy = self.policy.clone();
        // The clone that is left behind has not been made ready; the one that was must take the request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let (request, claim) = match policy.claim(request).await {
                Ok((request, Some(claim))) => (request, claim),
                Ok((request, None)) => return inner.call(request).await,
                Err(refusal) => return Ok(refusal.into_response()),
            };
            let work = tokio::spawn(async move {
                let response = inner.call(request).await?;
                Ok(policy.finish(claim, response).await)
            });
            match work.await {
                Ok(outcome) => outcome,
                Err(failed) => std::panic::resume_unwind(failed.into_panic()),
            }
        })
    }
}

type Claimed<B> = (Request<B>, Option<Box<dyn FreshClaim>>);

impl Policy {
    async fn claim<B>(&self, request: Request<B>) -> Result<Claimed<B>, Refusal>
    where
        B: Body<Data = Bytes> + From<Bytes>,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        if [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(request.method()) {
            return Ok((request, None));
        }
        let key = idempotency_key_in(request.headers(), &IDEMPOTENCY_KEY)
            .map_err(|error| Refusal::malformed(&error))?;
        let Some(key) = key else {
            return if self.options.required { Err(Refusal::MISSING) } else { Ok((request, None)) };
        };
        let (parts, body) = request.into_parts();
        let key =
            IdempotencyKey::new((self.scope)(&parts), key).map_err(|error| Refusal::malformed(&error))?;
        let body = Limited::new(body, self.options.request_max_bytes).collect().await;
        let body = body.map_err(|_| Refusal::UNREAD)?.to_bytes();
        let fingerprint = fingerprint(&parts, &body);
        let claim = self.store.claim(&key, &fingerprint).await.map_err(|_| Refusal::UNAVAILABLE)?;
        match claim {
            Claim::Fresh(claim) => Ok((Request::from_parts(parts, body.into()), Some(claim))),
            Claim::Replay(stored) => Err(Refusal::Replay(stored)),
            Claim::Busy => Err(Refusal::BUSY),
            Claim::Mismatch => Err(Refusal::MISMATCH),
        }
    }

    async fn finish<R>(&self, claim: Box<dyn FreshClaim>, response: Response<R>) -> Response<R>
    where
        R: Body<Data = Bytes> + From<Bytes>,
        R::Error: std::error::Error + Send + Sync + 'static,
    {
        let status = response.status();
        let is_kept = status.as_u16() < 400
            || (status.is_client_error() && response.extensions().get::<EffectsBegan>().is_some());
        if !is_kept {
            count_failure(claim.abandon().await);
            return response;
        }
        let (parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else {
            // The effects are there, the response is lost: nobody can tell a retry what it was.
            count_failure(claim.complete(&Refusal::GONE.stored(), self.options.ttl).await);
            return Refusal::BROKEN.into_response();
        };
        let body = body.to_bytes();
        let stored = if body.len() > self.options.response_max_bytes {
            Refusal::GONE.stored()
        } else {
            let kept = parts.headers.iter().filter(|(name, _)| !NOT_KEPT.contains(name));
            let headers = kept
                .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())));
            StoredResponse::new(status.as_u16(), headers.collect(), body.clone())
        };
        count_failure(claim.complete(&stored, self.options.ttl).await);
        Response::from_parts(parts, body.into())
    }
}

fn fingerprint(parts: &Parts, body: &[u8]) -> Fingerprint {
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let content_type = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    Fingerprint::of([parts.method.as_str().as_bytes(), path.as_bytes(), content_type, body])
}

fn count_failure<T, E>(outcome: Result<T, E>) {
    if outcome.is_err() {
        metrics::counter!("pganalytics_idempotency_unfinished_total").increment(1);
    }
}

/// An answer in place of the inner service's.
#[derive(Debug)]
enum Refusal {
    Replay(StoredResponse),
    Problem { status: StatusCode, title: &'static str },
    Malformed { detail: String },
}

impl Refusal {
    const MISSING: Self = Self::problem(StatusCode::BAD_REQUEST, "this request needs an Idempotency-Key");
    const UNREAD: Self =
        Self::problem(StatusCode::PAYLOAD_TOO_LARGE, "the request body is too large or was cut off");
    const BUSY: Self =
        Self::problem(StatusCode::CONFLICT, "a request with this Idempotency-Key is being worked on");
    const GONE: Self = Self::problem(
        StatusCode::CONFLICT,
        "this request was done before; its response was too large to be kept",
    );
    const MISMATCH: Self =
        Self::problem(StatusCode::UNPROCESSABLE_ENTITY, "this Idempotency-Key was used for another request");
    const UNAVAILABLE: Self =
        Self::problem(StatusCode::SERVICE_UNAVAILABLE, "the Idempotency-Key cannot be looked up now");
    const BROKEN: Self = Self::problem(StatusCode::INTERNAL_SERVER_ERROR, "the response could not be made");

    const fn problem(status: StatusCode, title: &'static str) -> Self {
        Self::Problem { status, title }
    }

    fn malformed(error: &dyn std::error::Error) -> Self {
        Self::Malformed { detail: error.to_string() }
    }

    /// As problem details (RFC 9457).
    fn stored(&self) -> StoredResponse {
        let (status, title, detail) = match self {
            Self::Replay(stored) => return stored.clone(),
            Self::Problem { status, title } => (*status, *title, None),
            Self::Malformed { detail } => {
                (StatusCode::BAD_REQUEST, "the Idempotency-Key is malformed", Some(detail))
            }
        };
        let mut problem = serde_json::json!({ "title": title, "status": status.as_u16() });
        if let Some(detail) = detail {
            problem["detail"] = detail.as_str().into();
        }
        let headers = vec![("content-type".to_owned(), Bytes::from_static(b"application/problem+json"))];
        StoredResponse::new(status.as_u16(), headers, problem.to_string().into())
    }

    fn into_response<R: From<Bytes>>(self) -> Response<R> {
        let is_replay = matches!(self, Self::Replay(_));
        let stored = self.stored();
        let mut response = Response::new(stored.body.into());
        *response.status_mut() =
            StatusCode::from_u16(stored.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in stored.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_maybe_shared(value))
            {
                response.headers_mut().append(name, value);
            }
        }
        if is_replay {
            response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}
