//! Notes, checkpoints, requests to witnesses, keys, names of tiles, bundles and proofs from strangers: read exactly, or refused.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pganalytics_core::tlog::{
    AddCheckpoint, Hash32, ProofBundle, SignedCheckpoint, SignedNote, TilePath, VerifierKey, decode_entries,
    encode_entries,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(note) = SignedNote::parse(bytes) {
        assert_eq!(note.to_string().as_bytes(), bytes);
    }
    if let Ok(checkpoint) = SignedCheckpoint::parse(bytes) {
        assert_eq!(checkpoint.unverified().to_text().as_ref(), Ok(checkpoint.note().unverified_text()));
    }
    if let Ok(request) = AddCheckpoint::parse(bytes) {
        assert_eq!(request.to_string().as_bytes(), bytes);
    }
    if let Ok(bundle) = ProofBundle::parse(bytes) {
        assert_eq!(bundle.to_string().as_bytes(), bytes);
        let (index, checkpoint) = (bundle.index(), bundle.checkpoint().unverified());
        let leaf = Hash32::of_leaf(bytes);
        let _ = bundle.proof().verify(&leaf, index, checkpoint.size(), checkpoint.root());
    }
    if let Ok(text) = str::from_utf8(bytes) {
        if let Ok(key) = text.parse::<VerifierKey>() {
            assert_eq!(key.to_string(), text);
        }
        if let Ok(path) = text.parse::<TilePath>() {
            assert_eq!(path.to_string(), text);
        }
    }
    if let Some((width, bundle)) = bytes.split_first() {
        let bundle = Bytes::copy_from_slice(bundle);
        if let Ok(entries) = decode_entries(&bundle, usize::from(*width) + 1) {
            assert_eq!(encode_entries(&entries), Ok(bundle));
        }
    }
});
