//! A PostgreSQL with something to read, and roles that may read all of it or nothing.

use pganalytics_testkit::{LocalPostgres, LocalPostgresError, require_backends, temporary_postgres};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub(crate) struct Watched {
    pub server: LocalPostgres,
}

/// What the tests read back.
const SHOP: &str = r#"
CREATE TABLE customers (
    id bigint PRIMARY KEY, email varchar(120) NOT NULL UNIQUE, balance numeric(12,2) DEFAULT 0 CHECK (balance >= 0),
    notes text);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint REFERENCES customers ON DELETE CASCADE);
CREATE INDEX orders_customer_idx ON orders (customer_id);
CREATE TABLE "Odd ""Name'" ("Column ""X""" int);
CREATE TABLE pair (a int, b int, PRIMARY KEY (a, b));
CREATE TABLE pair_user (c int, d int, CONSTRAINT pair_fk FOREIGN KEY (d, c) REFERENCES pair (a, b));
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE VIEW rich AS SELECT * FROM customers WHERE balance > 10;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER customers_touch BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO customers SELECT g, 'c' || g FROM generate_series(1, 500) g;
INSERT INTO orders SELECT g, 1 + g % 500 FROM generate_series(1, 2000) g;
INSERT INTO "Odd ""Name'" SELECT g FROM generate_series(1, 100) g;
DELETE FROM "Odd ""Name'" WHERE "Column ""X""" > 50;
SELECT * FROM "Odd ""Name'";
ANALYZE;
"#;

impl Watched {
    /// `None` when PostgreSQL is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let config = temporary_postgres()
            .fast()
            .with_setting("autovacuum", "off")
            .with_setting("shared_preload_libraries", "pg_stat_statements")
            .with_setting("work_mem", "5MB")
            .with_setting("archive_command", "upload --password=hunter2 %p");
        let server = match LocalPostgres::start(config).await {
            Ok(server) => server,
            Err(LocalPostgresError::NotInstalled { searched }) => {
                assert!(!require_backends(), "PostgreSQL is not installed; {searched}");
                return None;
            }
            Err(error) => panic!("PostgreSQL for the tests: {error}"),
        };
        let watched = Self { server };
        watched
            .execute(
                "postgres",
                "CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE nobody LOGIN;
                 SELECT pg_create_physical_replication_slot('standby_1', true)",
            )
            .await;
        watched.execute("postgres", "CREATE DATABASE shop").await;
        watched.execute("shop", SHOP).await;
        Some(watched)
    }

    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.server.url_of(database)).await.unwrap()
    }

    pub(crate) async fn execute(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// The section of an instance for the collector's configuration.
    pub(crate) fn instance(&self, name: &str, role: &str) -> String {
        let url = self.server.url().replace("postgres://postgres@", &format!("postgres://{role}@"));
        format!("[[instances]]\nname = '{name}'\nurl = '{url}'\n")
    }
}
