use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pganalytics_auth::token::{
    AccessGrant, AccessTokenIssuer, AccessTokenVerifier, CollectorTokenIssuer, CollectorTokenVerifier,
    KeySet, KeySetConfig, TokenError, TokenIssuerConfig, TokenRefusal, TokenVerifierConfig,
};
use pganalytics_core::clock::Clock;
use pganalytics_core::error::BackendError;
use pganalytics_core::ids::UserId;
use pganalytics_core::session::{Epoch, SessionId};
use pganalytics_core::signing::{PublicKey, SignError, Signature, SignatureAlgorithm, Signer, SigningKeyId};
use pganalytics_core::testing::{ManualClock, SeededRandom};
use pganalytics_core::users::Role;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) const ISSUER: &str = "https://pganalytics.example";
pub(crate) const AUDIENCE: &str = "pganalytics-api";

/// A signer in this process whose keys and health the test holds.
#[derive(Debug, Default)]
pub(crate) struct TestSigner {
    keys: Mutex<Vec<(PublicKey, Arc<Ed25519KeyPair>)>>,
    pub(crate) unreachable: AtomicBool,
    pub(crate) asked: AtomicUsize,
}

impl TestSigner {
    pub(crate) fn add_key(&self, id: &str) {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = PublicKey {
            id: id.parse().unwrap(),
            algorithm: SignatureAlgorithm::Ed25519,
            bytes: pair.public_key().as_ref().to_vec(),
        };
        self.keys.lock().unwrap().push((public, Arc::new(pair)));
    }

    pub(crate) fn remove_key(&self, id: &str) {
        self.keys.lock().unwrap().retain(|(public, _)| public.id.as_str() != id);
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.keys.lock().unwrap().last().unwrap().0.clone()
    }

    fn answer(&self) -> Result<(), SignError> {
        match self.unreachable.load(Ordering::SeqCst) {
            true => Err(SignError::Backend(BackendError::later("test", "unreachable"))),
            false => Ok(()),
        }
    }

    /// A token of any header and payload, signed with the current key.
    pub(crate) fn sign_raw(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let keys = self.keys.lock().unwrap();
        let signature = keys.last().unwrap().1.sign(input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

#[async_trait]
impl Signer for TestSigner {
    fn name(&self) -> &'static str {
        "test"
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        self.answer()?;
        let keys = self.keys.lock().unwrap();
        let (public, pair) = keys.last().ok_or(SignError::NoActiveKey)?;
        let bytes = pair.sign(message).as_ref().to_vec();
        Ok(Signature { key: public.id.clone(), algorithm: public.algorithm, bytes })
    }

    async fn current_key(&self) -> Result<SigningKeyId, SignError> {
        self.answer()?;
        self.keys.lock().unwrap().last().map(|(public, _)| public.id.clone()).ok_or(SignError::NoActiveKey)
    }

    async fn public_keys(&self) -> Result<Vec<PublicKey>, SignError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        // Others come in between, as they would with a real store.
        tokio::task::yield_now().await;
        self.answer()?;
        Ok(self.keys.lock().unwrap().iter().map(|(public, _)| public.clone()).collect())
    }
}

/// Issuers and verifiers of one installation.
pub(crate) struct Setup {
    pub(crate) signer: Arc<TestSigner>,
    pub(crate) clock: ManualClock,
    pub(crate) keys: Arc<KeySet>,
    pub(crate) access_issuer: AccessTokenIssuer,
    pub(crate) access: AccessTokenVerifier,
    pub(crate) collector_issuer: CollectorTokenIssuer,
    pub(crate) collector: CollectorTokenVerifier,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let signer = Arc::new(TestSigner::default());
        signer.add_key("key-1");
        let clock = ManualClock::new();
        let shared_clock: Arc<dyn Clock> = Arc::new(clock.clone());
        let random = Arc::new(SeededRandom::new(1));
        let keys = Arc::new(KeySet::new(signer.clone(), shared_clock.clone(), KeySetConfig::default()));
        let verifier = TokenVerifierConfig::new(ISSUER, AUDIENCE);
        Self {
            access_issuer: AccessTokenIssuer::new(
                signer.clone(),
                shared_clock.clone(),
                random.clone(),
                TokenIssuerConfig::access(ISSUER, AUDIENCE),
            ),
            access: AccessTokenVerifier::new(keys.clone(), shared_clock.clone(), verifier.clone()),
            collector_issuer: CollectorTokenIssuer::new(
                signer.clone(),
                shared_clock.clone(),
                random,
                TokenIssuerConfig::collector(ISSUER, AUDIENCE),
            ),
            collector: CollectorTokenVerifier::new(keys.clone(), shared_clock, verifier),
            signer,
            clock,
            keys,
        }
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) async fn access_token(&self) -> String {
        self.access_issuer.issue(&grant()).await.unwrap().text.expose().to_owned()
    }

    /// The claims of a good access token, to be spoilt.
    pub(crate) fn claims(&self) -> Value {
        let AccessGrant { user, session, .. } = grant();
        let now = self.clock.now().timestamp();
        json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": user, "sid": session, "jti": Uuid::nil(),
            "iat": now, "nbf": now, "exp": now + 300, "role": "user", "epoch": 3
        })
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": "EdDSA", "typ": "at+jwt", "kid": self.signer.public_key().id})
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.signer.sign_raw(&header.to_string(), &claims.to_string())
    }

    pub(crate) async fn refusal(&self, token: &str) -> TokenRefusal {
        refusal(self.access.verify(token).await)
    }
}

pub(crate) fn refusal<T>(result: Result<T, TokenError>) -> TokenRefusal {
    match result {
        Err(TokenError::Refused(refusal)) => refusal,
        Err(error) => panic!("no verdict: {error:?}"),
        Ok(_) => panic!("accepted"),
    }
}

pub(crate) fn grant() -> AccessGrant {
    let user = UserId(Uuid::from_u128(7));
    AccessGrant {
        user,
        session: SessionId::for_user(user, Uuid::from_u128(8)),
        role: Role::User,
        epoch: Epoch(3),
    }
}
