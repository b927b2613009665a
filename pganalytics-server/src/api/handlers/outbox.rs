use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use pganalytics_core::audit::Resource;
use pganalytics_store::postgres::{DeadLetter, Outbox, OutboxPolicy};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::{Access, ApiError, ApiPath, ApiQuery, ErrorBody, Permission, Replay, Routes, WorkHandle};
use crate::app::App;

const ADMINISTER: Access = Access::Permission(Permission::Administer);

/// Letters a page.
const PAGE_SIZE: u32 = 100;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.read(ADMINISTER, routes!(dead_letters)).mutate(
        ADMINISTER,
        Replay::Stored,
        "outbox.revive",
        routes!(revive),
    )
}

/// A message that could not be delivered and was given up. What it says is not shown: it may be private.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct DeadLetterView {
    /// What receivers know the message by, over all attempts.
    id: Uuid,
    topic: String,
    created_at: DateTime<Utc>,
    /// How often it was tried.
    attempts: u32,
    /// What went wrong the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// When it was given up.
    dead_at: DateTime<Utc>,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.message.id,
            topic: letter.message.topic,
            created_at: letter.message.created_at,
            attempts: letter.attempts,
            last_error: letter.last_error,
            dead_at: letter.dead_at,
        }
    }
}

/// Messages that were given up.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetters {
    dead_letters: Vec<DeadLetterView>,
    /// For `after`, if there may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Uuid>,
}

/// Where to go on.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
struct After {
    /// The last id of the page before.
    after: Option<Uuid>,
}

/// Messages that were given up, oldest first, a hundred at a time.
#[utoipa::path(get, path = "/api/v1/outbox/dead-letters", tag = "outbox", params(After), responses(
    (status = 200, body = DeadLetters),
))]
async fn dead_letters(
    State(app): State<App>,
    ApiQuery(page): ApiQuery<After>,
) -> Result<Json<DeadLetters>, ApiError> {
    let outbox = Outbox::new(app.database.clone(), OutboxPolicy::default());
    let letters = outbox.dead_letters(page.after, PAGE_SIZE).await?;
    let is_full = letters.len() >= PAGE_SIZE as usize;
    let next = letters.last().filter(|_| is_full).map(|letter| letter.message.id);
    Ok(Json(DeadLetters { dead_letters: letters.into_iter().map(Into::into).collect(), next }))
}

/// Has a message that was given up tried again, with all its attempts.
#[utoipa::path(post, path = "/api/v1/outbox/dead-letters/{id}/retry", tag = "outbox", params(("id" = Uuid, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn revive(work: WorkHandle, ApiPath(id): ApiPath<Uuid>) -> Result<StatusCode, ApiError> {
    let mut work = work.begin().await?;
    if !Outbox::revive_within(work.connection(), id).await? {
        return Err(ApiError::not_found("there is no such dead letter"));
    }
    work.changed(
        Resource::new("outbox_message", id),
        &Standing { is_dead: true },
        &Standing { is_dead: false },
    )?;
    Ok(StatusCode::NO_CONTENT)
}

/// What changes of a message that is revived.
#[derive(Serialize)]
struct Standing {
    is_dead: bool,
}
