use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::audit::{AuditError, AuditEvent, AuditSink, Deduplication, Durability};
use crate::auth::{
    Attempt, AuthError, AuthOutcome, AuthProvider, BeginSignIn, BegunSignIn, ProviderId, RedirectSignIn,
};
use crate::directory::{DirectoryError, DirectoryScan, ScanStep, UserDirectory, Watermark};
use crate::ids::{ApiTokenId, UserId};
use crate::keys::{
    BlindIndex, Ciphertext, DataKey, DataKeyId, DataKeyStore, DataKeyStoreError, DataKeyWrapping,
    FieldCipher, FieldCipherError, FieldRef, KeyContext, KeyError, KeyManager, KeyMarks, KeyName, KeyVersion,
    NewDataKey, OpenRequest, SealRequest, StoredDataKey, WrappedKey,
};
use crate::secret::SecretBytes;
use crate::signing::{
    NewSigningKey, PublicKey, SignError, Signature, Signer, SigningKeyId, SigningKeyStore,
    SigningKeyStoreError, StoredSigningKey,
};
use crate::testing::Faulty;
use crate::tokens::{ApiToken, NewApiToken, TokenDigest, TokenStore, TokenStoreError};
use crate::users::{
    ExternalIdentity, LocalCredential, NewUser, PasswordHash, ProvisionedUser, Role, User, UserStore,
    UserStoreError, Username,
};

/// Implements a port for `Faulty<P>`: faults happen to the fallible methods, the others tell what the wrapped port tells.
macro_rules! faulty_port {
    (
        $port:ident fails with $error:ty {
            $(fn $told:ident() -> $value:ty;)*
            $(async fn $method:ident($($argument:ident: $type:ty),*) -> $reply:ty;)*
        }
    ) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<P: $port> $port for Faulty<P> {
            $(fn $told(&self) -> $value {
                self.inner().$told()
            })*

            $(async fn $method(&self, $($argument: $type),*) -> Result<$reply, $error> {
                self.apply(self.inner().$method($($argument),*)).await
            })*
        }
    };
}
pub(super) use faulty_port;

faulty_port! {
    UserStore fails with UserStoreError {
        fn name() -> &'static str;
        async fn insert(new: &NewUser) -> User;
        async fn find(id: UserId) -> Option<User>;
        async fn find_by_name(username: &Username) -> Option<User>;
        async fn credential(username: &Username) -> Option<LocalCredential>;
        async fn replace_password(id: UserId, expected: &PasswordHash, new: &PasswordHash) -> bool;
        async fn record_sign_in(id: UserId, at: DateTime<Utc>) -> ();
        async fn find_by_identity(identity: &ExternalIdentity) -> Option<User>;
        async fn provision(identity: &ExternalIdentity, new: &NewUser) -> ProvisionedUser;
        async fn link(id: UserId, identity: &ExternalIdentity) -> ();
        async fn set_role(id: UserId, role: Role) -> bool;
        async fn set_active(id: UserId, active: bool) -> bool;
    }
}

faulty_port! {
    TokenStore fails with TokenStoreError {
        fn name() -> &'static str;
        async fn insert(new: &NewApiToken) -> ApiToken;
        async fn find(digest: &TokenDigest) -> Option<ApiToken>;
        async fn list(user: UserId) -> Vec<ApiToken>;
        async fn revoke(user: UserId, id: ApiTokenId) -> bool;
        async fn record_use(id: ApiTokenId, at: DateTime<Utc>) -> ();
    }
}

faulty_port! {
    DataKeyStore fails with DataKeyStoreError {
        fn name() -> &'static str;
        async fn list() -> Vec<StoredDataKey>;
        async fn add(new: &NewDataKey) -> bool;
        async fn rewrap(id: &DataKeyId, from: &WrappedKey, to: &DataKeyWrapping) -> bool;
        async fn retire(id: &DataKeyId, at: DateTime<Utc>) -> bool;
        async fn destroy(id: &DataKeyId, at: DateTime<Utc>) -> bool;
    }
}

faulty_port! {
    SigningKeyStore fails with SigningKeyStoreError {
        fn name() -> &'static str;
        async fn insert(new: &NewSigningKey) -> bool;
        async fn insert_first(new: &NewSigningKey) -> bool;
        async fn insert_successor(new: &NewSigningKey, predecessor: &SigningKeyId) -> bool;
        async fn list() -> Vec<StoredSigningKey>;
        async fn retire(id: &SigningKeyId, at: DateTime<Utc>) -> bool;
        async fn remove_retired(before: DateTime<Utc>) -> u64;
    }
}

faulty_port! {
    Signer fails with SignError {
        fn name() -> &'static str;
        async fn sign(message: &[u8]) -> Signature;
        async fn current_key() -> SigningKeyId;
        async fn public_keys() -> Vec<PublicKey>;
    }
}

faulty_port! {
    KeyManager fails with KeyError {
        fn name() -> &'static str;
        async fn generate(key: &KeyName, context: &KeyContext) -> (DataKey, WrappedKey);
        async fn wrap(key: &KeyName, context: &KeyContext, data_key: &DataKey) -> WrappedKey;
        async fn unwrap(key: &KeyName, context: &KeyContext, wrapped: &WrappedKey) -> DataKey;
        async fn rewrap(key: &KeyName, context: &KeyContext, wrapped: &WrappedKey) -> WrappedKey;
        async fn current_version(key: &KeyName) -> Option<KeyVersion>;
    }
}

faulty_port! {
    FieldCipher fails with FieldCipherError {
        fn name() -> &'static str;
        async fn seal_batch(requests: &[SealRequest<'_>]) -> Vec<Ciphertext>;
        async fn open_batch(requests: &[OpenRequest<'_>]) -> Vec<Result<SecretBytes, FieldCipherError>>;
        async fn blind_indexes(field: &FieldRef, value: &[u8]) -> Vec<BlindIndex>;
        async fn marks(purpose: &str) -> KeyMarks;
    }
}

faulty_port! {
    AuthProvider fails with AuthError {
        fn name() -> &'static str;
        fn id() -> &ProviderId;
        async fn attempt(attempt: &Attempt) -> AuthOutcome;
    }
}

faulty_port! {
    RedirectSignIn fails with AuthError {
        fn name() -> &'static str;
        fn id() -> &ProviderId;
        async fn begin(request: &BeginSignIn) -> BegunSignIn;
    }
}

faulty_port! {
    AuditSink fails with AuditError {
        fn name() -> &'static str;
        fn durability() -> Durability;
        fn deduplication() -> Deduplication;
        async fn append(events: &[AuditEvent]) -> ();
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<D: UserDirectory> UserDirectory for Faulty<D> {
    fn name(&self) -> &'static str {
        self.inner().name()
    }

    fn id(&self) -> &ProviderId {
        self.inner().id()
    }

    async fn scan(&self, since: Option<&Watermark>) -> Result<Box<dyn DirectoryScan>, DirectoryError> {
        let scan = self.apply(self.inner().scan(since)).await?;
        Ok(Box::new(FaultyScan { faults: self.around(()), scan: Some(scan) }))
    }
}

/// A scan whose steps are calls of the plan as well.
#[derive(Debug)]
struct FaultyScan {
    faults: Faulty<()>,
    scan: Option<Box<dyn DirectoryScan>>,
}

#[async_trait]
impl DirectoryScan for FaultyScan {
    async fn next(&mut self) -> Result<ScanStep, DirectoryError> {
        let scan = self.scan.as_mut().ok_or(DirectoryError::Finished)?;
        let step = self.faults.apply(scan.next()).await;
        if step.is_err() {
            self.scan = None;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::directory::MemoryUserDirectory;
    use crate::error::{PortError, Retry};
    use crate::testing::{Fault, ManualClock, Subject};
    use crate::users::MemoryUserStore;

    fn faulty<P: std::fmt::Debug>(
        port: impl FnOnce(Arc<ManualClock>) -> P,
    ) -> (Arc<Faulty<Box<P>>>, ManualClock) {
        let clock = ManualClock::new();
        (Arc::new(Faulty::new(Box::new(port(Arc::new(clock.clone()))))), clock)
    }

    fn new_user(name: &str) -> NewUser {
        NewUser::new(UserId(Uuid::from_u128(1)), name.parse().unwrap(), Role::User)
    }

    #[tokio::test]
    async fn a_failed_call_has_no_effect() {
        let (store, _) = faulty(|clock| MemoryUserStore::new(clock));
        store.plan([Fault::Fail]);
        let error = store.insert(&new_user("first")).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(store.find(new_user("first").id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_lost_reply_leaves_the_effect() {
        let (store, _) = faulty(|clock| MemoryUserStore::new(clock));
        store.plan([Fault::None, Fault::LoseReply]);
        assert_eq!(store.find(new_user("first").id).await.unwrap(), None);
        let error = store.insert(&new_user("first")).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Later);
        assert!(store.find(new_user("first").id).await.unwrap().is_some());
        assert_eq!(store.calls(), 3);
    }

    #[tokio::test]
    async fn the_ports_own_error_is_not_replaced() {
        let (store, _) = faulty(|clock| MemoryUserStore::new(clock));
        store.insert(&new_user("first")).await.unwrap();
        store.plan([Fault::LoseReply]);
        let error = store.insert(&new_user("first")).await.unwrap_err();
        assert!(matches!(error, UserStoreError::Conflict { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_scan_that_failed_is_finished() {
        let directory = Faulty::new(MemoryUserDirectory::new(ProviderId("memory".into())));
        directory.plan([Fault::None, Fault::Fail]);
        let mut scan = directory.scan(None).await.unwrap();
        assert!(matches!(scan.next().await, Err(DirectoryError::Backend(_))));
        assert!(matches!(scan.next().await, Err(DirectoryError::Finished)));
    }

    mod user_store {
        use super::*;

        async fn subject() -> Option<Subject<dyn UserStore>> {
            let (store, clock) = faulty(|clock| MemoryUserStore::new(clock));
            Some(Subject::manual(store, clock))
        }

        crate::user_store_contract!(subject());
    }

    mod token_store {
        use super::*;
        use crate::testing::token_store::TokenStoreFixture;
        use crate::tokens::MemoryTokenStore;

        async fn fixture() -> Option<TokenStoreFixture> {
            let (store, clock) = faulty(|clock| MemoryTokenStore::new(clock));
            let users = [1, 2].map(|number| UserId(Uuid::from_u128(number)));
            Some(TokenStoreFixture::new(Subject::manual(store, clock), users))
        }

        crate::token_store_contract!(fixture());
    }

    mod signing_key_store {
        use super::*;
        use crate::signing::MemorySigningKeyStore;

        async fn subject() -> Option<Subject<dyn SigningKeyStore>> {
            let (store, clock) = faulty(|_| MemorySigningKeyStore::new());
            Some(Subject::manual(store, clock))
        }

        crate::signing_key_store_contract!(subject());
    }
}
