use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, Method};
use axum::response::{IntoResponse, Response};
use pganalytics_auth::principal::Principal;
use pganalytics_core::audit::Resource;
use pganalytics_core::layer::{AccessAuditLayer, AccessFacts, AccessRecord, NotRecorded, Recording};

use super::RequestMeta;
use crate::api::{Access, ApiError, Permission, RouteInfo};
use crate::app::App;
use crate::config::RequestClass;

/// Records requests as it was declared of their routes. `None` if the configuration says that none are recorded.
pub(in crate::api) fn record(app: &App, routes: &[RouteInfo]) -> Option<AccessAuditLayer> {
    let sink = app.audit.clone()?;
    let policies = Policies::of(routes, &app.config.audit.fail_closed);
    let (clock, random) = (Arc::clone(&app.clock), Arc::clone(&app.random));
    let layer = AccessAuditLayer::new(Arc::new(sink.clone()), clock, random)
        .with_policy(move |head, facts| policies.begin(head, facts))
        .with_readiness(move || sink.is_recording());
    Some(layer)
}

/// Gives a request that could not be recorded an answer in the API's own form.
pub(in crate::api) fn explain(response: Response) -> Response {
    match response.extensions().get::<NotRecorded>() {
        None => response,
        Some(NotRecorded { was_served: true, .. }) => {
            ApiError::unavailable("the request was served, but could not be recorded").into_response()
        }
        Some(_) => ApiError::unavailable("requests of this kind cannot be recorded now").into_response(),
    }
}

/// Tells the record whom authentication has found.
pub(in crate::api) fn tell_principal(request: Request) -> Request {
    let extensions = request.extensions();
    if let Some((record, principal)) = extensions.get::<AccessRecord>().zip(extensions.get::<Principal>()) {
        record.update(|facts| {
            facts.actor = Some(principal.actor());
            facts.session = principal.session();
        });
    }
    request
}

/// Through this a handler tells what the event of its request is to say. Where requests are not recorded, nobody hears it.
#[derive(Clone, Debug)]
pub struct AccessNotes(Option<AccessRecord>);

impl AccessNotes {
    /// Of the request with these extensions.
    pub fn of(extensions: &Extensions) -> Self {
        Self(extensions.get::<AccessRecord>().cloned())
    }

    /// Tells something.
    pub fn tell(&self, tell: impl FnOnce(&mut AccessFacts)) {
        if let Some(record) = &self.0 {
            record.update(tell);
        }
    }

    /// Says what was done, for routes whose changes are no rows of a transaction: this event is all there is of them.
    pub(crate) fn did(&self, action: &'static str) {
        self.tell(|facts| facts.action = Some(action.parse().expect("it is dotted lower-case words")));
    }
}

impl<S: Sync> FromRequestParts<S> for AccessNotes {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions))
    }
}

/// How requests are recorded, by path and method.
struct Policies {
    recordings: HashMap<String, Vec<(Method, Recording)>>,
    /// Where the query says what of the audit log was read.
    queried: HashSet<String>,
}

impl Policies {
    fn of(routes: &[RouteInfo], fail_closed: &[RequestClass]) -> Self {
        let (mut recordings, mut queried) = (HashMap::<_, Vec<_>>::new(), HashSet::new());
        for route in routes {
            let recording = match route.is_recorded {
                false => Recording::Skip,
                true if fail_closed.contains(&class(route)) => Recording::FailClosed,
                true => Recording::FailOpen,
            };
            for endpoint in &route.endpoints {
                let (method, path) = endpoint.split_once(' ').expect("an endpoint is method and path");
                let method = method.parse().expect("the document knows these methods");
                recordings.entry(path.to_owned()).or_default().push((method, recording));
                if route.access == Access::Permission(Permission::ReadAudit) {
                    queried.insert(path.to_owned());
                }
            }
        }
        Self { recordings, queried }
    }

    fn begin(&self, head: &Parts, facts: &mut AccessFacts) -> Recording {
        facts.address = head.extensions.get::<RequestMeta>().map(|meta| meta.address);
        // What leads nowhere is recorded: somebody may be looking for something.
        let Some(path) = head.extensions.get::<MatchedPath>() else { return Recording::FailOpen };
        // The documentation, which is not among the declared routes.
        let Some(methods) = self.recordings.get(path.as_str()) else { return Recording::Skip };
        facts.resource = Some(Resource { kind: "route".to_owned(), id: Some(path.as_str().to_owned()) });
        if self.queried.contains(path.as_str()) {
            facts.query = head.uri.query().map(str::to_owned);
        }
        let asked = if head.method == Method::HEAD { &Method::GET } else { &head.method };
        let found = methods.iter().find(|(method, _)| method == asked);
        found.map_or(Recording::FailOpen, |(_, recording)| *recording)
    }
}

fn class(route: &RouteInfo) -> RequestClass {
    match (route.access, route.mutation) {
        (Access::Collector | Access::CollectorOr(_), _) => RequestClass::Collectors,
        (_, Some(_)) => RequestClass::Changes,
        (_, None) => RequestClass::Reads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_recorded_by_their_class() {
        let route = |endpoint: &str, access, is_recorded| RouteInfo {
            endpoints: vec![endpoint.to_owned()],
            access,
            mutation: None,
            is_recorded,
        };
        let routes = [
            route("GET /health", Access::Public, false),
            route("GET /users", Access::Permission(Permission::Read), true),
            route("POST /push", Access::Collector, true),
        ];
        let policies = Policies::of(&routes, &[RequestClass::Collectors]);
        assert_eq!(policies.recordings["/health"], [(Method::GET, Recording::Skip)]);
        assert_eq!(policies.recordings["/users"], [(Method::GET, Recording::FailOpen)]);
        assert_eq!(policies.recordings["/push"], [(Method::POST, Recording::FailClosed)]);
    }
}
