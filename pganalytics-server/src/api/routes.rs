use axum::middleware;
use axum::routing::MethodRouter;
use pganalytics_core::users::Role;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, Paths, SecurityRequirement, Type};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::layers::{authorise, work};
use crate::app::App;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Whoever is signed in.
    SignedIn,
    /// Whose role, and token scope where there is one, allows it.
    Permission(Permission),
    /// Collectors. Whatever is wrong with their token is answered 403: a 401 makes older collectors throw data away.
    Collector,
    /// Collectors, and users with this permission.
    CollectorOr(Permission),
}

/// What a role allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Read metrics, collectors, alerts.
    Read,
    /// Change alert rules.
    ManageAlerts,
    /// Change collectors and their configuration.
    ManageCollectors,
    /// Change users and registration secrets.
    Administer,
    /// Read the audit log.
    ReadAudit,
}

impl Permission {
    /// Whether the role has it.
    pub fn is_given_to(self, role: Role) -> bool {
        match role {
            Role::Viewer => self == Self::Read,
            Role::User => matches!(self, Self::Read | Self::ManageAlerts | Self::ManageCollectors),
            Role::Admin => true,
            Role::Auditor => self == Self::ReadAudit,
            // What is not known here gets nothing.
            _ => false,
        }
    }

    /// The scope that an API token needs for it.
    pub fn scope(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ManageAlerts => "alerts:write",
            Self::ManageCollectors => "collectors:write",
            Self::Administer => "admin",
            Self::ReadAudit => "audit:read",
        }
    }

    /// Every permission.
    pub const ALL: [Self; 5] =
        [Self::Read, Self::ManageAlerts, Self::ManageCollectors, Self::Administer, Self::ReadAudit];
}

/// What becomes of a request that is sent again with the same idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It gets the stored response.
    Stored,
    /// It gets 409: the response held a secret, which is not stored.
    Sealed,
    /// It is done again: the route is safe to repeat.
    Never,
}

/// What was declared of a route.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    /// The paths with their methods, like `POST /api/v1/users`.
    pub endpoints: Vec<String>,
    /// Who may call it.
    pub access: Access,
    /// `None` for routes that only read.
    pub mutation: Option<Mutation>,
    /// Whether requests are recorded in the audit log. Probes are not.
    pub is_recorded: bool,
}

/// What was declared of a route that changes something.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    /// What becomes of a repeated request.
    pub replay: Replay,
    /// The action in the audit trail.
    pub action: &'static str,
}

/// The routes of the API. Each is registered here, with who may call it, whether it may be repeated and what it is
/// called in the audit trail; there is no other way to add one.
pub struct Routes {
    app: App,
    router: OpenApiRouter<App>,
    infos: Vec<RouteInfo>,
}

impl Routes {
    /// No routes yet.
    pub fn new(app: App, document: utoipa::openapi::OpenApi) -> Self {
        Self { app, router: OpenApiRouter::with_openapi(document), infos: Vec::new() }
    }

    /// Adds a route that changes nothing.
    #[must_use]
    pub fn read(self, access: Access, routes: UtoipaMethodRouter<App>) -> Self {
        self.add(access, None, true, routes)
    }

    /// Adds a route for programs that ask every few seconds whether the server is well; what they ask is not recorded.
    #[must_use]
    pub fn probe(self, access: Access, routes: UtoipaMethodRouter<App>) -> Self {
        self.add(access, None, false, routes)
    }

    /// Adds a route that changes something.
    #[must_use]
    pub fn mutate(
        self,
        access: Access,
        replay: Replay,
        action: &'static str,
        routes: UtoipaMethodRouter<App>,
    ) -> Self {
        self.add(access, Some(Mutation { replay, action }), true, routes)
    }

    /// Adds a group of routes.
    #[must_use]
    pub fn group(self, add: impl FnOnce(Self) -> Self) -> Self {
        add(self)
    }

    /// The router, its document and what was declared.
    pub fn finish(self) -> (axum::Router<App>, utoipa::openapi::OpenApi, Vec<RouteInfo>) {
        let (router, document) = self.router.split_for_parts();
        (router, document, self.infos)
    }

    fn add(
        mut self,
        access: Access,
        mutation: Option<Mutation>,
        is_recorded: bool,
        routes: UtoipaMethodRouter<App>,
    ) -> Self {
        let (schemas, mut paths, method_router) = routes;
        self.infos.push(RouteInfo { endpoints: endpoints(&paths), access, mutation, is_recorded });
        for item in paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch];
            for operation in operations.into_iter().flatten() {
                describe(operation, access, mutation);
            }
        }
        let method_router = self.layered(access, mutation, method_router);
        self.router = self.router.routes((schemas, paths, method_router));
        self
    }

    /// The layers that depend on the route, the outermost last.
    fn layered(
        &self,
        access: Access,
        mutation: Option<Mutation>,
        router: MethodRouter<App>,
    ) -> MethodRouter<App> {
        let router = match mutation {
            None => router,
            Some(mutation) => {
                router.layer(middleware::from_fn_with_state((self.app.clone(), mutation), work::run))
            }
        };
        router.layer(middleware::from_fn_with_state(access, authorise::check))
    }
}

fn endpoints(paths: &Paths) -> Vec<String> {
    let mut endpoints = Vec::new();
    for (path, item) in &paths.paths {
        let methods = [
            ("GET", &item.get),
            ("POST", &item.post),
            ("PUT", &item.put),
            ("DELETE", &item.delete),
            ("PATCH", &item.patch),
        ];
        let present = methods.iter().filter(|(_, operation)| operation.is_some());
        endpoints.extend(present.map(|(method, _)| format!("{method} {path}")));
    }
    endpoints
}

/// Writes into the document what the layers will do.
fn describe(operation: &mut Operation, access: Access, mutation: Option<Mutation>) {
    let none: [&str; 0] = [];
    if access != Access::Public {
        operation.security = Some(vec![
            SecurityRequirement::new("bearer", none),
            SecurityRequirement::new("session_cookie", none),
        ]);
    }
    let mut extensions = ExtensionsBuilder::new();
    if let Access::Permission(permission) | Access::CollectorOr(permission) = access {
        extensions = extensions.add("x-scope", permission.scope());
    }
    if let Some(Mutation { replay, action }) = mutation {
        extensions = extensions.add("x-audit-action", action);
        if replay != Replay::Never {
            operation.parameters.get_or_insert_default().push(idempotency_key().into());
        }
    }
    operation.extensions = Some(extensions.build());
}

fn idempotency_key() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(utoipa::openapi::Required::False)
        .description(Some("Makes the request take effect once, however often it is sent within a day."))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).max_length(Some(255))))
        .build()
}
