use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

/// Writes `ca.pem`, `server.pem` and `server.key` for `localhost` and 127.0.0.1, and `client.pem` and `client.key` for `client`.
pub(crate) fn write_certificates(folder: &Path) {
    let authority_key = KeyPair::generate().expect("keys can be made");
    let mut params = params_for("authority", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).expect("a key signs its own certificate");
    let issuer = Issuer::new(params, authority_key);
    write(folder, "ca.pem", &authority.pem());
    for (program, names) in [("server", &["localhost", "127.0.0.1"][..]), ("client", &["client"])] {
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params_for(program, names).signed_by(&key, &issuer).expect("an authority signs");
        write(folder, &format!("{program}.pem"), &certificate.pem());
        write(folder, &format!("{program}.key"), &key.serialize_pem());
    }
}

/// OpenSSL takes a certificate for self-signed whose subject is named as its issuer.
fn params_for(subject: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("these are valid names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("write into a temporary folder");
}
