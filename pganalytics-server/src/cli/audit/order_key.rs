use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use pganalytics_core::keys::DataKey;
use pganalytics_core::secret::{SecretBytes, SecretString};
use pganalytics_core::tlog::{NoteKeyKind, NoteKeyName, NoteSigner, VerifierKey};
use pganalytics_crypto::ed25519::Ed25519SeedSigner;

use crate::cli::{Failure, print};
use crate::secret_ref::SecretRef;

/// What the text form of a private half begins with, as Go's `golang.org/x/mod/sumdb/note` writes it.
const PREFIX: &str = "PRIVATE+KEY+";
/// What private bytes of Ed25519 begin with, like public ones.
const ED25519: u8 = 0x01;

/// The key that signs orders.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum OrderKeyCommand {
    /// Make a key. Its private half goes into a file that only you can read, its public half is printed, for
    /// `audit.order_keys` in the configuration of the servers. Needs neither a configuration nor a network: best run it on a
    /// machine that has none, and keep the file apart from whoever administers the database.
    New {
        /// What the key is called in signatures: best the address of the installation without its scheme, with a path, like
        /// `monitoring.example.com/audit-orders`. Each installation needs a key of its own.
        #[arg(long)]
        name: NoteKeyName,
        /// The file for the private half. It must not exist.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

pub(super) fn run(command: OrderKeyCommand) -> Result<(), Failure> {
    let OrderKeyCommand::New { name, output } = command;
    let key = OrderKey::generate(name);
    write_new(&output, key.to_text().expose()).map_err(|error| {
        Failure::refused(format!("the file {} cannot be made: {error}", output.display()))
    })?;
    print(format_args!(
        "The private half is in {}. Put this into the configuration of the servers:\n\n[audit]\norder_keys = [\"{}\"]",
        output.display(),
        key.verifier_key()
    ));
    Ok(())
}

/// A key that signs orders, with its private half.
#[derive(Debug)]
pub(super) struct OrderKey {
    name: NoteKeyName,
    seed: DataKey,
}

impl OrderKey {
    fn generate(name: NoteKeyName) -> Self {
        Self { name, seed: DataKey::generate() }
    }

    /// Reads a file that `order-key new` or Go's note package made.
    pub(super) fn read(file: &Path) -> Result<Self, Failure> {
        let text = SecretRef::File(file.to_path_buf()).read().map_err(Failure::refused)?;
        Self::from_text(&text).ok_or_else(|| {
            Failure::refused(format!(
                "{} holds no key for orders: one begins with {PREFIX} and is made by `pganalytics-api audit order-key new`",
                file.display()
            ))
        })
    }

    /// The public half.
    pub(super) fn verifier_key(&self) -> VerifierKey {
        let public = Ed25519SeedSigner::new(&self.seed).public_key();
        VerifierKey::new(self.name.clone(), NoteKeyKind::Ed25519, public)
    }

    /// What signs with it.
    pub(super) fn signer(&self) -> NoteSigner {
        NoteSigner::new(self.name.clone(), Arc::new(Ed25519SeedSigner::new(&self.seed)))
    }

    fn to_text(&self) -> SecretString {
        let bytes = SecretBytes::new([&[ED25519], self.seed.expose()].concat());
        let id = self.verifier_key().id();
        SecretString::new(format!("{PREFIX}{}+{id}+{}\n", self.name, STANDARD.encode(bytes.expose())))
    }

    fn from_text(text: &SecretString) -> Option<Self> {
        let mut parts = text.expose().strip_prefix(PREFIX)?.splitn(3, '+');
        let (name, id, bytes) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = SecretBytes::new(STANDARD.decode(bytes).ok()?);
        let (&ED25519, seed) = bytes.expose().split_first()? else { return None };
        let key = Self { name: name.parse().ok()?, seed: DataKey::from_bytes(seed.to_vec())? };
        (key.verifier_key().id().to_string() == id).then_some(key)
    }
}

/// Makes a file that only its owner can read.
pub(super) fn create_new(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes a file of this text that only its owner can read, and forces it to disk.
pub(super) fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_gos_note_package_is_read_and_written() {
        // The example of golang.org/x/mod/sumdb/note.
        let text = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz\n";
        let key = OrderKey::from_text(&SecretString::new(text.trim())).unwrap();
        assert_eq!(
            key.verifier_key().to_string(),
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
        );
        assert_eq!(key.to_text().expose(), text);
    }

    #[test]
    fn texts_that_are_no_keys_are_refused() {
        let text = OrderKey::generate("a/b".parse().unwrap()).to_text();
        let text = text.expose().trim();
        assert!(OrderKey::from_text(&SecretString::new(text)).is_some());
        for other in ["", PREFIX, &text[..text.len() - 4], &text.replace("a/b", "a/c"), &text[8..]] {
            assert!(OrderKey::from_text(&SecretString::new(other)).is_none(), "{other}");
        }
    }
}
