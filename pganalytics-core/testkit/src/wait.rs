use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);

/// A port of 127.0.0.1 that was free a moment ago; another process may take it, so retry a start that finds it taken.
///
/// # Panics
/// When the system has no free port.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Polls `condition` every ten milliseconds until it holds; `false` when it still does not after `limit`.
///
/// The limit is real time, also under a paused tokio clock.
pub async fn wait_until<F>(limit: Duration, mut condition: impl FnMut() -> F) -> bool
where
    F: Future<Output = bool>,
{
    let deadline = Instant::now() + limit;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}
