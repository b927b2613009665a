//! Who is trusted, and what the collector shows of itself.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::program::Program;

/// An authority, and certificates that it signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), pem, der }
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// A server that answers everything with what a registration needs and a push, and notes who shows a certificate.
struct TlsServer {
    port: u16,
    shown: Arc<Mutex<Vec<(String, bool)>>>,
}

impl TlsServer {
    fn start(authority: &Authority) -> Self {
        let (certificate, key) = authority.sign("localhost");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let (client, client_key) = authority.sign("db1.test");
        let answer = json!({
            "token": "t", "collector_id": "c", "expires_at": "2999-01-01T00:00:00Z",
            "certificate": client.pem(), "private_key": client_key.serialize_pem(),
            "status": "success", "metrics_inserted": 1,
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&shown);
        // The thread ends with the test's process.
        thread::spawn(move || serve(&listener, &Arc::new(config), &answer.to_string(), &noted));
        Self { port, shown }
    }
}

fn serve(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    answer: &str,
    shown: &Mutex<Vec<(String, bool)>>,
) {
    for socket in listener.incoming() {
        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
        let mut stream = StreamOwned::new(connection, socket.unwrap());
        // A client that does not trust this server ends the handshake.
        let Some(path) = read_request(&mut stream) else { continue };
        shown.lock().unwrap().push((path, stream.conn.peer_certificates().is_some()));
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
        let reply = format!("{head}Content-Length: {}\r\n\r\n{answer}", answer.len());
        stream.write_all(reply.as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    }
}

/// Reads a request to its end and tells its path.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
            });
            let head_length = request.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
            if request.len() >= head_length + length.unwrap_or(0) {
                return head.split(' ').nth(1).map(str::to_owned);
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => request.extend_from_slice(&buffer[..count]),
        }
    }
}

async fn reachable(program: &Program) -> Value {
    let finished = program.finish(&["check", "--json"]).await;
    let report: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished:?}"));
    report["server"]["reachable"].clone()
}

#[tokio::test]
async fn only_the_configured_authority_is_trusted() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority);
    let url = format!("https://localhost:{}", server.port);
    let program = Program::new(&url, "");
    let of_system = reachable(&program).await;
    assert_eq!(of_system["state"], "failed");
    assert!(of_system["detail"].as_str().unwrap().contains("certificate"), "{of_system}");
    for (trusted, state) in [(Authority::new(), "failed"), (authority, "ok")] {
        let program = Program::new(&url, "server.ca_file = '/nowhere'");
        let file = program.path("ca.pem");
        fs::write(&file, &trusted.pem).unwrap();
        let config = fs::read_to_string(program.path("collector.toml")).unwrap();
        program.write(&config.replace("/nowhere", &file.display().to_string()));
        assert_eq!(reachable(&program).await["state"], state);
    }
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_is_a_wrong_configuration() {
    let program = Program::new("https://localhost:1", "server.ca_file = '/nowhere/ca.pem'");
    let finished = program.finish(&["once"]).await;
    assert_eq!(finished.status.code(), Some(78), "{finished:?}");
    assert!(finished.stderr.contains("`server.ca_file` /nowhere/ca.pem"), "{}", finished.stderr);
}

#[tokio::test]
async fn the_certificate_of_the_registration_is_shown_from_then_on() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority);
    let program = Program::new(&format!("https://localhost:{}", server.port), "server.ca_file = '/nowhere'");
    let file = program.path("ca.pem");
    fs::write(&file, &authority.pem).unwrap();
    let config = fs::read_to_string(program.path("collector.toml")).unwrap();
    program.write(&config.replace("/nowhere", &file.display().to_string()));
    program.once().await;
    let shown = server.shown.lock().unwrap().clone();
    assert_eq!(
        shown,
        [("/api/v1/collectors/register".to_owned(), false), ("/api/v1/metrics/push".to_owned(), true)]
    );
}
