use pganalytics_core::ids::{RegistrationSecretId, UserId};
use pganalytics_store::postgres::registration_secrets::{
    self, NewRegistrationSecret, RegistrationSecret, RegistrationSecretChanges,
};
use pganalytics_store::postgres::{StoreError, users};
use sqlx::PgConnection;

use crate::common::migrated;
use crate::samples::{HOSTILE, a_user, at, uuid};

fn id(number: u128) -> RegistrationSecretId {
    RegistrationSecretId(uuid(number))
}

fn secret(number: u8) -> NewRegistrationSecret<'static> {
    NewRegistrationSecret {
        id: id(number.into()),
        name: "fleet",
        description: None,
        secret_hash: [number; 32],
        expires_at: None,
        created_by: None,
    }
}

async fn create(connection: &mut PgConnection, new: &NewRegistrationSecret<'_>) -> RegistrationSecret {
    registration_secrets::create(connection, new, at(0)).await.unwrap()
}

#[tokio::test]
async fn secret_is_verified_by_hash_and_each_use_is_counted() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    create(connection, &secret(1)).await;
    for uses in [1, 2] {
        let verified = registration_secrets::verify_and_count(connection, &[1; 32], at(uses)).await.unwrap();
        let verified = verified.unwrap();
        assert_eq!((verified.total_registrations, verified.last_used_at), (uses, Some(at(uses))));
    }
    let mut almost = [1; 32];
    almost[31] ^= 1;
    assert_eq!(registration_secrets::verify_and_count(connection, &almost, at(3)).await.unwrap(), None);
}

#[tokio::test]
async fn inactive_and_expired_secrets_do_not_verify_and_are_not_counted() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let inactive = create(connection, &secret(1)).await;
    let changes =
        RegistrationSecretChanges { name: "off", description: None, is_active: false, expires_at: None };
    registration_secrets::update(connection, inactive.id, inactive.version, &changes, at(1)).await.unwrap();
    create(connection, &NewRegistrationSecret { expires_at: Some(at(10)), ..secret(2) }).await;

    assert_eq!(registration_secrets::verify_and_count(connection, &[1; 32], at(5)).await.unwrap(), None);
    assert!(registration_secrets::verify_and_count(connection, &[2; 32], at(9)).await.unwrap().is_some());
    assert_eq!(registration_secrets::verify_and_count(connection, &[2; 32], at(10)).await.unwrap(), None);
    let uses: Vec<i64> = registration_secrets::list(connection, None, 10)
        .await
        .unwrap()
        .iter()
        .map(|secret| secret.total_registrations)
        .collect();
    assert_eq!(uses, [0, 1]);
}

#[tokio::test]
async fn same_secret_twice_is_a_conflict() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    create(connection, &secret(1)).await;
    let again = NewRegistrationSecret { id: id(2), ..secret(1) };
    let refused = registration_secrets::create(connection, &again, at(0)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { what: "registration secret" })), "{refused:?}");
}

#[tokio::test]
async fn creator_is_named_while_there_is_one() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let user = a_user(connection).await;
    let number = users::find(connection, user).await.unwrap().unwrap().number;
    let made = create(connection, &NewRegistrationSecret { created_by: Some(user), ..secret(1) }).await;
    assert_eq!((made.created_by, made.created_by_number), (Some(user), Some(number)));
    users::delete(connection, user).await.unwrap();
    let orphan = registration_secrets::find(connection, made.id).await.unwrap().unwrap();
    assert_eq!((orphan.created_by, orphan.created_by_number), (None, None));

    let nobody = NewRegistrationSecret { created_by: Some(UserId(uuid(99))), ..secret(2) };
    let refused = registration_secrets::create(connection, &nobody, at(0)).await;
    assert!(matches!(refused, Err(StoreError::MissingReference { .. })), "{refused:?}");
}

#[tokio::test]
async fn secrets_are_listed_changed_and_deleted() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for number in 1..=5 {
        create(connection, &secret(number)).await;
    }
    let ids = |rows: &[RegistrationSecret]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let listed = registration_secrets::list(connection, Some(id(3)), 10).await.unwrap();
    assert_eq!(ids(&listed), [id(4), id(5)]);
    let page = registration_secrets::page(connection, 2, 2).await.unwrap();
    assert_eq!((ids(&page.rows), page.total), (vec![id(3), id(4)], 5));

    for text in HOSTILE {
        let before = registration_secrets::find(connection, id(1)).await.unwrap().unwrap();
        let changes = RegistrationSecretChanges {
            name: text,
            description: Some(text),
            is_active: true,
            expires_at: Some(at(50)),
        };
        let update = async |connection: &mut PgConnection| {
            registration_secrets::update(connection, id(1), before.version, &changes, at(2)).await.unwrap()
        };
        let after = update(connection).await.unwrap();
        assert_eq!((after.name.as_str(), after.description.as_deref()), (text, Some(text)));
        assert_eq!(after.expires_at, Some(at(50)));
        assert_eq!(update(connection).await, None, "the version was used up");
    }
    let nul = NewRegistrationSecret { description: Some("\0"), ..secret(9) };
    let refused = registration_secrets::create(connection, &nul, at(0)).await;
    assert!(matches!(refused, Err(StoreError::InvalidText { field: "description" })));

    assert!(registration_secrets::delete(connection, id(1)).await.unwrap().is_some());
    assert_eq!(registration_secrets::delete(connection, id(1)).await.unwrap(), None);
    assert_eq!(registration_secrets::verify_and_count(connection, &[1; 32], at(3)).await.unwrap(), None);
}
