use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiError;

/// A JSON body; what is wrong with it is answered in the API's own form, naming the field.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        Json::from_request(request, state).await.map(|Json(value)| Self(value)).map_err(refuse_json)
    }
}

impl<T: Serialize> IntoResponse for ApiJson<T> {
    fn into_response(self) -> Response {
        Json(self.0).into_response()
    }
}

fn refuse_json(rejection: JsonRejection) -> ApiError {
    match rejection {
        JsonRejection::JsonDataError(error) => ApiError::bad_request(innermost(&error)),
        JsonRejection::JsonSyntaxError(error) => {
            ApiError::new(StatusCode::BAD_REQUEST, "Invalid JSON").with_details(innermost(&error))
        }
        JsonRejection::MissingJsonContentType(_) => {
            ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")
        }
        JsonRejection::BytesRejection(error) => refuse_body(&error),
        other => ApiError::new(StatusCode::BAD_REQUEST, "Invalid request").with_details(other.body_text()),
    }
}

/// A body that could not be read: too large, or cut off.
pub(crate) fn refuse_body(rejection: &BytesRejection) -> ApiError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large")
        }
        _ => ApiError::new(StatusCode::BAD_REQUEST, "Request body could not be read"),
    }
}

/// axum wraps serde's message, which names the field and the place, in one that does not.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    match error.source() {
        // serde_path_to_error prints the path and then its source.
        Some(with_path) => with_path.to_string(),
        None => current.to_string(),
    }
}

/// Parameters of the path.
#[derive(Debug)]
pub struct ApiPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(value) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::bad_request(format!("path: {}", rejection.body_text())))?;
        Ok(Self(value))
    }
}

/// Parameters of the query.
#[derive(Debug)]
pub struct ApiQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::bad_request(format!("query: {}", rejection.body_text())))?;
        Ok(Self(value))
    }
}

const PAGE_SIZE_MAX: u32 = 1000;

/// Which page of a list. The older web interface pages by number.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct PageQuery {
    /// The page, from 1.
    #[param(minimum = 1, default = 1)]
    pub page: u32,
    /// Rows a page, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 20)]
    pub page_size: u32,
}

impl Default for PageQuery {
    fn default() -> Self {
        Self { page: 1, page_size: 20 }
    }
}

impl PageQuery {
    /// The page and its size, if both are in range.
    ///
    /// # Errors
    /// 400 naming the parameter.
    pub fn checked(self) -> Result<(u32, u32), ApiError> {
        if self.page == 0 {
            return Err(ApiError::bad_request("query: `page` begins at 1"));
        }
        if !(1..=PAGE_SIZE_MAX).contains(&self.page_size) {
            return Err(ApiError::bad_request("query: `page_size` is from 1 to 1000"));
        }
        Ok((self.page, self.page_size))
    }
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Paged<T> {
    /// The rows.
    pub data: Vec<T>,
    /// Rows in all pages.
    pub total: u64,
    /// The page, from 1.
    pub page: u32,
    /// Rows a page.
    pub page_size: u32,
    /// How many pages there are.
    pub total_pages: u64,
}

impl<T> Paged<T> {
    /// A page of `total` rows.
    pub fn new(data: Vec<T>, total: u64, page: u32, page_size: u32) -> Self {
        Self { data, total, page, page_size, total_pages: total.div_ceil(u64::from(page_size.max(1))) }
    }
}
