//! The HTTP listener: limits on connections, and a shutdown that loses no request.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tower::util::MapRequest;
use tower::{Service, ServiceExt};

use crate::api::without_double_slash;
use crate::config::{HttpConfig, LimitsConfig};
use crate::lifecycle::{Lifecycle, Phase};

/// How long to wait after `accept` failed for want of something (file descriptors, memory) that may come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the lifecycle reaches `Stopping`, then finishes the requests in progress, for at most the shutdown timeout.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    lifecycle: &Lifecycle,
    http: &HttpConfig,
    limits: &LimitsConfig,
) {
    let connections = Arc::new(Semaphore::new(limits.max_connections.as_usize()));
    let graceful = GracefulShutdown::new();
    let builder = builder(http);
    let mut stopping = pin!(lifecycle.reached(Phase::Stopping));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            () = &mut stopping => break,
        };
        let (stream, peer, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(http.write_timeout_seconds.as_duration()));
        let service = connection_service(router.clone(), peer);
        let stream = TokioIo::new(Box::pin(stream));
        let connection = builder.serve_connection_with_upgrades(stream, service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    let limit = http.shutdown_timeout_seconds.as_duration();
    if tokio::time::timeout(limit, graceful.shutdown()).await.is_err() {
        tracing::warn!(?limit, "requests were still in progress at the end of the shutdown timeout");
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}

fn builder(http: &HttpConfig) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(http.header_timeout_seconds.as_duration())
        .max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .keep_alive_interval(Duration::from_secs(30));
    builder
}

fn connection_service(
    router: Router,
    peer: SocketAddr,
) -> TowerToHyperService<
    impl Service<
        Request<Incoming>,
        Response = axum::response::Response,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static,
> {
    let prepare = move |request: Request<Incoming>| {
        let mut request = without_double_slash(request).map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    };
    TowerToHyperService::new(MapRequest::new(router.into_service().map_err(|never| match never {}), prepare))
}

/// Waits for SIGTERM or SIGINT, lets load balancers notice while still serving, then stops.
///
/// # Errors
/// When the signals cannot be listened for.
pub async fn drain_on_signal(lifecycle: Lifecycle, drain_delay: Duration) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {
            tracing::info!(?drain_delay, "SIGTERM: draining");
            lifecycle.advance(Phase::Draining);
            tokio::select! {
                () = tokio::time::sleep(drain_delay) => {}
                _ = interrupt.recv() => {}
            }
        }
        // Somebody at a terminal does not want to wait.
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    lifecycle.advance(Phase::Stopping);
    Ok(())
}
