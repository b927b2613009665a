use chrono::{DateTime, Duration, Utc};
use pganalytics_core::ids::UserId;
use pganalytics_core::users::{NewUser, Role, User};
use pganalytics_store::postgres::StoreError;
use pganalytics_store::postgres::users::{self, SealedUser};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::sealing::sealer;

/// Texts that break what puts values into statements by hand, and one of every kind of character.
pub(crate) const HOSTILE: [&str; 6] = [
    "'; DROP TABLE users; --",
    "\" OR \"\"=\"",
    "$1 %s {0} \\' \\0 \\u0000 \\",
    "line\r\nbreak\tand\u{7}bell",
    "Ünïcödé 漢字 \u{202e}right to left 🦀\u{feff}",
    "",
];

/// The time of day `seconds` after an arbitrary midnight.
pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600, 123_456_000).unwrap() + Duration::seconds(seconds)
}

/// Different ids that sort by their number, as ids made later sort after earlier ones.
pub(crate) fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

pub(crate) fn new_user(number: u128, name: &str) -> NewUser {
    NewUser::new(UserId(uuid(number)), name.parse().unwrap(), Role::User)
}

pub(crate) async fn a_user(connection: &mut PgConnection) -> UserId {
    create_user(connection, &new_user(7_000, "somebody")).await.unwrap().id
}

/// Stores a user whose password, if there is one, nobody opens again.
pub(crate) async fn create_user(connection: &mut PgConnection, new: &NewUser) -> Result<User, StoreError> {
    let sealed = SealedUser::seal(&sealer().await, new).await?;
    users::create(connection, &sealed, at(0)).await
}
