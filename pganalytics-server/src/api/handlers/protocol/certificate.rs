use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Datelike, SubsecRound, TimeDelta, Timelike, Utc};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use sha2::{Digest, Sha256};

/// For collectors whose clock is behind.
const ALREADY_VALID_FOR: TimeDelta = TimeDelta::minutes(5);

/// RFC 5280, appendix A.1: `ub-common-name`.
const COMMON_NAME_MAX: usize = 64;

/// RFC 1035, section 2.3.4: names of 255 octets with their lengths, labels of 63.
const DNS_NAME_MAX: usize = 253;
const DNS_LABEL_MAX: usize = 63;

/// A collector's client certificate, signed by itself, and its key.
pub(super) struct ClientCertificate {
    /// PEM.
    pub(super) certificate: String,
    /// PKCS#8 in PEM.
    pub(super) private_key: String,
    /// SHA-256 of the DER form, in hexadecimal digits: what the certificate is known by.
    pub(super) thumbprint: String,
    pub(super) expires_at: DateTime<Utc>,
}

impl ClientCertificate {
    /// A certificate for client authentication with a fresh P-256 key.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub(super) fn issue(
        hostname: &str,
        now: DateTime<Utc>,
        lifetime: TimeDelta,
    ) -> Result<Self, rcgen::Error> {
        let expires_at = (now + lifetime).trunc_subsecs(0);
        let name = Name::of(hostname);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.common_name());
        params.subject_alt_names = vec![name.into_san()?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let begins_at = now - ALREADY_VALID_FOR;
        // rcgen's type of time, of a crate that is not ours, can be made from a date alone.
        let (first, last) = (begins_at.date_naive(), expires_at.date_naive());
        params.not_before = date_time_ymd(first.year(), part(first.month()), part(first.day()));
        params.not_before += time_of_day(begins_at);
        params.not_after = date_time_ymd(last.year(), part(last.month()), part(last.day()));
        params.not_after += time_of_day(expires_at);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.pem(),
            private_key: key.serialize_pem(),
            thumbprint: hex::encode(Sha256::digest(certificate.der())),
            expires_at,
        })
    }
}

enum Name {
    Host(String),
    Address(IpAddr),
}

impl Name {
    /// What a collector calls its host, made into a name that a certificate may hold.
    fn of(hostname: &str) -> Self {
        if let Ok(address) = hostname.trim().parse() {
            return Self::Address(address);
        }
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let labels = hostname.trim().split('.').map(|label| {
            let label: String = label.chars().map(plain).take(DNS_LABEL_MAX).collect();
            label.trim_matches('-').to_owned()
        });
        let labels: Vec<String> = labels.filter(|label| !label.is_empty()).collect();
        let mut name = labels.join(".");
        name.truncate(DNS_NAME_MAX);
        match name.trim_end_matches(['.', '-']) {
            "" => Self::Host("collector".into()),
            name => Self::Host(name.into()),
        }
    }

    fn common_name(&self) -> String {
        match self {
            Self::Host(name) => name.chars().take(COMMON_NAME_MAX).collect(),
            Self::Address(address) => address.to_string(),
        }
    }

    fn into_san(self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Host(name) => SanType::DnsName(name.try_into()?),
            Self::Address(address) => SanType::IpAddress(address),
        })
    }
}

fn part(of_date: u32) -> u8 {
    u8::try_from(of_date).expect("months and days are below 32")
}

fn time_of_day(at: DateTime<Utc>) -> Duration {
    Duration::from_secs(at.num_seconds_from_midnight().into())
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::GeneralName;
    use x509_parser::pem::parse_x509_pem;

    use super::*;

    fn issue(hostname: &str) -> ClientCertificate {
        let now = "2026-11-22T19:00:00.5Z".parse().unwrap();
        ClientCertificate::issue(hostname, now, TimeDelta::days(365)).unwrap()
    }

    #[test]
    fn the_certificate_says_what_a_server_expects_of_a_client() {
        let issued = issue("db-host-1.example.org");
        let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=db-host-1.example.org");
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names, &[GeneralName::DNSName("db-host-1.example.org")]);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        assert!(!certificate.is_ca());
        let end = issued.expires_at;
        assert_eq!(end, "2027-11-22T19:00:00Z".parse::<DateTime<Utc>>().unwrap());
        assert_eq!(certificate.validity().not_after.timestamp(), end.timestamp());
        assert_eq!(
            certificate.validity().not_before.timestamp(),
            (end - TimeDelta::days(365)).timestamp() - 300
        );
        assert_eq!(issued.thumbprint, hex::encode(Sha256::digest(&pem.contents)));
        certificate.verify_signature(None).unwrap();
    }

    #[test]
    fn certificate_and_key_belong_together() {
        let issued = issue("db-host-1");
        let key = KeyPair::from_pem(&issued.private_key).unwrap();
        let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
        assert!(issued.private_key.starts_with("-----BEGIN PRIVATE KEY-----"));
    }

    #[test]
    fn any_hostname_gives_a_certificate() {
        let long = "x".repeat(300);
        let many = "label.".repeat(100);
        for hostname in
            ["", " ", "...", "-", "host name", "höst", "漢字", "a\0b", "10.0.0.1", "::1", &long, &many]
        {
            let issued = issue(hostname);
            let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
            pem.parse_x509().unwrap();
        }
    }
}
