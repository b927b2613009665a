use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// Whether the signature of the message was made by the key (RFC 8032, section 5.1.7). Keys and signatures of a wrong length or
/// encoding are not valid.
pub fn verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}
