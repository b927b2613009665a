use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cluster::{Cluster, PASSWORD, client};

/// A user who asks the first server.
#[derive(Debug)]
pub(crate) struct Caller {
    url: String,
    http: reqwest::Client,
    access_token: String,
}

/// A token that was made, with the idempotency key of the request that made it.
#[derive(Debug)]
pub(crate) struct ApiToken {
    pub(crate) key: &'static str,
    pub(crate) reply: Value,
}

impl ApiToken {
    pub(crate) fn text(&self) -> &str {
        self.reply["token"].as_str().unwrap()
    }
}

impl Caller {
    /// Makes the administrator and signs in.
    pub(crate) async fn set_up(cluster: &Cluster) -> Self {
        let setup = client().post(format!("{}/api/v1/auth/setup", cluster.urls()[0]));
        let setup = setup.json(&json!({ "username": "admin", "password": PASSWORD })).send().await.unwrap();
        assert!(setup.status().is_success(), "{}", setup.text().await.unwrap());
        Self::sign_in(cluster).await
    }

    pub(crate) async fn sign_in(cluster: &Cluster) -> Self {
        Self::sign_in_with(cluster, PASSWORD).await
    }

    pub(crate) async fn sign_in_with(cluster: &Cluster, password: &str) -> Self {
        let (url, http) = (cluster.urls().remove(0), client());
        let login = json!({ "username": "admin", "password": password });
        let answer = http.post(format!("{url}/api/v1/auth/login")).json(&login).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}"));
        Self { access_token: token.to_owned(), http, url }
    }

    pub(crate) fn access_token(&self) -> &str {
        &self.access_token
    }

    /// Asks for a token that anybody may read with.
    pub(crate) async fn ask_for_token(&self, key: &'static str) -> Response {
        let body = json!({ "name": key, "scopes": ["read"] });
        let request = self.http.post(format!("{}/api/v1/tokens", self.url)).header("Idempotency-Key", key);
        request.bearer_auth(&self.access_token).json(&body).send().await.unwrap()
    }

    pub(crate) async fn make_token(&self, key: &'static str) -> ApiToken {
        let response = self.ask_for_token(key).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        assert!(response.headers().get("idempotency-replayed").is_none());
        ApiToken { key, reply: response.json().await.unwrap() }
    }

    /// Repeats the request that made a token, and demands the same reply, which was kept sealed.
    pub(crate) async fn replays(&self, token: &ApiToken) {
        let response = self.ask_for_token(token.key).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()["idempotency-replayed"], "true");
        assert_eq!(response.json::<Value>().await.unwrap(), token.reply);
    }

    /// What a request gets that proves itself by the API token, whose digest needs a key.
    pub(crate) async fn with_token(&self, token: &ApiToken) -> Response {
        self.get("/api/v1/auth/me").bearer_auth(token.text()).send().await.unwrap()
    }

    pub(crate) async fn accepts(&self, token: &ApiToken) {
        let response = self.with_token(token).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
    }

    /// Registers a collector and configures it: the path of its configuration, which takes a key to read.
    pub(crate) async fn configure_a_collector(&self, cluster: &Cluster) -> String {
        cluster.register("db-1").await;
        let id: Uuid = sqlx::query_scalar("SELECT id FROM collectors")
            .fetch_one(&mut cluster.connect().await)
            .await
            .unwrap();
        let path = format!("/api/v1/config/{id}");
        let put = self.http.put(format!("{}{path}", self.url)).header("Content-Type", "text/plain");
        let put =
            put.bearer_auth(&self.access_token).body("[collector]\nhostname = db-1\n").send().await.unwrap();
        assert_eq!(put.status(), StatusCode::OK, "{}", put.text().await.unwrap());
        path
    }

    /// What somebody gets who has signed in.
    pub(crate) async fn read(&self, path: &str) -> Response {
        self.get(path).bearer_auth(&self.access_token).send().await.unwrap()
    }

    /// What a request gets that needs no key.
    pub(crate) async fn without_key(&self) -> StatusCode {
        self.get("/api/v1/auth/me").bearer_auth(&self.access_token).send().await.unwrap().status()
    }

    pub(crate) async fn metrics(&self) -> String {
        let response = self.get("/metrics").bearer_auth(&self.access_token).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.text().await.unwrap()
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.access_token)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }
}

/// The body of a 503 that says when to try again.
pub(crate) async fn is_to_be_tried_again(response: Response) -> String {
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(RETRY_AFTER), "{response:?}");
    response.text().await.unwrap()
}
