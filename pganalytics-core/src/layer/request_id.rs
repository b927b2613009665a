use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::clock::Clock;
use crate::random::{Random, RandomExt};

/// The header with a request's id, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a client, in bytes.
pub const REQUEST_ID_MAX_BYTES: usize = 64;

/// The id of a request: a text that is safe to log, to store and to send back. The layer puts it into the request's
/// extensions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("it was checked, or made, to be ASCII")
    }

    // Of several ids none can be relied upon.
    fn of_client(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(REQUEST_ID).iter();
        let value = values.next().filter(|value| is_acceptable(value.as_bytes()))?;
        values.next().is_none().then(|| Self(value.clone()))
    }
}

fn is_acceptable(id: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    (1..=REQUEST_ID_MAX_BYTES).contains(&id.len()) && id.iter().all(allowed)
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Gives each request an id.
///
/// A client's own is kept if it is 1 to [`REQUEST_ID_MAX_BYTES`] of A-Z, a-z, 0-9, `_` and `-`, and the only one; else the
/// request gets a UUIDv7. The id is a [`RequestId`] in the request's extensions, and the header [`REQUEST_ID`] of the request
/// that the inner service sees and of its response.
#[derive(Clone, Debug)]
pub struct RequestIdLayer {
    maker: Maker,
}

#[derive(Clone, Debug)]
struct Maker {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl RequestIdLayer {
    /// A layer that makes ids with these.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { maker: Maker { clock, random } }
    }
}

impl Maker {
    fn make(&self) -> RequestId {
        let id = self.random.uuid_v7(&*self.clock).to_string();
        RequestId(HeaderValue::try_from(id).expect("a UUID is hex digits and hyphens"))
    }
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = RequestIdService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestIdService { inner, maker: self.maker.clone() }
    }
}

/// The service that [`RequestIdLayer`] makes.
#[derive(Clone, Debug)]
pub struct RequestIdService<S> {
    inner: S,
    maker: Maker,
}

impl<S, B, R> Service<Request<B>> for RequestIdService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RequestIdFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = RequestId::of_client(request.headers()).unwrap_or_else(|| self.maker.make());
        request.headers_mut().insert(REQUEST_ID, id.0.clone());
        request.extensions_mut().insert(id.clone());
        RequestIdFuture { inner: self.inner.call(request), id }
    }
}

pin_project! {
    /// The future of [`RequestIdService`].
    #[derive(Debug)]
    pub struct RequestIdFuture<F> {
        #[pin]
        inner: F,
        id: RequestId,
    }
}

impl<F, R, E> Future for RequestIdFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.inner.poll(cx));
        if let Ok(response) = &mut result {
            response.headers_mut().insert(REQUEST_ID, this.id.0.clone());
        }
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt, service_fn};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{ManualClock, SeededRandom};

    // The id in the response, after a look at what the inner service got.
    async fn id_of(sent: &[&[u8]]) -> String {
        let layer = RequestIdLayer::new(Arc::new(ManualClock::new()), Arc::new(SeededRandom::new(1)));
        let service = ServiceBuilder::new().layer(layer).service(service_fn(async |request: Request<()>| {
            let id = request.extensions().get::<RequestId>().unwrap();
            let headers: Vec<_> = request.headers().get_all(REQUEST_ID).iter().collect();
            assert_eq!(headers, [id.as_str()]);
            // Whatever the inner service says about ids is replaced.
            let response = Response::builder().header(REQUEST_ID, "inner").header("x-seen", id.as_str());
            response.body(())
        }));
        let mut request = Request::builder();
        for id in sent {
            request = request.header(REQUEST_ID, *id);
        }
        let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
        let answered: Vec<_> = response.headers().get_all(REQUEST_ID).iter().collect();
        assert_eq!(answered, [response.headers().get("x-seen").unwrap()]);
        answered[0].to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_request_without_an_id_gets_one() {
        let id: Uuid = id_of(&[]).await.parse().unwrap();
        assert_eq!(id.get_version_num(), 7);
    }

    #[tokio::test]
    async fn an_acceptable_id_is_kept() {
        for id in ["1", "abc_DEF-123", &"x".repeat(REQUEST_ID_MAX_BYTES)] {
            assert_eq!(id_of(&[id.as_bytes()]).await, id);
        }
    }

    #[tokio::test]
    async fn an_unacceptable_id_is_replaced() {
        let long = "x".repeat(REQUEST_ID_MAX_BYTES + 1);
        let unacceptable: [&[&[u8]]; 8] = [
            &[b""],
            &[long.as_bytes()],
            &[b"two words"],
            &[b"a,b"],
            &[b"<script>"],
            &[b"a\tb"],
            &[b"\xc3\xa9"],
            &[b"one", b"two"],
        ];
        for sent in unacceptable {
            assert!(id_of(sent).await.parse::<Uuid>().is_ok(), "{sent:?}");
        }
    }

    #[tokio::test]
    async fn two_requests_get_two_ids() {
        let layer = RequestIdLayer::new(Arc::new(ManualClock::new()), Arc::new(SeededRandom::new(1)));
        let service = layer.layer(service_fn(async |_: Request<()>| Ok::<_, ()>(Response::new(()))));
        let mut ids = Vec::new();
        for _ in 0..2 {
            let response = service.clone().oneshot(Request::new(())).await.unwrap();
            ids.push(response.headers()[REQUEST_ID].clone());
        }
        assert_ne!(ids[0], ids[1]);
    }

    #[tokio::test]
    async fn an_error_of_the_inner_service_passes_through() {
        let layer = RequestIdLayer::new(Arc::new(ManualClock::new()), Arc::new(SeededRandom::new(1)));
        let failing = service_fn(async |_: Request<()>| Err::<Response<()>, _>("down"));
        assert_eq!(layer.layer(failing).oneshot(Request::new(())).await.unwrap_err(), "down");
    }
}
