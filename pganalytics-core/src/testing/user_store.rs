//! The contract of [`UserStore`], a function for each clause.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::UserId;
use crate::random::OsRandom;
use crate::testing::Subject;
use crate::testing::support::together;
use crate::users::{
    ExternalIdentity, NewUser, PasswordHash, ProvisionedUser, Role, User, UserStore, UserStoreError, Username,
};

/// Runs the contract of `UserStore` on the adapter that the expression yields (`async` → `Option<Subject<dyn UserStore>>`),
/// a store without users.
#[macro_export]
macro_rules! user_store_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::user_store,
            $subject,
            [
                an_inserted_user_is_found_by_id_and_name,
                an_unknown_user_is_none,
                usernames_ignore_case,
                a_taken_name_is_a_conflict,
                a_credential_has_user_and_hash,
                a_password_is_replaced_only_over_the_expected_one,
                a_sign_in_is_recorded,
                an_identity_is_provisioned_once,
                a_provisioned_name_that_is_taken_is_a_conflict,
                an_identity_belongs_to_one_user,
                roles_and_activity_are_set,
                hostile_text_comes_back_verbatim,
            ]
        );
    };
}

type UserSubject = Subject<dyn UserStore>;

fn new_user(subject: &UserSubject, username: &str) -> NewUser {
    NewUser::new(fresh_id(subject), name(username), Role::User)
}

fn fresh_id(subject: &UserSubject) -> UserId {
    UserId::generate(&*subject.clock(), &OsRandom)
}

fn name(text: &str) -> Username {
    text.parse().expect("suites use valid names")
}

fn identity(subject: &str) -> ExternalIdentity {
    ExternalIdentity { provider: "directory".into(), subject: subject.into() }
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash::new(format!("$argon2id$v=19$m=8,t=1,p=1${text}"))
}

async fn password_of(store: &dyn UserStore, username: &Username) -> Option<PasswordHash> {
    store.credential(username).await.unwrap().expect("the user exists").password_hash
}

/// Compares names as they are shown too, which `==` does not.
fn assert_same(found: Option<User>, expected: &User) {
    let found = found.expect("the user is there");
    assert_eq!(&found, expected);
    assert_eq!(found.username.as_str(), expected.username.as_str());
}

fn assert_conflict<T: std::fmt::Debug>(result: Result<T, UserStoreError>, expected: &str) {
    match result {
        Err(UserStoreError::Conflict { field }) => assert_eq!(field, expected),
        other => panic!("not a conflict of `{expected}`: {other:?}"),
    }
}

fn assert_invalid_text<T: std::fmt::Debug>(result: Result<T, UserStoreError>, expected: &str) {
    match result {
        Err(UserStoreError::InvalidText { field }) => assert_eq!(field, expected),
        other => panic!("`{expected}` is not refused: {other:?}"),
    }
}

/// Clause 1.
pub async fn an_inserted_user_is_found_by_id_and_name(subject: UserSubject) {
    let store = &subject.port;
    let full = NewUser { role: Role::Admin, ..new_user(&subject, "first") }
        .with_contact(Some("first@example.org".into()), Some("The First".into()))
        .with_password(hash("first"), true)
        .protected();
    let bare = NewUser { role: Role::Viewer, ..new_user(&subject, "second") };
    let mut numbers = Vec::new();
    for new in [full, bare, new_user(&subject, "third")] {
        let user = store.insert(&new).await.unwrap();
        assert_same(Some(user.clone()), &User::created(&new, user.number, user.created_at));
        assert_same(store.find(new.id).await.unwrap(), &user);
        assert_same(store.find_by_name(&new.username).await.unwrap(), &user);
        assert!(user.number > 0 && !numbers.contains(&user.number), "{} after {numbers:?}", user.number);
        numbers.push(user.number);
    }
}

/// Clause 2.
pub async fn an_unknown_user_is_none(subject: UserSubject) {
    let store = &subject.port;
    let known = new_user(&subject, "known");
    store.provision(&identity("known"), &known).await.unwrap();
    let elsewhere = ExternalIdentity { provider: "elsewhere".into(), subject: "known".into() };
    assert_eq!(store.find(fresh_id(&subject)).await.unwrap(), None);
    for unknown in ["know", "known1", "%", "k_own", "directory"] {
        assert_eq!(store.find_by_name(&name(unknown)).await.unwrap(), None, "{unknown}");
        assert!(store.credential(&name(unknown)).await.unwrap().is_none(), "{unknown}");
    }
    for unknown in [identity("unknown"), identity("KNOWN"), elsewhere] {
        assert_eq!(store.find_by_identity(&unknown).await.unwrap(), None, "{unknown:?}");
    }
}

/// Clause 3.
pub async fn usernames_ignore_case(subject: UserSubject) {
    let store = &subject.port;
    let user = store.insert(&new_user(&subject, "Über.Admin")).await.unwrap();
    for spelling in ["über.admin", "ÜBER.ADMIN", "Über.Admin"] {
        assert_same(store.find_by_name(&name(spelling)).await.unwrap(), &user);
        assert!(store.credential(&name(spelling)).await.unwrap().is_some(), "{spelling}");
    }
    assert_eq!(store.find_by_name(&name("uber.admin")).await.unwrap(), None);
}

/// Clause 4.
pub async fn a_taken_name_is_a_conflict(subject: UserSubject) {
    let store = &subject.port;
    let mail = Some("first@example.org".to_owned());
    let first = new_user(&subject, "First").with_contact(mail, None);
    let user = store.insert(&first).await.unwrap();

    assert_conflict(store.insert(&new_user(&subject, "FIRST")).await, "username");
    let same_mail = new_user(&subject, "other").with_contact(Some("First@Example.Org".into()), None);
    assert_conflict(store.insert(&same_mail).await, "email");
    assert_eq!(store.find(same_mail.id).await.unwrap(), None);
    assert_eq!(store.find_by_name(&same_mail.username).await.unwrap(), None);
    let same_id = NewUser { id: user.id, ..new_user(&subject, "another") };
    assert_conflict(store.insert(&same_id).await, "id");
    assert_same(store.find_by_name(&name("first")).await.unwrap(), &user);

    let rivals = (0..8).map(|_| {
        let (store, new) = (Arc::clone(store), new_user(&subject, "contested"));
        async move { store.insert(&new).await }
    });
    let (made, refused): (Vec<_>, Vec<_>) = together(rivals).await.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    for result in refused {
        assert_conflict(result, "username");
    }
}

/// Clause 5.
pub async fn a_credential_has_user_and_hash(subject: UserSubject) {
    let store = &subject.port;
    let with_password = new_user(&subject, "local").with_password(hash("one"), false);
    let user = store.insert(&with_password).await.unwrap();
    let credential = store.credential(&user.username).await.unwrap().expect("the user exists");
    assert_same(Some(credential.user), &user);
    assert_eq!(credential.password_hash, Some(hash("one")));

    assert!(store.replace_password(user.id, &hash("one"), &hash("two")).await.unwrap());
    assert!(store.set_active(user.id, false).await.unwrap());
    let credential =
        store.credential(&user.username).await.unwrap().expect("inactive users have credentials");
    assert!(!credential.user.is_active);
    assert_eq!(credential.password_hash, Some(hash("two")));

    let elsewhere = new_user(&subject, "elsewhere");
    store.insert(&elsewhere).await.unwrap();
    assert_eq!(password_of(&**store, &elsewhere.username).await, None);
}

/// Clause 6.
pub async fn a_password_is_replaced_only_over_the_expected_one(subject: UserSubject) {
    let store = &subject.port;
    let user = store.insert(&new_user(&subject, "local").with_password(hash("old"), true)).await.unwrap();
    assert!(store.replace_password(user.id, &hash("old"), &hash("changed")).await.unwrap());
    assert!(!store.replace_password(user.id, &hash("old"), &hash("rehashed")).await.unwrap());
    assert_eq!(password_of(&**store, &user.username).await, Some(hash("changed")));

    let elsewhere = store.insert(&new_user(&subject, "elsewhere")).await.unwrap();
    assert!(!store.replace_password(elsewhere.id, &hash(""), &hash("new")).await.unwrap());
    assert_eq!(password_of(&**store, &elsewhere.username).await, None);
    assert!(!store.replace_password(fresh_id(&subject), &hash("old"), &hash("new")).await.unwrap());

    let rivals = (0..8).map(|rival| {
        let (store, id) = (Arc::clone(store), user.id);
        async move {
            let new = hash(&rival.to_string());
            store.replace_password(id, &hash("changed"), &new).await.unwrap().then_some(new)
        }
    });
    let winners: Vec<PasswordHash> = together(rivals).await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(password_of(&**store, &user.username).await.as_ref(), winners.first());
}

/// Clause 7.
pub async fn a_sign_in_is_recorded(subject: UserSubject) {
    let store = &subject.port;
    let user = store.insert(&new_user(&subject, "first")).await.unwrap();
    assert_eq!(user.last_sign_in_at, None);
    let first = subject.now();
    let second = first + Duration::from_micros(1);
    for (recorded, expected) in [(first, first), (second, second), (first, second)] {
        store.record_sign_in(user.id, recorded).await.unwrap();
        let found = store.find(user.id).await.unwrap().expect("the user is there");
        assert_eq!(found.last_sign_in_at, Some(expected));
        assert_eq!(found.version, user.version);
    }
    store.record_sign_in(fresh_id(&subject), first).await.unwrap();
}

/// Clause 8.
pub async fn an_identity_is_provisioned_once(subject: UserSubject) {
    let store = &subject.port;
    let rivals = (0..8).map(|_| {
        let (store, new) = (Arc::clone(store), new_user(&subject, "arrived"));
        async move { store.provision(&identity("a1"), &new).await.unwrap() }
    });
    let outcomes = together(rivals).await;
    let created: Vec<&User> = outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            ProvisionedUser::Created(user) => Some(user),
            ProvisionedUser::Known(_) => None,
        })
        .collect();
    let [user] = created[..] else { panic!("{} users were made", created.len()) };
    for outcome in outcomes.clone() {
        assert_same(Some(outcome.into_user()), user);
    }
    assert_same(store.find_by_identity(&identity("a1")).await.unwrap(), user);
    assert_same(store.find_by_name(&name("arrived")).await.unwrap(), user);

    let renamed = NewUser { role: Role::Admin, ..new_user(&subject, "renamed") };
    let again = store.provision(&identity("a1"), &renamed).await.unwrap();
    assert_eq!(again, ProvisionedUser::Known(user.clone()));
    assert_eq!(store.find_by_name(&name("renamed")).await.unwrap(), None);

    let elsewhere = ExternalIdentity { provider: "elsewhere".into(), subject: "a1".into() };
    let other = store.provision(&elsewhere, &new_user(&subject, "other")).await.unwrap();
    assert!(matches!(&other, ProvisionedUser::Created(other) if other.id != user.id), "{other:?}");
}

/// Clause 9.
pub async fn a_provisioned_name_that_is_taken_is_a_conflict(subject: UserSubject) {
    let store = &subject.port;
    let mail = Some("admin@example.org".to_owned());
    let local = NewUser { role: Role::Admin, ..new_user(&subject, "admin") }.with_contact(mail.clone(), None);
    let user = store.insert(&local).await.unwrap();
    assert_conflict(store.provision(&identity("a1"), &new_user(&subject, "ADMIN")).await, "username");
    let same_mail = new_user(&subject, "somebody").with_contact(mail, None);
    assert_conflict(store.provision(&identity("a1"), &same_mail).await, "email");
    assert_eq!(store.find_by_identity(&identity("a1")).await.unwrap(), None);
    assert_eq!(store.find(same_mail.id).await.unwrap(), None);
    assert_same(store.find(user.id).await.unwrap(), &user);
}

/// Clause 10.
pub async fn an_identity_belongs_to_one_user(subject: UserSubject) {
    let store = &subject.port;
    let first = store.insert(&new_user(&subject, "first")).await.unwrap();
    let second = store.insert(&new_user(&subject, "second")).await.unwrap();
    for _ in 0..2 {
        store.link(first.id, &identity("a1")).await.unwrap();
        assert_eq!(
            store.find_by_identity(&identity("a1")).await.unwrap().map(|user| user.id),
            Some(first.id)
        );
    }
    assert_conflict(store.link(second.id, &identity("a1")).await, "identity");
    assert_eq!(store.find_by_identity(&identity("a1")).await.unwrap().map(|user| user.id), Some(first.id));
    store.link(first.id, &identity("a2")).await.unwrap();
    assert_eq!(store.find_by_identity(&identity("a2")).await.unwrap().map(|user| user.id), Some(first.id));

    let unknown = fresh_id(&subject);
    let refused = store.link(unknown, &identity("a3")).await;
    assert!(matches!(refused, Err(UserStoreError::UnknownUser { id }) if id == unknown), "{refused:?}");
    assert_eq!(store.find_by_identity(&identity("a3")).await.unwrap(), None);

    let rivals = [first.id, second.id].map(|id| {
        let store = Arc::clone(store);
        async move { store.link(id, &identity("contested")).await }
    });
    let linked = together(rivals).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(linked, 1);
}

/// Clause 11.
pub async fn roles_and_activity_are_set(subject: UserSubject) {
    let store = &subject.port;
    let user = store.insert(&new_user(&subject, "first")).await.unwrap();
    for role in [Role::Admin, Role::Admin] {
        assert!(store.set_role(user.id, role).await.unwrap());
        let found = store.find(user.id).await.unwrap().expect("the user is there");
        assert_eq!((found.role, found.version), (Role::Admin, user.version + 1));
    }
    for active in [false, false] {
        assert!(store.set_active(user.id, active).await.unwrap());
        let found = store.find(user.id).await.unwrap().expect("the user is there");
        assert_eq!((found.is_active, found.version), (false, user.version + 2));
    }
    assert!(!store.set_role(fresh_id(&subject), Role::Admin).await.unwrap());
    assert!(!store.set_active(fresh_id(&subject), true).await.unwrap());
}

/// Clause 12.
pub async fn hostile_text_comes_back_verbatim(subject: UserSubject) {
    let store = &subject.port;
    let hostile = "'; DROP TABLE users; --\"\\%_\n\r\t{}$1 \u{202e} naïve 名前 🦀";
    let visible = name("o'; DROP TABLE users;--\"\\%_ 名前 🦀");
    let new = NewUser { username: visible.clone(), ..new_user(&subject, "replaced") }
        .with_contact(Some(hostile.into()), Some(hostile.into()));
    let user = store.provision(&identity(hostile), &new).await.unwrap().into_user();
    assert_same(Some(user.clone()), &User::created(&new, user.number, user.created_at));
    assert_same(store.find_by_name(&visible).await.unwrap(), &user);
    assert_same(store.find_by_identity(&identity(hostile)).await.unwrap(), &user);

    let zero = || Some("a\0b".to_owned());
    let bad_mail = new_user(&subject, "bad").with_contact(zero(), None);
    let bad_name = new_user(&subject, "bad").with_contact(None, zero());
    let bad_hash = new_user(&subject, "bad").with_password(hash("\0"), false);
    for (new, field) in [(bad_mail, "email"), (bad_name, "full_name"), (bad_hash, "password_hash")] {
        assert_invalid_text(store.insert(&new).await, field);
        assert_invalid_text(store.provision(&identity("bad"), &new).await, field);
    }
    let bad_provider = ExternalIdentity { provider: "a\0b".into(), subject: "a1".into() };
    for (bad, field) in [(bad_provider, "provider"), (identity("a\0b"), "subject")] {
        assert_invalid_text(store.provision(&bad, &new_user(&subject, "bad")).await, field);
        assert_invalid_text(store.link(user.id, &bad).await, field);
        assert_invalid_text(store.find_by_identity(&bad).await, field);
    }
    let old = hash("old");
    assert_invalid_text(store.replace_password(user.id, &old, &hash("\0")).await, "password_hash");
    assert_eq!(store.find_by_name(&name("bad")).await.unwrap(), None);
}
