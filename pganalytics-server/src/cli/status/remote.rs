use std::time::Duration;

use chrono::{DateTime, Utc};
use pganalytics_core::secret::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::report::{CollectorReport, Newest, Report, has_headlines, headlines};
use crate::cli::Failure;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A server that is asked over HTTP.
#[derive(Debug)]
pub(super) struct RemoteServer {
    http: reqwest::Client,
    base: Url,
    token: SecretString,
}

#[derive(Debug, Deserialize)]
struct Collectors {
    data: Vec<Collector>,
}

#[derive(Debug, Deserialize)]
struct Collector {
    id: Uuid,
    name: String,
    hostname: String,
    version: Option<String>,
    status: String,
    last_seen: Option<DateTime<Utc>>,
    metrics_count_total: i64,
    metrics_skipped_total: i64,
    revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
struct SeenType {
    metric_type: String,
    newest: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
struct Latest {
    timestamp: DateTime<Utc>,
    entry: Value,
}

impl RemoteServer {
    pub(super) fn new(base: Url, token: SecretString) -> Result<Self, Failure> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(Failure::internal)?;
        Ok(Self { http, base, token })
    }

    pub(super) async fn report(&self, now: DateTime<Utc>) -> Result<Report, Failure> {
        let mut collectors = Vec::new();
        let list: Collectors = self.fetch("collectors?page_size=200").await?;
        for collector in list.data {
            collectors.push(self.collector_report(collector).await?);
        }
        Ok(Report { at: now, servers: None, collectors, received: None })
    }

    async fn collector_report(&self, collector: Collector) -> Result<CollectorReport, Failure> {
        let metrics = format!("collectors/{}/metrics", collector.id);
        let types: Vec<SeenType> = self.fetch(&metrics).await?;
        let mut values = Vec::new();
        for seen in types.iter().filter(|seen| has_headlines(&seen.metric_type)) {
            let latest: Latest = self.fetch(&format!("{metrics}/{}/latest", seen.metric_type)).await?;
            values.extend(headlines(&seen.metric_type, &latest.entry, latest.timestamp));
        }
        let state = if collector.revoked_at.is_some() { "revoked".to_owned() } else { collector.status };
        let newest = |seen: SeenType| Newest { metric_type: seen.metric_type, measured_at: seen.newest };
        Ok(CollectorReport {
            id: collector.id,
            name: collector.name,
            hostname: collector.hostname,
            version: collector.version,
            state,
            last_seen_at: collector.last_seen,
            entries: collector.metrics_count_total,
            pushes: None,
            skipped: collector.metrics_skipped_total,
            types: types.into_iter().map(newest).collect(),
            values,
        })
    }

    async fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let url = format!("{}/api/v1/{path}", self.base.as_str().trim_end_matches('/'));
        let request = self.http.get(&url).bearer_auth(self.token.expose());
        let response = request.send().await.map_err(Failure::unavailable)?;
        let status = response.status();
        if !status.is_success() {
            let advice =
                if status == reqwest::StatusCode::UNAUTHORIZED { ": the token is not accepted" } else { "" };
            return Err(Failure::refused(format!("{url} answers {status}{advice}")));
        }
        response.json().await.map_err(Failure::refused)
    }
}
