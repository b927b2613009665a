use std::sync::{Mutex, PoisonError};

use age::secrecy::ExposeSecret;
use age_core::format::{FileKey as AgeFileKey, Stanza};

use super::payload::{FileKey, PAYLOAD_NONCE_BYTES, PayloadKey};
use crate::recovery::RecoveryIdentity;

/// The header of an age file, not verified yet.
pub(super) struct AgeFile<'a> {
    header: &'a [u8],
    nonce: [u8; PAYLOAD_NONCE_BYTES],
    pub(super) stanzas: Vec<Stanza>,
}

impl<'a> AgeFile<'a> {
    /// Takes apart what begins with a header; `None` if it does not.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let decryptor = age::Decryptor::new_buffered(&mut rest).ok()?;
        let collector = Collector::default();
        // It finds no key by this, but passes all stanzas on.
        let _ = decryptor.decrypt(std::iter::once(&collector as &dyn age::Identity));
        let header = &bytes[..bytes.len() - rest.len()];
        let stanzas = collector.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some(Self { header, nonce: *header.last_chunk()?, stanzas })
    }

    /// Where the payload begins.
    pub(super) fn payload_offset(&self) -> usize {
        self.header.len()
    }

    /// The file key, if the identity opens one of the stanzas.
    pub(super) fn file_key(&self, identity: &RecoveryIdentity) -> Option<FileKey> {
        let file_key = age::Identity::unwrap_stanzas(identity.age(), &self.stanzas)?.ok()?;
        Some(FileKey::new(*file_key.expose_secret()))
    }

    /// The key of the payload; `None` if the header was not made with this file key.
    pub(super) fn payload_key(&self, file_key: &FileKey) -> Option<PayloadKey> {
        let known = Known(file_key);
        let decryptor = age::Decryptor::new_buffered(self.header).ok()?;
        decryptor.decrypt(std::iter::once(&known as &dyn age::Identity)).ok()?;
        Some(PayloadKey::derive(file_key, &self.nonce))
    }
}

/// Keeps the stanzas that it is asked to open, and opens none.
#[derive(Default)]
struct Collector(Mutex<Vec<Stanza>>);

impl age::Identity for Collector {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<AgeFileKey, age::DecryptError>> {
        let Stanza { tag, args, body } = stanza;
        let stanza = Stanza { tag: tag.clone(), args: args.clone(), body: body.clone() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(stanza);
        None
    }
}

/// A file key that was learnt otherwise.
struct Known<'a>(&'a FileKey);

impl age::Identity for Known<'_> {
    fn unwrap_stanza(&self, _: &Stanza) -> Option<Result<AgeFileKey, age::DecryptError>> {
        Some(Ok(AgeFileKey::init_with_mut(|key| key.copy_from_slice(self.0.as_slice()))))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;

    use pganalytics_core::secret::SecretString;
    use sha2::{Digest, Sha256};

    use super::*;

    /// A file of the Community Cryptography Test Vectors: lines of text, an empty one, and an age file.
    struct Vector {
        fields: Vec<(String, String)>,
        file: Vec<u8>,
    }

    impl Vector {
        fn read(path: &Path) -> Self {
            let bytes = std::fs::read(path).unwrap();
            let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
            let text = std::str::from_utf8(&bytes[..end]).unwrap();
            let fields = text.lines().filter_map(|line| line.split_once(": "));
            let fields: Vec<_> = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let mut vector = Self { fields, file: bytes[end + 2..].to_vec() };
            if vector.field("compressed") == Some("zlib") {
                let mut file = Vec::new();
                flate2::read::ZlibDecoder::new(&vector.file[..]).read_to_end(&mut file).unwrap();
                vector.file = file;
            }
            vector
        }

        fn field(&self, name: &str) -> Option<&str> {
            self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
        }

        fn open(&self) -> Option<Vec<u8>> {
            let identities = self.fields.iter().filter(|(name, _)| name == "identity");
            let file = AgeFile::parse(&self.file)?;
            let file_key = identities
                .filter_map(|(_, text)| RecoveryIdentity::parse(&SecretString::new(text.as_str())).ok())
                .find_map(|identity| file.file_key(&identity))?;
            let payload = &self.file[file.payload_offset()..];
            file.payload_key(&file_key)?.open(0, true, payload)
        }
    }

    #[test]
    fn the_vectors_of_c2sp_are_opened_or_refused() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/age");
        let (mut opened, mut refused) = (0, 0);
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name == "LICENSE") {
                continue;
            }
            let vector = Vector::read(&path);
            let plain = vector.open();
            if vector.field("expect") == Some("success") {
                let digest = Sha256::digest(plain.unwrap_or_else(|| panic!("{} is refused", path.display())));
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(Some(digest.as_str()), vector.field("payload"), "{}", path.display());
                opened += 1;
            } else {
                assert_eq!(plain, None, "{} is accepted", path.display());
                refused += 1;
            }
        }
        assert!(opened >= 10 && refused >= 20, "{opened} were opened, {refused} refused");
    }
}
