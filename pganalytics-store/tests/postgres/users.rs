use pganalytics_core::ids::UserId;
use pganalytics_core::users::{ExternalIdentity, NewUser, PasswordHash, ProvisionedUser, Role, Username};
use pganalytics_store::postgres::StoreError;
use pganalytics_store::postgres::users::{self, SealedUser, UserChanges};
use sqlx::{Connection, PgConnection};

use crate::common::migrated;
use crate::samples::{HOSTILE, at, create_user, new_user, uuid};
use crate::sealing::sealer;

fn identity(subject: &str) -> ExternalIdentity {
    ExternalIdentity { provider: "corporate".into(), subject: subject.into() }
}

fn name(text: &str) -> Username {
    text.parse().unwrap()
}

async fn provision(connection: &mut PgConnection, new: &NewUser) -> Result<ProvisionedUser, StoreError> {
    let sealed = SealedUser::seal(&sealer().await, new).await?;
    users::provision(connection, &identity("s"), &sealed, at(0)).await
}

#[tokio::test]
async fn user_is_stored_with_all_parts() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let new = new_user(1, "Ada")
        .with_contact(Some("Ada@example.org".into()), Some("Ada L.".into()))
        .with_password(PasswordHash::new("$argon2id$…"), true)
        .protected();
    let sealer = sealer().await;
    let sealed = SealedUser::seal(&sealer, &new).await.unwrap();
    let user = users::create(connection, &sealed, at(0)).await.unwrap();
    assert!(user.number > 0);
    assert_eq!(user.email.as_deref(), Some("Ada@example.org"));
    assert!(user.is_protected && user.password_changed && user.is_active);

    assert_eq!(users::find(connection, user.id).await.unwrap().as_ref(), Some(&user));
    assert_eq!(users::find_by_number(connection, user.number).await.unwrap().as_ref(), Some(&user));
    let by_name = users::find_by_name(connection, &name("aDA")).await.unwrap();
    assert_eq!(by_name.unwrap().username.as_str(), "Ada");
    let credential = users::credential(connection, &sealer, &name("ADA")).await.unwrap().unwrap();
    let credential = credential.open(&sealer).await.unwrap();
    assert_eq!(credential.user, user);
    assert_eq!(credential.password_hash.unwrap().expose(), "$argon2id$…");
    assert_eq!(users::find(connection, UserId(uuid(99))).await.unwrap(), None);
}

#[tokio::test]
async fn taken_name_and_address_are_conflicts_that_name_the_field() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let address = |text: &str| Some(text.to_owned());
    create_user(connection, &new_user(1, "Ärger").with_contact(address("a@example.org"), None))
        .await
        .unwrap();
    let same_name = create_user(connection, &new_user(2, "äRGER")).await;
    assert!(matches!(same_name, Err(StoreError::Conflict { what: "username" })), "{same_name:?}");
    let same_address = new_user(2, "other").with_contact(address("A@Example.org"), None);
    let same_address = create_user(connection, &same_address).await;
    assert!(matches!(same_address, Err(StoreError::Conflict { what: "email" })), "{same_address:?}");
    assert_eq!(users::count(connection).await.unwrap(), 1);
    for number in [2, 3] {
        let without = new_user(number, &format!("without address {number}"));
        create_user(connection, &without).await.unwrap();
    }
}

#[tokio::test]
async fn hostile_text_of_a_user_comes_back_verbatim() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for (number, text) in (1_u128..).zip(HOSTILE) {
        let new = new_user(number, &format!("user{number}"))
            .with_contact(Some(format!("{number}{text}")), Some(text.into()));
        let user = create_user(connection, &new).await.unwrap();
        let found = users::find(connection, user.id).await.unwrap().unwrap();
        assert_eq!(found.full_name.as_deref(), Some(text));
        assert_eq!(found.email, Some(format!("{number}{text}")));
        users::link(connection, user.id, &identity(text), at(0)).await.unwrap();
        let linked = users::find_by_identity(connection, &identity(text)).await.unwrap();
        assert_eq!(linked.unwrap().id, user.id);
    }
    for quoted in ["Robert'); DROP TABLE users;--", "a\"b", "%_"] {
        let user = create_user(connection, &new_user(100 + quoted.len() as u128, quoted)).await;
        assert_eq!(user.unwrap().username.as_str(), quoted);
        assert!(users::find_by_name(connection, &name(quoted)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn nul_in_a_user_is_refused_with_its_field() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let contact = |email: &str, full: &str| {
        new_user(1, "ada").with_contact(Some(email.to_owned()), Some(full.to_owned()))
    };
    for (new, expected) in [(contact("a\0", "b"), "email"), (contact("a", "\0"), "full_name")] {
        let refused = create_user(connection, &new).await;
        assert!(matches!(refused, Err(StoreError::InvalidText { field }) if field == expected));
    }
    let id = create_user(connection, &contact("a", "b")).await.unwrap().id;
    let bad = ExternalIdentity { provider: "a\0".into(), subject: "b".into() };
    let refused = users::link(connection, id, &bad, at(0)).await;
    assert!(matches!(refused, Err(StoreError::InvalidText { field: "provider" })));
    let refused = users::find_by_identity(connection, &identity("\0")).await;
    assert!(matches!(refused, Err(StoreError::InvalidText { field: "subject" })));
}

#[tokio::test]
async fn users_are_listed_by_key_and_by_page() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    for number in 1..=7 {
        create_user(connection, &new_user(number, &format!("u{number}"))).await.unwrap();
    }
    let names = |rows: Vec<pganalytics_core::users::User>| -> Vec<String> {
        rows.into_iter().map(|user| user.username.as_str().to_owned()).collect()
    };
    let first = users::list(connection, None, 3).await.unwrap();
    let after = first.last().map(|user| user.number);
    assert_eq!(names(first), ["u1", "u2", "u3"]);
    assert_eq!(names(users::list(connection, after, 10).await.unwrap()), ["u4", "u5", "u6", "u7"]);

    let second = users::page(connection, 2, 3).await.unwrap();
    assert_eq!((names(second.rows), second.total), (vec!["u4".into(), "u5".into(), "u6".into()], 7));
    let beyond = users::page(connection, u32::MAX, u32::MAX).await.unwrap();
    assert_eq!((beyond.rows.len(), beyond.total), (0, 7));
}

#[tokio::test]
async fn update_needs_the_current_version() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let user = create_user(connection, &new_user(1, "ada")).await.unwrap();
    let changes = UserChanges {
        email: Some("New@example.org"),
        full_name: Some("Ada"),
        role: Role::Admin,
        is_active: false,
    };
    let updated = users::update(connection, user.id, user.version, &changes, at(9)).await.unwrap().unwrap();
    assert_eq!((updated.role, updated.is_active, updated.updated_at), (Role::Admin, false, at(9)));
    assert_eq!((updated.version, updated.created_at), (user.version + 1, at(0)));
    let stale = users::update(connection, user.id, user.version, &changes, at(10)).await.unwrap();
    assert_eq!(stale, None);
    assert_eq!(users::find(connection, user.id).await.unwrap(), Some(updated));

    let taken = create_user(connection, &new_user(2, "bob")).await.unwrap();
    let conflict = users::update(connection, taken.id, taken.version, &changes, at(10)).await;
    assert!(matches!(conflict, Err(StoreError::Conflict { what: "email" })), "{conflict:?}");
}

#[tokio::test]
async fn protected_user_is_not_deleted() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let admin = create_user(connection, &new_user(1, "admin").protected()).await.unwrap();
    let other = create_user(connection, &new_user(2, "other")).await.unwrap();
    users::link(connection, other.id, &identity("s"), at(0)).await.unwrap();
    assert_eq!(users::delete(connection, admin.id).await.unwrap(), None);
    assert_eq!(users::delete(connection, other.id).await.unwrap(), Some(other.clone()));
    assert_eq!(users::delete(connection, other.id).await.unwrap(), None);
    assert_eq!(users::find_by_identity(connection, &identity("s")).await.unwrap(), None);
    assert_eq!(users::count(connection).await.unwrap(), 1);
}

#[tokio::test]
async fn rehash_never_undoes_a_change_of_password() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let sealer = sealer().await;
    let [old, chosen, rehash] = ["old", "chosen", "rehash"].map(PasswordHash::new);
    let new = new_user(1, "ada").with_password(old, false);
    let sealed = SealedUser::seal(&sealer, &new).await.unwrap();
    let user = users::create(connection, &sealed, at(0)).await.unwrap();
    let old = users::password(connection, &sealer, user.id).await.unwrap().unwrap();
    let sealed = users::seal_password(&sealer, user.id, &chosen).await.unwrap();
    assert!(users::set_password(connection, &sealed, true, at(1)).await.unwrap());
    let rehash = users::seal_password(&sealer, user.id, &rehash).await.unwrap();
    assert!(!users::replace_password(connection, &old, &rehash).await.unwrap());
    let credential = users::credential(connection, &sealer, &name("ada")).await.unwrap().unwrap();
    let stored = credential.password.clone();
    let credential = credential.open(&sealer).await.unwrap();
    assert_eq!(credential.password_hash.as_ref(), Some(&chosen));
    assert!(credential.user.password_changed);
    assert!(users::replace_password(connection, &stored, &rehash).await.unwrap());
    assert!(!users::replace_password(connection, &stored, &rehash).await.unwrap());
    let nobody = users::seal_password(&sealer, UserId(uuid(99)), &chosen).await.unwrap();
    assert!(!users::set_password(connection, &nobody, true, at(1)).await.unwrap());
}

#[tokio::test]
async fn role_and_activity_count_the_version_only_when_they_change() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let id = create_user(connection, &new_user(1, "ada")).await.unwrap().id;
    for (role, active, version) in [(Role::User, true, 1), (Role::Viewer, true, 2), (Role::Viewer, false, 3)]
    {
        assert!(users::set_role(connection, id, role, at(5)).await.unwrap());
        assert!(users::set_active(connection, id, active, at(5)).await.unwrap());
        let user = users::find(connection, id).await.unwrap().unwrap();
        assert_eq!((user.role, user.is_active, user.version), (role, active, version));
    }
    assert!(!users::set_role(connection, UserId(uuid(99)), Role::Admin, at(5)).await.unwrap());
    assert!(!users::set_active(connection, UserId(uuid(99)), true, at(5)).await.unwrap());
}

#[tokio::test]
async fn sign_in_is_recorded_forwards() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let id = create_user(connection, &new_user(1, "ada")).await.unwrap().id;
    for time in [at(10), at(5)] {
        users::record_sign_in(connection, id, time).await.unwrap();
        let user = users::find(connection, id).await.unwrap().unwrap();
        assert_eq!((user.last_sign_in_at, user.version), (Some(at(10)), 1));
    }
}

#[tokio::test]
async fn concurrent_provisioning_makes_one_user() {
    let Some((_test, database)) = migrated().await else { return };
    let calls = (0..4).map(|number| {
        let database = database.clone();
        tokio::spawn(async move {
            let mut transaction = database.begin().await.unwrap();
            let user = provision(&mut transaction, &new_user(number, "ada")).await.unwrap();
            transaction.commit().await.unwrap();
            user
        })
    });
    let mut created = 0;
    let mut ids = Vec::new();
    for call in futures::future::join_all(calls).await {
        let provisioned = call.unwrap();
        created += i32::from(matches!(provisioned, ProvisionedUser::Created(_)));
        ids.push(provisioned.into_user().id);
    }
    assert_eq!(created, 1);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn provisioning_takes_over_no_user_and_leaves_no_trace() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    create_user(connection, &new_user(1, "ada")).await.unwrap();
    // In a transaction of the caller's, which goes on.
    let mut transaction = connection.begin().await.unwrap();
    let refused = provision(&mut transaction, &new_user(2, "ADA")).await;
    assert!(matches!(refused, Err(StoreError::Conflict { what: "username" })), "{refused:?}");
    let made = provision(&mut transaction, &new_user(3, "bob")).await.unwrap();
    assert!(matches!(made, ProvisionedUser::Created(_)), "the refused one did not keep the identity");
    transaction.commit().await.unwrap();

    let known = provision(connection, &new_user(4, "eve")).await.unwrap();
    assert!(matches!(known, ProvisionedUser::Known(user) if user.username.as_str() == "bob"));
}

#[tokio::test]
async fn identity_belongs_to_one_user() {
    let Some((_test, database)) = migrated().await else { return };
    let connection = &mut *database.read().await.unwrap();
    let ada = create_user(connection, &new_user(1, "ada")).await.unwrap().id;
    let bob = create_user(connection, &new_user(2, "bob")).await.unwrap().id;
    users::link(connection, ada, &identity("s"), at(0)).await.unwrap();
    users::link(connection, ada, &identity("s"), at(1)).await.unwrap();
    let refused = users::link(connection, bob, &identity("s"), at(1)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { what: "identity" })), "{refused:?}");
    let missing = users::link(connection, UserId(uuid(99)), &identity("t"), at(1)).await;
    assert!(matches!(missing, Err(StoreError::MissingReference { .. })), "{missing:?}");
}
