use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::pin::pin;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use pganalytics_auth::principal::Principal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::RequestMeta;
use crate::api::ApiError;
use crate::app::App;
use crate::config::LimitsConfig;

/// How fast addresses and principals may ask: token buckets of a minute (GCRA).
#[derive(Debug)]
pub struct RateLimits {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    principals: DefaultKeyedRateLimiter<String>,
    sign_ins: DefaultKeyedRateLimiter<IpAddr>,
}

impl RateLimits {
    /// Full buckets.
    pub fn new(config: &LimitsConfig) -> Self {
        Self {
            addresses: keyed(config.requests_per_minute_per_address.as_u32()),
            principals: keyed(config.requests_per_minute_per_principal.as_u32()),
            sign_ins: keyed(config.sign_ins_per_minute_per_address.as_u32()),
        }
    }

    /// Counts an attempt to sign in.
    ///
    /// # Errors
    /// 429 when there were too many from this address.
    pub fn sign_in(&self, address: IpAddr) -> Result<(), ApiError> {
        count(&self.sign_ins, &network(address))
    }

    /// Forgets full buckets, so that memory is bounded by who asked within the last minute.
    pub fn sweep(&self) {
        self.addresses.retain_recent();
        self.principals.retain_recent();
        self.sign_ins.retain_recent();
    }
}

/// Counts the request against its address.
pub(in crate::api) async fn by_address(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(meta) = request.extensions().get::<RequestMeta>() {
        count(&app.rate_limits.addresses, &network(meta.address))?;
    }
    Ok(next.run(request).await)
}

/// Counts the request against its principal.
pub(in crate::api) async fn by_principal(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(principal) = request.extensions().get::<Principal>() {
        count(&app.rate_limits.principals, &principal.scope())?;
    }
    Ok(next.run(request).await)
}

/// How long a request may take, in its extensions. A handler whose body may come slowly moves it.
#[derive(Clone, Debug)]
pub struct TimeLimit {
    usual: Duration,
    end: watch::Sender<Instant>,
}

impl TimeLimit {
    /// Gives the request the usual time from now on, and this much more.
    pub fn restart_with(&self, more: Duration) {
        self.end.send_replace(Instant::now() + self.usual + more);
    }

    /// Gives the request the usual time from now on.
    pub fn restart(&self) {
        self.restart_with(Duration::ZERO);
    }
}

/// Ends requests that take too long.
pub(in crate::api) async fn by_time(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let usual = app.config.http.request_timeout_seconds.as_duration();
    let (end, mut moved) = watch::channel(Instant::now() + usual);
    request.extensions_mut().insert(TimeLimit { usual, end });
    let mut response = pin!(next.run(request));
    loop {
        let end = *moved.borrow_and_update();
        tokio::select! {
            biased;
            response = &mut response => return Ok(response),
            Ok(()) = moved.changed() => {}
            () = tokio::time::sleep_until(end) => return Err(ApiError::unavailable("the request took too long")),
        }
    }
}

fn keyed<K: std::hash::Hash + Eq + Clone>(per_minute: u32) -> DefaultKeyedRateLimiter<K> {
    RateLimiter::keyed(Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN)))
}

fn count<K: std::hash::Hash + Eq + Clone>(
    limiter: &DefaultKeyedRateLimiter<K>,
    key: &K,
) -> Result<(), ApiError> {
    limiter.check_key(key).map_err(|until| {
        let wait = until.wait_time_from(DefaultClock::default().now()) + Duration::from_millis(999);
        ApiError::too_many_requests(u32::try_from(wait.as_secs()).unwrap_or(60))
    })
}

/// One IPv6 customer has a /64: its addresses count as one.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}
