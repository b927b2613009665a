use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Writes `ca.pem`, and `server.pem` and `server.key` for `localhost` and 127.0.0.1.
pub(crate) fn write_certificates(folder: &Path) {
    let authority_key = KeyPair::generate().expect("keys can be made");
    let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).expect("a key signs its own certificate");
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().expect("keys can be made");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let params = CertificateParams::new(names).expect("these are valid names");
    let certificate = params.signed_by(&key, &issuer).expect("an authority signs");
    let files =
        [("ca.pem", authority.pem()), ("server.pem", certificate.pem()), ("server.key", key.serialize_pem())];
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("write into a temporary folder");
    }
}
