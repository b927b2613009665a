use axum::body::Body;
use axum::http::{Version, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use pganalytics_store::postgres::audit_log::AuditScan;

use super::query::Conditions;
use crate::api::{ApiError, error_chain};
use crate::app::App;
use crate::audit_text::{EventView, LineFormat};

/// Events that are in memory at a time.
const BATCH: u32 = 200;

/// The whole of what meets the conditions, read a batch at a time as the client takes it. No connection is held in between. An
/// answer that could not be finished is cut off, which clients notice.
pub(super) async fn respond(
    app: App,
    version: Version,
    conditions: Conditions,
    format: LineFormat,
) -> Result<Response, ApiError> {
    // There, the end of the connection is the end of the body.
    if version < Version::HTTP_11 {
        return Err(ApiError::bad_request(
            "an export needs HTTP/1.1, for before that one which breaks off looks finished",
        ));
    }
    let mut export = Export { app, conditions, format, scan: AuditScan::default() };
    // What is wrong with the conditions is found out before the answer begins.
    let begun = Bytes::from([format.head(), export.batch().await?].concat());
    let rest = stream::try_unfold(export, async |mut export| {
        if export.scan.is_over() {
            return Ok::<_, ApiError>(None);
        }
        let lines = export.batch().await.inspect_err(|error| {
            tracing::error!(error = %error_chain(error), "an export of the audit log is cut off");
        })?;
        Ok(Some((Bytes::from(lines), export)))
    });
    let body = Body::from_stream(stream::once(async { Ok(begun) }).chain(rest));
    let disposition = format!("attachment; filename=\"audit.{}\"", format.extension());
    let headers =
        [(header::CONTENT_TYPE, format.content_type()), (header::CONTENT_DISPOSITION, disposition.as_str())];
    Ok((headers, body).into_response())
}

#[derive(Debug)]
struct Export {
    app: App,
    conditions: Conditions,
    format: LineFormat,
    scan: AuditScan,
}

impl Export {
    /// The lines of the next events.
    async fn batch(&mut self) -> Result<Vec<u8>, ApiError> {
        let filter = self.conditions.filter()?;
        let mut connection = self.app.database.read().await?;
        let events = self.scan.read(&mut connection, &filter, BATCH).await?;
        drop(connection);
        self.format.lines(events.into_iter().map(EventView::from)).map_err(ApiError::internal)
    }
}
