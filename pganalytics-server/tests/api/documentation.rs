//! The document of the API.

use reqwest::Method;
use serde_json::Value;

use crate::common::TestServer;

#[tokio::test]
async fn the_served_document_is_the_same_in_every_process() {
    let Some(server) = TestServer::start().await else { return };
    let response = server.raw_request(Method::GET, "/api/v1/openapi.json").send().await.unwrap();
    let served = response.text().await.unwrap();
    for _ in 0..3 {
        // Each router is made anew, with its members in another order.
        let (_, document, _) = pganalytics_server::api::router(&server.app);
        assert_eq!(served, document.to_string());
    }
    let document: Value = serde_json::from_str(&served).unwrap();
    assert_eq!(document["paths"]["/api/v1/users"]["post"]["x-audit-action"], "user.create");
}
