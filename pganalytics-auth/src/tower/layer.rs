use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http::request::Parts;
use tower_layer::Layer;
use tower_service::Service;

use crate::principal::Principal;

/// Finds out who makes a request.
pub trait Authenticator: Send + Sync + 'static {
    /// How a request is turned away. The layer makes the response of it.
    type Rejection: Send;

    /// Who makes the request; `None` for nobody in particular, which is up to the routes to allow.
    ///
    /// # Errors
    /// When the request is turned away here: it presented something that is not accepted, or that cannot be judged now.
    fn authenticate(
        &self,
        parts: &Parts,
    ) -> impl Future<Output = Result<Option<Principal>, Self::Rejection>> + Send;
}

impl<A: Authenticator> Authenticator for Arc<A> {
    type Rejection = A::Rejection;

    fn authenticate(
        &self,
        parts: &Parts,
    ) -> impl Future<Output = Result<Option<Principal>, Self::Rejection>> + Send {
        (**self).authenticate(parts)
    }
}

/// Asks an [`Authenticator`] about each request and puts the [`Principal`] into the request's extensions.
///
/// A request of nobody goes on without one. One that already carries a principal (of an outer layer) loses it first, so that
/// nothing but this layer says who it is.
#[derive(Debug)]
pub struct AuthenticationLayer<A>(Arc<A>);

impl<A: Authenticator> AuthenticationLayer<A> {
    /// A layer that asks this authenticator.
    pub fn new(authenticator: A) -> Self {
        Self(Arc::new(authenticator))
    }
}

impl<A> Clone for AuthenticationLayer<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A, S> Layer<S> for AuthenticationLayer<A> {
    type Service = AuthenticationService<A, S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthenticationService { authenticator: self.0.clone(), inner }
    }
}

/// The service of an [`AuthenticationLayer`].
#[derive(Debug)]
pub struct AuthenticationService<A, S> {
    authenticator: Arc<A>,
    inner: S,
}

impl<A, S: Clone> Clone for AuthenticationService<A, S> {
    fn clone(&self) -> Self {
        Self { authenticator: self.authenticator.clone(), inner: self.inner.clone() }
    }
}

impl<A, S, B> Service<Request<B>> for AuthenticationService<A, S>
where
    A: Authenticator,
    A::Rejection: Into<S::Response>,
    S: Service<Request<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let authenticator = self.authenticator.clone();
        // The clone that is left behind has not been made ready; the one that was must take the request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            parts.extensions.remove::<Principal>();
            match authenticator.authenticate(&parts).await {
                Ok(Some(principal)) => drop(parts.extensions.insert(principal)),
                Ok(None) => {}
                Err(rejection) => return Ok(rejection.into()),
            }
            inner.call(Request::from_parts(parts, body)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Response, StatusCode};
    use pganalytics_core::ids::CollectorId;
    use uuid::Uuid;

    use super::*;
    use crate::tower::bearer_token;

    /// Takes a UUID for a collector, and refuses other tokens.
    struct CollectorsById;

    struct Rejected;

    impl From<Rejected> for Response<String> {
        fn from(_: Rejected) -> Self {
            let mut response = Response::new("rejected".to_owned());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
        }
    }

    impl Authenticator for CollectorsById {
        type Rejection = Rejected;

        async fn authenticate(&self, parts: &Parts) -> Result<Option<Principal>, Rejected> {
            let Some(token) = bearer_token(&parts.headers) else { return Ok(None) };
            // Answers do not come at once.
            tokio::task::yield_now().await;
            let collector = token.parse().map(CollectorId).map_err(|_| Rejected)?;
            Ok(Some(Principal::Collector(collector)))
        }
    }

    /// Answers with the principal that it sees. Panics unless it was made ready, as the contract of `Service` allows.
    #[derive(Default)]
    struct Echo {
        ready: bool,
    }

    impl Clone for Echo {
        fn clone(&self) -> Self {
            Self::default()
        }
    }

    impl Service<Request<()>> for Echo {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.ready = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            assert!(std::mem::take(&mut self.ready), "called before it was ready");
            let principal = request.extensions().get::<Principal>();
            std::future::ready(Ok(Response::new(format!("{principal:?}"))))
        }
    }

    async fn call(request: Request<()>) -> Response<String> {
        let mut service = AuthenticationLayer::new(CollectorsById).layer(Echo::default());
        let mut answer = None;
        for _ in 0..2 {
            std::future::poll_fn(|context| service.poll_ready(context)).await.unwrap();
            answer = Some(service.call(request.clone()).await.unwrap());
        }
        answer.unwrap()
    }

    fn request(authorization: Option<&str>) -> Request<()> {
        let builder = Request::builder();
        match authorization {
            Some(value) => builder.header("authorization", value),
            None => builder,
        }
        .body(())
        .unwrap()
    }

    #[tokio::test]
    async fn the_principal_reaches_the_handler() {
        let answer = call(request(Some(&format!("Bearer {}", Uuid::nil())))).await;
        let principal = Principal::Collector(CollectorId(Uuid::nil()));
        assert_eq!(answer.body(), &format!("{:?}", Some(principal)));
    }

    #[tokio::test]
    async fn a_request_of_nobody_goes_on_without_one() {
        assert_eq!(call(request(None)).await.body(), "None");
    }

    #[tokio::test]
    async fn a_rejection_is_the_response() {
        let answer = call(request(Some("Bearer junk"))).await;
        assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::UNAUTHORIZED, "rejected"));
    }

    #[tokio::test]
    async fn a_principal_from_outside_is_taken_away() {
        let mut request = request(None);
        request.extensions_mut().insert(Principal::Collector(CollectorId(Uuid::nil())));
        assert_eq!(call(request).await.body(), "None");
    }
}
