use std::fs;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::log::SealedLog;
use crate::program::{refused, run_with, succeed};

/// A log whose servers obey a key for orders.
struct OrderedLog {
    log: SealedLog,
    key: String,
    /// The administrator, of whom the log knows something.
    user: String,
}

impl OrderedLog {
    async fn start() -> Option<Self> {
        let mut log = SealedLog::start().await?;
        let key = log.cluster.folder().join("orders.key").to_str().unwrap().to_owned();
        let made = ["audit", "order-key", "new", "--name", "example.com/orders", "--output", &key];
        let said = succeed(&log.cluster, &made).await;
        let public = said.split_once("order_keys = ").unwrap().1.trim().to_owned();
        log.cluster.settings().insert("PGA__AUDIT__ORDER_KEYS", public);
        let user = "SELECT id::text FROM users WHERE username = 'admin'";
        let user = sqlx::query_scalar(user).fetch_one(&mut log.cluster.connect().await).await.unwrap();
        Some(Self { log, key, user })
    }

    /// A signed order in a file.
    async fn order(&self, name: &str, what: &[&str]) -> String {
        self.order_with(name, what, &self.key, "example.com/audit").await
    }

    async fn order_with(&self, name: &str, what: &[&str], key: &str, log: &str) -> String {
        let file = self.log.cluster.folder().join(name).to_str().unwrap().to_owned();
        let new = ["audit", "orders", "new", "--log", log, "--key", key, "--output", &file];
        let whence = ["--by", "data protection officer", "--reason", "case 4711"];
        succeed(&self.log.cluster, &[&new, &whence[..], what].concat()).await;
        file
    }

    /// What is still known of the administrator.
    async fn known(&self) -> i64 {
        let known = "SELECT count(*) FROM audit_events e JOIN audit_personal p USING (at, id) \
            WHERE e.user_id = $1::uuid OR e.resource_type = 'user' AND e.resource_id = $1";
        let known = sqlx::query_scalar(AssertSqlSafe(known)).bind(&self.user);
        known.fetch_one(&mut self.log.cluster.connect().await).await.unwrap()
    }
}

#[tokio::test]
async fn person_is_exported_held_and_erased() {
    let Some(ordered) = OrderedLog::start().await else { return };
    let (log, user) = (&ordered.log, ordered.user.as_str());
    let known = ordered.known().await;
    assert!(known > 0);

    let exported = succeed(&log.cluster, &["audit", "export", "--subject", user]).await;
    let exported: Vec<Value> = serde_json::from_str(&exported).unwrap();
    assert!(exported.iter().any(|event| event["actor_name"] == "admin"), "{exported:?}");
    let last = exported.last().unwrap();
    assert_eq!((&last["action"], &last["resource_id"]), (&json!("audit.subject.export"), &json!(user)));
    let file = log.cluster.folder().join("export.csv").to_str().unwrap().to_owned();
    let to_file = ["audit", "export", "--subject", user, "--format", "csv", "--output", &file];
    let said = succeed(&log.cluster, &to_file).await;
    assert_eq!(said, format!("{} events were written\n", exported.len() + 1));
    let csv = fs::read_to_string(&file).unwrap();
    assert!(csv.starts_with("id,at,actor_kind,") && csv.lines().count() > exported.len(), "{csv}");
    assert!(refused(&log.cluster, &to_file, 1).await.contains("cannot be made"));

    let order = ordered.order("erase.order", &["--subject", user]).await;
    let erase = ["audit", "erase", "--subject", user, "--order", &order];
    let held =
        succeed(&log.cluster, &["audit", "hold", "place", "--subject", user, "--reason", "case 1"]).await;
    let hold = held.split(' ').nth(1).unwrap();
    assert!(refused(&log.cluster, &erase, 1).await.contains(hold));
    let listed = succeed(&log.cluster, &["audit", "hold", "list"]).await;
    assert!(listed.contains(hold) && listed.contains("lasts: case 1"), "{listed}");
    succeed(&log.cluster, &["audit", "hold", "release", hold]).await;
    assert!(refused(&log.cluster, &["audit", "hold", "release", hold], 1).await.contains("no hold"));

    let said = succeed(&log.cluster, &erase).await;
    assert!(said.starts_with("the personal fields of "), "{said}");
    assert_eq!(ordered.known().await, 0);
    assert!(succeed(&log.cluster, &erase).await.contains("nothing to do"));
    log.is_sealed().await;
    let report = log.verify(&[]).await;
    let erased = report["notices"].as_array().unwrap().iter().find(|notice| notice["kind"] == "erased");
    assert!(erased.unwrap()["personal"].as_i64() >= Some(known), "{report}");

    let orders = succeed(&log.cluster, &["audit", "orders", "list", "--json"]).await;
    let orders: Vec<Value> = serde_json::from_str(&orders).unwrap();
    assert_eq!((orders.len(), &orders[0]["valid"]), (1, &json!(true)), "{orders:?}");
    assert!(orders[0]["text"].as_str().unwrap().contains("\nreason case 4711\n"), "{orders:?}");
    // An auditor who does not believe the key finds what is gone.
    let without = run_with(&log.cluster, &["audit", "orders", "list"], "").await;
    assert!(String::from_utf8(without.stdout).unwrap().contains(&format!("erase what user {user} did")));
    let stranger = log.cluster.folder().join("stranger.key").to_str().unwrap().to_owned();
    let made = ["audit", "order-key", "new", "--name", "example.com/others", "--output", &stranger];
    let said = succeed(&log.cluster, &made).await;
    let public = said.split_once("order_keys = ").unwrap().1.trim().to_owned();
    let mut ordered = ordered;
    ordered.log.cluster.settings().insert("PGA__AUDIT__ORDER_KEYS", public);
    let report = ordered.log.verify_tampered(&[]).await;
    assert_eq!(report["findings"][0]["kind"], "personal_gone", "{report}");
    let said = succeed(&ordered.log.cluster, &["audit", "orders", "list"]).await;
    assert!(said.contains("NOT VALID"), "{said}");
}

#[tokio::test]
async fn what_is_no_order_for_this_is_refused() {
    let Some(mut ordered) = OrderedLog::start().await else { return };
    let (known, user) = (ordered.known().await, ordered.user.clone());
    let stranger = ordered.log.cluster.folder().join("stranger.key").to_str().unwrap().to_owned();
    let made = ["audit", "order-key", "new", "--name", "example.com/orders", "--output", &stranger];
    succeed(&ordered.log.cluster, &made).await;
    let subject = ["--subject", user.as_str()];
    let forged = ordered.order_with("forged", &subject, &stranger, "example.com/audit").await;
    let elsewhere = ordered.order_with("elsewhere", &subject, &ordered.key, "example.com/other").await;
    let other = ordered.order("other", &["--subject", "00000000-0000-0000-0000-000000000001"]).await;
    let month = ordered.order("month", &["--month", "2020-01"]).await;
    let cluster = &ordered.log.cluster;
    for (order, expected) in [
        (&forged, "`audit.order_keys`"),
        (&elsewhere, "example.com/other"),
        (&other, "not about user"),
        (&month, "audit retention"),
        (&ordered.key, "no signed note"),
        (&"/nowhere/at/all".to_owned(), "cannot be read"),
    ] {
        let said = refused(cluster, &["audit", "erase", "--subject", &user, "--order", order], 1).await;
        assert!(said.contains(expected), "{order}: {said}");
    }
    assert!(refused(cluster, &["audit", "retention", "--order", &other], 1).await.contains("audit erase"));
    succeed(cluster, &["audit", "retention", "--order", &month]).await;
    let future =
        ["audit", "orders", "new", "--log", "l", "--key", &ordered.key, "--by", "x", "--reason", "y"];
    let said = refused(cluster, &[&future[..], &["--before", "2999-01-01T00:00:00Z"]].concat(), 1).await;
    assert!(said.contains("not over"), "{said}");
    refused(cluster, &future, 2).await;
    assert_eq!(ordered.known().await, known);
    ordered.log.cluster.settings().retain(|name, _| !name.starts_with("PGA__AUDIT__LOG"));
    let said = refused(&ordered.log.cluster, &["audit", "erase", "--order", &forged], 78).await;
    assert!(said.contains("`audit.log` is not set"), "{said}");
}
