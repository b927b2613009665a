use std::time::Duration;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::ids::CollectorId;
use pganalytics_store::postgres::DatabaseConnection;
use pganalytics_store::postgres::collectors;
use pganalytics_store::postgres::metrics::{
    self, CollectorObjects, DatabaseStats, FieldQuery, MetricSource, ObjectFamily, ObjectSelection,
    QueryOrder, ShapedRow, SystemStats, TableStats, TimeRange,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::{Access, ApiError, ApiPath, ApiQuery, ErrorBody, Permission, Routes};
use crate::app::App;

const READ: Access = Access::Permission(Permission::Read);
const BUCKET_SECONDS_MAX: u64 = 30 * 24 * 3600;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .read(READ, routes!(types))
        .read(READ, routes!(latest))
        .read(READ, routes!(range))
        .read(READ, routes!(objects))
        .read(READ, routes!(queries))
        .read(READ, routes!(dashboard))
}

/// A type of metrics that a collector has sent.
#[derive(Debug, Serialize, ToSchema)]
struct MetricType {
    metric_type: String,
    /// When the newest entry was measured.
    newest: DateTime<Utc>,
}

/// The types of metrics that a collector has sent.
#[utoipa::path(get, path = "/api/v1/collectors/{id}/metrics", tag = "metrics", params(("id" = Uuid, Path)),
    responses((status = 200, body = Vec<MetricType>), (status = 404, body = ErrorBody)))]
async fn types(
    State(app): State<App>,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Json<Vec<MetricType>>, ApiError> {
    let (collector, mut connection) = existing(&app, id).await?;
    let seen = metrics::types_seen(&mut connection, collector).await?;
    let types =
        seen.into_iter().map(|seen| MetricType { metric_type: seen.metric_type, newest: seen.newest });
    Ok(Json(types.collect()))
}

/// Which database.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DatabaseQuery {
    /// Only this database; otherwise whichever is newest.
    database: Option<String>,
}

/// The newest entry of a type, as it was sent.
#[derive(Debug, Serialize, ToSchema)]
struct Entry {
    /// When it was measured.
    timestamp: DateTime<Utc>,
    /// When it was received.
    received_at: DateTime<Utc>,
    /// Whether rows are missing at the end, since the entry is larger than 16 MiB.
    truncated: bool,
    #[schema(value_type = Object)]
    entry: Box<RawValue>,
}

/// The newest entry of a type.
#[utoipa::path(get, path = "/api/v1/collectors/{id}/metrics/{metric_type}/latest", tag = "metrics",
    params(("id" = Uuid, Path), ("metric_type" = String, Path), DatabaseQuery),
    responses((status = 200, body = Entry), (status = 404, body = ErrorBody)))]
async fn latest(
    State(app): State<App>,
    ApiPath((id, metric_type)): ApiPath<(Uuid, String)>,
    ApiQuery(query): ApiQuery<DatabaseQuery>,
) -> Result<Json<Entry>, ApiError> {
    let (collector, mut connection) = existing(&app, id).await?;
    let source = MetricSource::new(collector, &metric_type).with_database(query.database.as_deref());
    let found = metrics::latest(&mut connection, &source, app.clock.now()).await?;
    let stored = found.ok_or_else(|| ApiError::not_found("the collector has sent no such metrics"))?;
    Ok(Json(Entry {
        timestamp: stored.ts,
        received_at: stored.received_at,
        truncated: stored.truncated,
        entry: stored.entry,
    }))
}

/// Which field, and when.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RangeQuery {
    /// The field; its path with dots where objects are nested: `memory.used_mb`.
    field: String,
    /// The list whose elements have the field, like `tables`; left out for plain values.
    #[serde(default)]
    section: String,
    /// Only this database.
    database: Option<String>,
    /// From when on; an hour before `to` when left out.
    from: Option<DateTime<Utc>>,
    /// Until when, exclusive; now when left out.
    to: Option<DateTime<Utc>>,
    /// Seconds of the stretches of time that values are summed up in; left out, each value is shown.
    bucket_seconds: Option<u64>,
    /// Members that tell the elements of the list apart, with commas between them: `schema,name`. Only with
    /// `bucket_seconds`.
    labels: Option<String>,
    /// How many points at most, 1 to 10000.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u32>,
}

/// A field over time.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Values {
    /// Each value.
    Points { points: Vec<Point> },
    /// Summed up, a series for each database and combination of labels.
    Series { series: Vec<Series> },
}

#[derive(Debug, Serialize, ToSchema)]
struct Point {
    timestamp: DateTime<Utc>,
    #[schema(value_type = f64)]
    value: serde_json::Number,
}

#[derive(Debug, Serialize, ToSchema)]
struct Series {
    /// Empty for what belongs to no database.
    database: String,
    /// The values of the labels, in the order in which they were asked for.
    labels: Vec<Option<String>>,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Bucket {
    start: DateTime<Utc>,
    count: i64,
    avg: f64,
    #[schema(value_type = f64)]
    min: serde_json::Number,
    #[schema(value_type = f64)]
    max: serde_json::Number,
    #[schema(value_type = f64)]
    last: serde_json::Number,
}

impl From<metrics::Series> for Series {
    fn from(series: metrics::Series) -> Self {
        let bucket = |bucket: metrics::Bucket| Bucket {
            start: bucket.start,
            count: bucket.count,
            avg: bucket.avg,
            min: bucket.min,
            max: bucket.max,
            last: bucket.last,
        };
        let buckets = series.buckets.into_iter().map(bucket).collect();
        Self { database: series.database, labels: series.labels, buckets }
    }
}

/// A numeric field over time.
#[utoipa::path(get, path = "/api/v1/collectors/{id}/metrics/{metric_type}/range", tag = "metrics",
    params(("id" = Uuid, Path), ("metric_type" = String, Path), RangeQuery),
    responses((status = 200, body = Values), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn range(
    State(app): State<App>,
    ApiPath((id, metric_type)): ApiPath<(Uuid, String)>,
    ApiQuery(query): ApiQuery<RangeQuery>,
) -> Result<Json<Values>, ApiError> {
    let to = query.to.unwrap_or_else(|| app.clock.now());
    let from = query.from.unwrap_or(to - TimeDelta::hours(1));
    if from >= to {
        return Err(ApiError::bad_request("query: `from` is not before `to`"));
    }
    let (collector, mut connection) = existing(&app, id).await?;
    let source = MetricSource::new(collector, &metric_type).with_database(query.database.as_deref());
    let field: Vec<&str> = query.field.split('.').collect();
    let mut asked = FieldQuery::new(source, &query.section, &field, from..to);
    if let Some(limit) = query.limit {
        asked = asked.with_limit(limit);
    }
    let Some(seconds) = query.bucket_seconds else {
        let points = metrics::range(&mut connection, &asked).await?;
        let points = points.into_iter().map(|point| Point { timestamp: point.ts, value: point.value });
        return Ok(Json(Values::Points { points: points.collect() }));
    };
    if !(1..=BUCKET_SECONDS_MAX).contains(&seconds) {
        return Err(ApiError::bad_request("query: `bucket_seconds` is from 1 to 2592000"));
    }
    let labels: Vec<&str> = query.labels.iter().flat_map(|labels| labels.split(',')).collect();
    let series = metrics::series(&mut connection, &asked, &labels, Duration::from_secs(seconds)).await?;
    Ok(Json(Values::Series { series: series.into_iter().map(Series::from).collect() }))
}

/// Which rows of a family.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ObjectsQuery {
    /// Only this database.
    database: Option<String>,
    /// Rows of each list, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Rows of each list to pass over.
    offset: Option<u32>,
}

/// The newest rows of a family: `schema`, `locks`, `bloat`, `cache-hits`, `connections` or `extensions`.
#[utoipa::path(get, path = "/api/v1/collectors/{id}/{family}", tag = "metrics",
    params(("id" = Uuid, Path), ("family" = String, Path), ObjectsQuery),
    responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn objects(
    State(app): State<App>,
    ApiPath((id, family)): ApiPath<(Uuid, String)>,
    ApiQuery(query): ApiQuery<ObjectsQuery>,
) -> Result<Json<CollectorObjects>, ApiError> {
    let family = match family.as_str() {
        "schema" => ObjectFamily::Schema,
        "locks" => ObjectFamily::Locks,
        "bloat" => ObjectFamily::Bloat,
        "cache-hits" => ObjectFamily::CacheHits,
        "connections" => ObjectFamily::Connections,
        "extensions" => ObjectFamily::Extensions,
        _ => return Err(ApiError::not_found("there is no such route")),
    };
    let limit = checked_limit(query.limit, 100, 1000)?;
    let (collector, mut connection) = existing(&app, id).await?;
    let mut selection = ObjectSelection::new(app.clock.now()).with_database(query.database.as_deref());
    selection.limit = limit;
    selection.offset = query.offset.unwrap_or(0);
    Ok(Json(metrics::collector_objects(&mut connection, collector, family, &selection).await?))
}

/// How many statements, and how far back.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct QueriesQuery {
    /// 1 to 100.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
    /// 1 to 720.
    #[param(minimum = 1, maximum = 720, default = 24)]
    hours: Option<u32>,
}

/// The statements that rank highest.
#[derive(Debug, Serialize, ToSchema)]
struct TopQueries {
    server_id: Uuid,
    /// `slow` or `frequent`.
    #[serde(rename = "type")]
    order: String,
    hours: u32,
    count: usize,
    #[schema(value_type = Vec<Object>)]
    queries: Vec<ShapedRow>,
}

/// The slowest (`slow`) or most often run (`frequent`) statements.
#[utoipa::path(get, path = "/api/v1/collectors/{id}/queries/{order}", tag = "metrics",
    params(("id" = Uuid, Path), ("order" = String, Path), QueriesQuery),
    responses((status = 200, body = TopQueries), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn queries(
    State(app): State<App>,
    ApiPath((id, order_name)): ApiPath<(Uuid, String)>,
    ApiQuery(query): ApiQuery<QueriesQuery>,
) -> Result<Json<TopQueries>, ApiError> {
    let order = match order_name.as_str() {
        "slow" => QueryOrder::Slow,
        "frequent" => QueryOrder::Frequent,
        _ => return Err(ApiError::not_found("there is no such route")),
    };
    let limit = checked_limit(query.limit, 20, 100)?;
    let hours = query.hours.unwrap_or(24);
    if !(1..=720).contains(&hours) {
        return Err(ApiError::bad_request("query: `hours` is from 1 to 720"));
    }
    let (collector, mut connection) = existing(&app, id).await?;
    let now = app.clock.now();
    let times = now - TimeDelta::hours(hours.into())..now;
    let queries = metrics::top_queries(&mut connection, collector, order, limit, times).await?;
    Ok(Json(TopQueries { server_id: id, order: order_name, hours, count: queries.len(), queries }))
}

/// Whose chart, and how far back.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DashboardQuery {
    collector_id: Uuid,
    /// `1h`, `24h`, `7d` or `30d`.
    #[param(default = "24h")]
    time_range: Option<String>,
    /// Rows at most, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// The rows of a chart.
#[derive(Debug, Serialize, ToSchema)]
struct Dashboard {
    #[schema(value_type = Vec<Object>)]
    stats: Stats,
    time_range: &'static str,
    count: usize,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Stats {
    Database(Vec<DatabaseStats>),
    Table(Vec<TableStats>),
    System(Vec<SystemStats>),
}

/// The rows of a chart: `database-stats`, `table-stats` or `system-stats`.
#[utoipa::path(get, path = "/api/v1/dashboard/{chart}", tag = "metrics", params(("chart" = String, Path), DashboardQuery),
    responses((status = 200, body = Dashboard), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn dashboard(
    State(app): State<App>,
    ApiPath(chart): ApiPath<String>,
    ApiQuery(query): ApiQuery<DashboardQuery>,
) -> Result<Json<Dashboard>, ApiError> {
    let limit = checked_limit(query.limit, 1000, 1000)?;
    let time = TimeRange::from_name(query.time_range.as_deref().unwrap_or_default());
    let (collector, mut connection) = existing(&app, query.collector_id).await?;
    let now = app.clock.now();
    let (stats, count) = match chart.as_str() {
        "database-stats" => {
            let rows = metrics::database_stats(&mut connection, collector, time, now).await?;
            let count = rows.len();
            (Stats::Database(rows), count)
        }
        "table-stats" => {
            let rows = metrics::table_stats(&mut connection, collector, time, limit, now).await?;
            let count = rows.len();
            (Stats::Table(rows), count)
        }
        "system-stats" => {
            let rows = metrics::system_stats(&mut connection, collector, time, now).await?;
            let count = rows.len();
            (Stats::System(rows), count)
        }
        _ => return Err(ApiError::not_found("there is no such route")),
    };
    Ok(Json(Dashboard { stats, time_range: time.name(), count }))
}

fn checked_limit(given: Option<u32>, default: u32, max: u32) -> Result<u32, ApiError> {
    let limit = given.unwrap_or(default);
    if !(1..=max).contains(&limit) {
        return Err(ApiError::bad_request(format!("query: `limit` is from 1 to {max}")));
    }
    Ok(limit)
}

/// The collector, and the connection on which it was looked up.
async fn existing(app: &App, id: Uuid) -> Result<(CollectorId, DatabaseConnection), ApiError> {
    let collector = CollectorId(id);
    let mut connection = app.database.read().await?;
    match collectors::find(&mut connection, collector).await? {
        Some(_) => Ok((collector, connection)),
        None => Err(ApiError::not_found("there is no such collector")),
    }
}
