use chrono::{DateTime, Utc};
use pganalytics_core::ids::{ApiTokenId, UserId};
use pganalytics_core::tokens::{ApiToken, NewApiToken, Scope, TokenDigest};
use pganalytics_store::postgres::api_tokens::{self, SealedToken, SoughtToken};
use pganalytics_store::postgres::{ColumnSealer, StoreError, users};
use sqlx::PgConnection;

use crate::common::migrated;
use crate::samples::{HOSTILE, a_user, at, create_user, new_user, uuid};
use crate::sealing::sealer;

fn token(number: u8, user: UserId) -> NewApiToken {
    NewApiToken::new(ApiTokenId(uuid(number.into())), user, "ci", TokenDigest([number; 32]))
}

async fn create(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    new: &NewApiToken,
    now: DateTime<Utc>,
) -> Result<ApiToken, StoreError> {
    let sealed = SealedToken::seal(sealer, new).await?;
    api_tokens::create(connection, &sealed, now).await
}

/// The token of this number.
async fn find(
    connection: &mut PgConnection,
    sealer: &ColumnSealer,
    number: u8,
    now: DateTime<Utc>,
) -> Option<ApiToken> {
    let sought = SoughtToken::of(sealer, &TokenDigest([number; 32])).await.unwrap();
    api_tokens::find(connection, &sought, now).await.unwrap()
}

#[tokio::test]
async fn token_is_found_by_digest_until_it_ends() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let user = a_user(connection).await;
    let sealer = sealer().await;
    let scopes = [Scope("metrics:read".into()), Scope("a,b{}\"".into())].into();
    let new = token(1, user).with_scopes(scopes).expiring_at(Some(at(10)));
    let made = create(connection, &sealer, &new, at(0)).await.unwrap();
    let found = find(connection, &sealer, 1, at(9)).await;
    assert_eq!(found, Some(made));
    assert_eq!(find(connection, &sealer, 1, at(10)).await, None);
    assert_eq!(find(connection, &sealer, 2, at(9)).await, None);
    assert!(api_tokens::list(connection, user, at(10)).await.unwrap().is_empty());
    assert!(!api_tokens::revoke(connection, user, new.id, at(10)).await.unwrap());
}

#[tokio::test]
async fn token_is_revoked_by_its_owner_for_good() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let user = a_user(connection).await;
    let sealer = sealer().await;
    let other = create_user(connection, &new_user(2, "other")).await.unwrap().id;
    for number in [1, 2, 3] {
        create(connection, &sealer, &token(number, user), at(number.into())).await.unwrap();
    }
    create(connection, &sealer, &token(4, other), at(0)).await.unwrap();
    let ids = |tokens: Vec<_>| -> Vec<ApiTokenId> {
        tokens.into_iter().map(|token: pganalytics_core::tokens::ApiToken| token.id).collect()
    };
    let id = |number: u128| ApiTokenId(uuid(number));
    assert!(!api_tokens::revoke(connection, other, id(2), at(5)).await.unwrap());
    assert!(api_tokens::revoke(connection, user, id(2), at(5)).await.unwrap());
    assert!(!api_tokens::revoke(connection, user, id(2), at(6)).await.unwrap());
    assert_eq!(ids(api_tokens::list(connection, user, at(7)).await.unwrap()), [id(3), id(1)]);
    assert_eq!(find(connection, &sealer, 2, at(7)).await, None);
    let back = create(connection, &sealer, &token(2, user), at(8)).await;
    assert!(matches!(back, Err(StoreError::Conflict { .. })), "{back:?}");
}

#[tokio::test]
async fn use_of_a_token_is_recorded_forwards() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let user = a_user(connection).await;
    let sealer = sealer().await;
    let id = create(connection, &sealer, &token(1, user), at(0)).await.unwrap().id;
    for time in [at(10), at(5)] {
        api_tokens::record_use(connection, id, time).await.unwrap();
        let found = find(connection, &sealer, 1, at(20)).await;
        assert_eq!(found.unwrap().last_used_at, Some(at(10)));
    }
    api_tokens::record_use(connection, ApiTokenId(uuid(99)), at(1)).await.unwrap();
}

#[tokio::test]
async fn token_needs_a_user_and_storable_text() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let user = a_user(connection).await;
    let sealer = sealer().await;
    let missing = create(connection, &sealer, &token(1, UserId(uuid(99))), at(0)).await;
    assert!(matches!(missing, Err(StoreError::MissingReference { .. })), "{missing:?}");
    let mut named = token(1, user);
    named.name = "\0".into();
    let scoped = token(1, user).with_scopes([Scope("\0".into())].into());
    for (new, expected) in [(named, "name"), (scoped, "scopes")] {
        let refused = create(connection, &sealer, &new, at(0)).await;
        assert!(matches!(refused, Err(StoreError::InvalidText { field }) if field == expected));
    }
    for (number, text) in (1..).zip(HOSTILE) {
        let mut new = token(number, user).with_scopes([Scope(text.into())].into());
        new.name = text.into();
        let made = create(connection, &sealer, &new, at(0)).await.unwrap();
        let found = find(connection, &sealer, number, at(0)).await;
        assert_eq!(found, Some(made));
    }
    users::delete(connection, user).await.unwrap();
    assert_eq!(find(connection, &sealer, 1, at(1)).await, None);
}
