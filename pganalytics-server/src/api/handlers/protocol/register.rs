use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_auth::token::{CollectorGrant, IssuedToken};
use pganalytics_core::ids::{CollectorId, RegistrationSecretId};
use pganalytics_core::secret::SecretString;
use pganalytics_core::session::Epoch;
use pganalytics_store::postgres::collectors::{self, Collector, Registered, Registration};
use pganalytics_store::postgres::registration_secrets;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::certificate::ClientCertificate;
use crate::api::extract::refuse_body;
use crate::api::handlers::collectors::{CollectorChange, resource};
use crate::api::{Access, ApiError, ErrorBody, Replay, RequestMeta, Routes, Work, WorkHandle};
use crate::app::App;

const SECRET_HEADER: &str = "x-registration-secret";

/// The longest text that a collector may say about itself.
const TEXT_MAX: usize = 255;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.mutate(Access::Public, Replay::Sealed, "collector.register", routes!(register))
}

/// What a collector says when it registers.
#[derive(Debug, PartialEq, Eq, ToSchema)]
struct Register {
    /// What people call it.
    name: String,
    /// The host that it runs on.
    hostname: String,
    version: Option<String>,
    address: Option<String>,
    /// What the collector keeps across reinstallations. The same node is the same collector again; without it each
    /// registration makes a new one.
    node_id: Option<String>,
}

/// What a collector is given.
#[derive(Debug, Serialize, ToSchema)]
struct RegisteredCollector {
    /// `registered`.
    status: &'static str,
    collector_id: Uuid,
    /// For `Authorization: Bearer`.
    token: String,
    /// When the token ends. It can be refreshed also after that.
    expires_at: DateTime<Utc>,
    /// The client certificate, PEM.
    certificate: String,
    /// Its key, PKCS#8 in PEM. It is not kept.
    private_key: String,
    certificate_expires_at: DateTime<Utc>,
    config_version: i64,
}

/// Registers a collector with a registration secret.
#[utoipa::path(post, path = "/api/v1/collectors/register", tag = "collectors", request_body = Register,
    params(("X-Registration-Secret" = String, Header, description = "A registration secret")), responses(
    (status = 200, body = RegisteredCollector), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
))]
async fn register(
    State(app): State<App>,
    Extension(meta): Extension<RequestMeta>,
    work: WorkHandle,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RegisteredCollector>, ApiError> {
    let secret = headers.get(SECRET_HEADER).ok_or_else(unknown_secret)?.as_bytes();
    // What is wrong with the request is told only to whom knows a secret.
    let request = body.map_err(|rejection| refuse_body(&rejection)).and_then(|body| Register::parse(&body));
    let prepared = match &request {
        Ok(request) => Some(prepare(&app, request).await?),
        Err(_) => None,
    };
    let mut work = work.begin().await?;
    let secret = accept(&app, &mut work, secret).await?;
    let request = request?;
    let Some(Prepared { id, certificate, token }) = prepared else {
        return Err(ApiError::internal("a request that was read was not prepared"));
    };
    let address = meta.address.to_string();
    let registration = Registration {
        id,
        name: &request.name,
        hostname: &request.hostname,
        node_identity: request.node_id.as_deref(),
        program_version: request.version.as_deref(),
        address: Some(request.address.as_deref().unwrap_or(&address)),
        certificate_thumbprint: Some(&certificate.thumbprint),
        certificate_expires_at: Some(certificate.expires_at),
        registration_secret_id: secret,
    };
    let (collector, token) = match store(&app, &mut work, &registration).await? {
        (collector, true) => (collector, token),
        // The keys were fetched for the first token, so that this one waits for nothing.
        (collector, false) => {
            let token = issue(&app, collector.id, Epoch(collector.token_epoch)).await?;
            (collector, token)
        }
    };
    Ok(Json(RegisteredCollector {
        status: "registered",
        collector_id: collector.id.0,
        token: token.text.expose().to_owned(),
        expires_at: token.expires_at,
        certificate: certificate.certificate,
        private_key: certificate.private_key,
        certificate_expires_at: certificate.expires_at,
        config_version: collector.config_version,
    }))
}

/// What takes time, and is made before the transaction begins.
struct Prepared {
    id: CollectorId,
    certificate: ClientCertificate,
    token: IssuedToken,
}

async fn prepare(app: &App, request: &Register) -> Result<Prepared, ApiError> {
    let days = i64::from(app.config.collectors.certificate_lifetime_days.as_u32());
    let certificate = ClientCertificate::issue(&request.hostname, app.clock.now(), TimeDelta::days(days))
        .map_err(ApiError::internal)?;
    let id = CollectorId::generate(&*app.clock, &*app.random);
    Ok(Prepared { id, certificate, token: issue(app, id, Epoch::default()).await? })
}

pub(super) async fn issue(app: &App, id: CollectorId, epoch: Epoch) -> Result<IssuedToken, ApiError> {
    let grant = CollectorGrant { collector: id, epoch };
    app.collector_tokens.issue(&grant).await.map_err(ApiError::unavailable)
}

/// Accepts a secret of the database, and counts its use, or that of the configuration. Who shows another one does not
/// learn whether it is unknown, switched off or over.
async fn accept(app: &App, work: &mut Work, secret: &[u8]) -> Result<Option<RegistrationSecretId>, ApiError> {
    let digest = Sha256::digest(secret).into();
    let known = registration_secrets::verify_and_count(work.connection(), &digest, app.clock.now()).await?;
    if let Some(known) = known {
        return Ok(Some(known.id));
    }
    // Compared in constant time by its type.
    let given = std::str::from_utf8(secret).ok().map(SecretString::new);
    match (&app.registration_secret, given) {
        (Some(configured), Some(given)) if *configured == given => Ok(None),
        _ => Err(unknown_secret()),
    }
}

/// The row, and whether it is new.
async fn store(
    app: &App,
    work: &mut Work,
    registration: &Registration<'_>,
) -> Result<(Collector, bool), ApiError> {
    let before = match registration.node_identity {
        Some(node) => collectors::find_by_node(work.connection(), node).await?,
        None => None,
    };
    let registered = collectors::register(work.connection(), registration, app.clock.now()).await?;
    match registered {
        Registered::New(collector) => {
            work.created(resource(collector.id), &CollectorChange::from(&collector))?;
            Ok((collector, true))
        }
        Registered::Again(collector) => {
            let after = CollectorChange::from(&collector);
            let before = before.as_ref().map_or_else(|| after.clone(), CollectorChange::from);
            work.changed(resource(collector.id), &before, &after)?;
            Ok((collector, false))
        }
        Registered::Revoked(_) => {
            Err(ApiError::forbidden("the collector was revoked; it can register again once it is deleted"))
        }
    }
}

fn unknown_secret() -> ApiError {
    ApiError::unauthorized()
}

impl Register {
    /// Optional fields of a type that is not theirs count as left out.
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
            ApiError::new(axum::http::StatusCode::BAD_REQUEST, "Invalid JSON").with_details(error.to_string())
        })?;
        let text = |field: &'static str| match fields.get(field) {
            Some(Value::String(text)) if text.chars().count() > TEXT_MAX => {
                Err(ApiError::bad_request(format!("`{field}` has more than {TEXT_MAX} characters")))
            }
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text.clone())),
            _ => Ok(None),
        };
        let required = |field: &'static str| {
            text(field)?.ok_or_else(|| ApiError::bad_request(format!("`{field}` is missing or not a text")))
        };
        Ok(Self {
            name: required("name")?,
            hostname: required("hostname")?,
            version: text("version")?,
            address: text("address")?,
            node_id: text("node_id")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_of_another_type_are_as_if_left_out() {
        let body = br#"{"name":"n","hostname":"h","version":null,"address":5,"node_id":{},"more":[1]}"#;
        let expected =
            Register { name: "n".into(), hostname: "h".into(), version: None, address: None, node_id: None };
        assert_eq!(Register::parse(body).unwrap(), expected);
    }

    #[test]
    fn required_fields_are_named_when_they_are_missing_or_wrong() {
        for (body, field) in [
            (r#"{"hostname":"h"}"#, "`name`"),
            (r#"{"name":"n","hostname":7}"#, "`hostname`"),
            (r#"{"name":" ","hostname":"h"}"#, "`name`"),
        ] {
            let refused = Register::parse(body.as_bytes()).unwrap_err();
            assert_eq!(refused.status(), 400);
            assert!(refused.to_string().contains(field), "{refused}");
        }
        for body in ["", "[]", "null", "{", "\"\""] {
            assert_eq!(Register::parse(body.as_bytes()).unwrap_err().status(), 400, "{body}");
        }
    }
}
