//! What one server revokes is over on every server.

use std::time::{Duration, Instant};

use pganalytics_testkit::wait_until;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::cluster::{Cluster, LIMIT, PASSWORD, client};

/// How long a revocation may take to be in force.
const BOUND: Duration = Duration::from_secs(1);

/// A user who has signed in at one server.
struct SignedIn {
    http: reqwest::Client,
    access_token: String,
    refresh_token: String,
}

impl SignedIn {
    async fn at(url: &str) -> Self {
        let http = client();
        let login = json!({ "username": "admin", "password": PASSWORD });
        let answer = http.post(format!("{url}/api/v1/auth/login")).json(&login).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let text = |field: &str| answer[field].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Self { access_token: text("access_token"), refresh_token: text("refresh_token"), http }
    }

    async fn status_at(&self, url: &str) -> StatusCode {
        let request = self.http.get(format!("{url}/api/v1/auth/me")).bearer_auth(&self.access_token);
        request.send().await.unwrap().status()
    }

    /// Has the server remember the token, and makes sure that it believes what it remembers.
    async fn warm(&self, url: &str) {
        for _ in 0..5 {
            assert_eq!(self.status_at(url).await, 200);
        }
    }

    fn log_out(
        &self,
        url: &str,
    ) -> impl Future<Output = reqwest::Result<reqwest::Response>> + Send + 'static {
        self.http.post(format!("{url}/api/v1/auth/logout")).bearer_auth(&self.access_token).send()
    }

    /// Asks until the token is refused, and demands that none was accepted that was sent after the bound.
    async fn is_refused_in_time(&self, url: &str, revoked: Instant) -> Duration {
        loop {
            let sent = revoked.elapsed();
            match self.status_at(url).await {
                StatusCode::UNAUTHORIZED => return revoked.elapsed(),
                status => assert_eq!(status, 200),
            }
            assert!(sent < BOUND, "accepted {sent:?} after it was revoked");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_ends_live_tokens_everywhere() {
    let Some(mut cluster) = Cluster::start(2).await else { return };
    cluster.administrator().await;
    let [one, other] = &cluster.urls()[..] else { panic!("two servers") };
    let mut delays = Vec::new();
    for _ in 0..10 {
        let user = SignedIn::at(one).await;
        user.warm(one).await;
        user.warm(other).await;
        assert_eq!(user.log_out(one).await.unwrap().status(), 200);
        let revoked = Instant::now();
        delays.push(user.is_refused_in_time(other, revoked).await);
        assert_eq!(user.status_at(one).await, 401);
        let refresh = json!({ "refresh_token": user.refresh_token });
        let refresh = user.http.post(format!("{other}/api/v1/auth/refresh")).json(&refresh);
        assert_eq!(refresh.send().await.unwrap().status(), 401);
    }
    delays.sort_unstable();
    println!("in force on the other server after {delays:?}");

    for round in 0..3 {
        // The server dies when its commit can be seen, before it has told anybody or even its client.
        let user = SignedIn::at(one).await;
        user.warm(other).await;
        let sessions = async || cluster.number("SELECT count(*) FROM sessions").await;
        let before = sessions().await;
        let log_out = tokio::spawn(user.log_out(one));
        assert!(wait_until(LIMIT, async || sessions().await < before).await);
        cluster.kill_9(0).await;
        let revoked = Instant::now();
        user.is_refused_in_time(other, revoked).await;
        let _ = log_out.await.unwrap();
        if round < 2 {
            cluster.restart_server(0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_was_stopped_does_not_believe_what_it_remembers() {
    let Some(cluster) = Cluster::start(2).await else { return };
    cluster.administrator().await;
    let [one, other] = &cluster.urls()[..] else { panic!("two servers") };
    let user = SignedIn::at(one).await;
    user.warm(other).await;
    cluster.pause(1);
    assert_eq!(user.log_out(one).await.unwrap().status(), 200);
    let revoked = Instant::now();
    assert!(wait_until(LIMIT, async || revoked.elapsed() > BOUND).await);
    // It waits in the socket for the server to go on.
    let asking = tokio::spawn({
        let (url, token) = (other.clone(), user.access_token.clone());
        async move { client().get(format!("{url}/api/v1/auth/me")).bearer_auth(token).send().await }
    });
    cluster.resume(1);
    assert_eq!(asking.await.unwrap().unwrap().status(), 401);
    assert_eq!(user.status_at(other).await, 401);
}
