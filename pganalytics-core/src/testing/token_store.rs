//! The contract of [`TokenStore`], a function for each clause.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::{ApiTokenId, UserId};
use crate::random::{OsRandom, os_random};
use crate::testing::Subject;
use crate::tokens::{ApiToken, NewApiToken, Scope, TokenDigest, TokenStore, TokenStoreError};

/// Runs the contract of `TokenStore` on the adapter that the expression yields (`async` → `Option<TokenStoreFixture>`), a
/// store without tokens.
#[macro_export]
macro_rules! token_store_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::token_store,
            $fixture,
            [
                an_inserted_token_is_found_by_its_digest,
                an_unknown_digest_is_none,
                a_taken_digest_is_a_conflict,
                a_revoked_token_is_not_found,
                only_the_owner_revokes,
                an_expired_token_is_not_found,
                a_users_tokens_are_listed,
                use_is_recorded_forwards,
                scopes_come_back_as_they_were,
                hostile_text_comes_back_verbatim,
            ]
        );
    };
}

const SHORT: Duration = Duration::from_millis(50);

/// A store under test and two users whose tokens it takes.
#[derive(Debug)]
pub struct TokenStoreFixture {
    subject: Subject<dyn TokenStore>,
    owner: UserId,
    stranger: UserId,
}

impl TokenStoreFixture {
    /// A store and two users: of a store that knows the users, two that exist; of others, any.
    pub fn new(subject: Subject<dyn TokenStore>, users: [UserId; 2]) -> Self {
        let [owner, stranger] = users;
        Self { subject, owner, stranger }
    }

    fn store(&self) -> &dyn TokenStore {
        &*self.subject.port
    }

    fn new_token(&self, name: &str) -> NewApiToken {
        let mut digest = [0; 32];
        os_random(&mut digest);
        let id = ApiTokenId::generate(&*self.subject.clock(), &OsRandom);
        NewApiToken::new(id, self.owner, name, TokenDigest(digest))
    }

    async fn insert(&self, new: &NewApiToken) -> ApiToken {
        self.store().insert(new).await.expect("a fresh token is taken")
    }

    async fn find(&self, new: &NewApiToken) -> Option<ApiToken> {
        self.store().find(&new.digest).await.expect("the store answers")
    }
}

fn scopes<const N: usize>(names: [&str; N]) -> BTreeSet<Scope> {
    names.map(|name| Scope(name.into())).into()
}

/// Clause 1.
pub async fn an_inserted_token_is_found_by_its_digest(fixture: TokenStoreFixture) {
    let end = fixture.subject.now() + Duration::from_secs(60);
    let full = fixture.new_token("full").with_scopes(scopes(["metrics:read"])).expiring_at(Some(end));
    let bare = fixture.new_token("bare");
    for new in [full, bare] {
        let token = fixture.insert(&new).await;
        assert_eq!(token, ApiToken::created(&new, token.created_at));
        assert_eq!(fixture.find(&new).await, Some(token));
    }
}

/// Clause 2.
pub async fn an_unknown_digest_is_none(fixture: TokenStoreFixture) {
    let new = fixture.new_token("known");
    fixture.insert(&new).await;
    for (byte, bit) in [(31, 1), (31, 128), (0, 1), (0, 128)] {
        let mut digest = new.digest;
        digest.0[byte] ^= bit;
        assert_eq!(fixture.store().find(&digest).await.unwrap(), None, "bit {bit} of byte {byte}");
    }
}

/// Clause 3.
pub async fn a_taken_digest_is_a_conflict(fixture: TokenStoreFixture) {
    let new = fixture.new_token("first");
    let token = fixture.insert(&new).await;
    let same_digest = NewApiToken { digest: new.digest, ..fixture.new_token("same digest") };
    let same_id = NewApiToken { id: new.id, ..fixture.new_token("same id") };
    for taken in [&same_digest, &same_id] {
        let refused = fixture.store().insert(taken).await;
        assert!(matches!(refused, Err(TokenStoreError::Conflict)), "{refused:?}");
        assert_eq!(fixture.find(&new).await, Some(token.clone()));
    }
    assert_eq!(fixture.find(&same_id).await, None);

    assert!(fixture.store().revoke(fixture.owner, new.id).await.unwrap());
    let refused = fixture.store().insert(&same_digest).await;
    assert!(matches!(refused, Err(TokenStoreError::Conflict)), "{refused:?}");
    assert_eq!(fixture.find(&new).await, None);
}

/// Clause 4.
pub async fn a_revoked_token_is_not_found(fixture: TokenStoreFixture) {
    let (new, other) = (fixture.new_token("revoked"), fixture.new_token("other"));
    fixture.insert(&new).await;
    let other_token = fixture.insert(&other).await;
    assert!(fixture.store().revoke(fixture.owner, new.id).await.unwrap());
    assert_eq!(fixture.find(&new).await, None);
    assert!(!fixture.store().revoke(fixture.owner, new.id).await.unwrap());
    assert_eq!(fixture.find(&other).await, Some(other_token));
    let unknown = fixture.new_token("never inserted");
    assert!(!fixture.store().revoke(fixture.owner, unknown.id).await.unwrap());
}

/// Clause 5.
pub async fn only_the_owner_revokes(fixture: TokenStoreFixture) {
    let new = fixture.new_token("mine");
    let token = fixture.insert(&new).await;
    assert!(!fixture.store().revoke(fixture.stranger, new.id).await.unwrap());
    assert_eq!(fixture.find(&new).await, Some(token));
}

/// Clause 6.
pub async fn an_expired_token_is_not_found(fixture: TokenStoreFixture) {
    let soon = fixture.new_token("soon over").expiring_at(Some(fixture.subject.now() + SHORT));
    let over = fixture.new_token("over").expiring_at(Some(fixture.subject.now()));
    for new in [&soon, &over] {
        fixture.insert(new).await;
    }
    fixture.subject.pass(SHORT * 2).await;
    for new in [&soon, &over] {
        assert_eq!(fixture.find(new).await, None, "{}", new.name);
        assert!(!fixture.store().revoke(fixture.owner, new.id).await.unwrap(), "{}", new.name);
    }
    assert_eq!(fixture.store().list(fixture.owner).await.unwrap(), []);
}

/// Clause 7.
pub async fn a_users_tokens_are_listed(fixture: TokenStoreFixture) {
    assert_eq!(fixture.store().list(fixture.owner).await.unwrap(), []);
    let mut expected = Vec::new();
    for name in ["oldest", "revoked", "middle", "newest"] {
        expected.insert(0, fixture.insert(&fixture.new_token(name)).await);
        fixture.subject.pass(Duration::from_millis(2)).await;
    }
    let strangers = NewApiToken { user: fixture.stranger, ..fixture.new_token("a stranger's") };
    let strangers = fixture.insert(&strangers).await;
    let revoked = expected.remove(2);
    assert!(fixture.store().revoke(fixture.owner, revoked.id).await.unwrap());
    assert_eq!(fixture.store().list(fixture.owner).await.unwrap(), expected);
    assert_eq!(fixture.store().list(fixture.stranger).await.unwrap(), [strangers]);
}

/// Clause 8.
pub async fn use_is_recorded_forwards(fixture: TokenStoreFixture) {
    let new = fixture.new_token("used");
    assert_eq!(fixture.insert(&new).await.last_used_at, None);
    let first = fixture.subject.now();
    let second = first + Duration::from_micros(1);
    for (recorded, expected) in [(first, first), (second, second), (first, second)] {
        fixture.store().record_use(new.id, recorded).await.unwrap();
        let token = fixture.find(&new).await.expect("the token is live");
        assert_eq!(token.last_used_at, Some(expected));
    }
    assert!(fixture.store().revoke(fixture.owner, new.id).await.unwrap());
    for gone in [new.id, fixture.new_token("never inserted").id] {
        fixture.store().record_use(gone, second).await.unwrap();
    }
    assert_eq!(fixture.find(&new).await, None);
}

/// Clause 9.
pub async fn scopes_come_back_as_they_were(fixture: TokenStoreFixture) {
    for scopes in [scopes([]), scopes(["metrics:read"]), scopes(["metrics:write", "alerts:read", "*"])] {
        let new = fixture.new_token("scoped").with_scopes(scopes.clone());
        fixture.insert(&new).await;
        assert_eq!(fixture.find(&new).await.map(|token| token.scopes), Some(scopes));
    }
}

/// Clause 10.
pub async fn hostile_text_comes_back_verbatim(fixture: TokenStoreFixture) {
    let hostile = "'; DROP TABLE api_tokens; --\"\\%_\n\r\t{},$1 NULL \u{202e} 名前 🦀";
    let new = fixture.new_token(hostile).with_scopes(scopes([hostile, "{a,b}", "NULL", "\"", " "]));
    let token = fixture.insert(&new).await;
    assert_eq!(token, ApiToken::created(&new, token.created_at));
    assert_eq!(fixture.find(&new).await, Some(token));

    let bad_name = fixture.new_token("a\0b");
    let bad_scope = fixture.new_token("bad").with_scopes(scopes(["good", "a\0b"]));
    for (new, expected) in [(bad_name, "name"), (bad_scope, "scopes")] {
        let refused = fixture.store().insert(&new).await;
        assert!(
            matches!(refused, Err(TokenStoreError::InvalidText { field }) if field == expected),
            "{refused:?}"
        );
        assert_eq!(fixture.find(&new).await, None);
    }
}
