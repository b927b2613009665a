use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The part of a Kubernetes API server that Vault asks: it reviews tokens, over TLS. Not what is tested but what that needs.
pub(crate) struct TokenReviewer {
    pub(crate) address: String,
    pub(crate) authority: String,
    reviewed: Arc<Mutex<Vec<String>>>,
}

impl TokenReviewer {
    /// Accepts every token, as of the service account `api` of the namespace `monitoring`.
    pub(crate) async fn start() -> Self {
        let (acceptor, authority) = acceptor();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let reviewed = Arc::new(Mutex::new(Vec::new()));
        let seen = reviewed.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(review(acceptor.clone(), stream, seen.clone()));
            }
        });
        Self { address, authority, reviewed }
    }

    /// The tokens that were reviewed, in order.
    pub(crate) fn reviewed(&self) -> Vec<String> {
        self.reviewed.lock().unwrap().clone()
    }
}

/// A projected token as the kubelet writes it, but for its signature, which is the reviewer's to check.
pub(crate) fn projected_token(id: &str) -> String {
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:monitoring:api",
        "jti": id,
        "kubernetes.io": { "namespace": "monitoring", "serviceaccount": { "name": "api", "uid": "uid-1" } },
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({ "alg": "RS256" })), part(&claims), URL_SAFE_NO_PAD.encode("signature"))
}

async fn review(acceptor: TlsAcceptor, stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut stream = acceptor.accept(stream).await.ok()?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    let body = loop {
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        text.push_str(std::str::from_utf8(&buffer[..read]).ok()?);
        let body = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<Value>(body).ok());
        if let Some(body) = body {
            break body;
        }
    };
    seen.lock().unwrap().push(body["spec"]["token"].as_str()?.to_owned());
    let user = json!({ "username": "system:serviceaccount:monitoring:api", "uid": "uid-1" });
    let reply = json!({
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "status": { "authenticated": true, "user": user },
    })
    .to_string();
    let head = "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let reply = format!("{head}Content-Length: {}\r\n\r\n{reply}", reply.len());
    stream.write_all(reply.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

fn acceptor() -> (TlsAcceptor, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(params, authority_key);
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}
