//! Bytes from strangers: whatever they are, they are read or refused, and what is read is written as it was.

use bytes::Bytes;
use pganalytics_core::tlog::{
    AddCheckpoint, Checkpoint, ConsistencyProof, Hash32, InclusionProof, LeafIndex, NoteKeyId, NoteSignature,
    NoteText, ProofBundle, SignedCheckpoint, SignedNote, TilePath, TreeSize, VerifierKey, decode_entries,
    decode_hashes, encode_entries, encode_hashes,
};
use proptest::prelude::*;
use proptest::sample::Index;

fn note_bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "— ",
        "key",
        " ",
        "AQIDBAU=",
        "AQIDBA==",
        "\n",
        "\n\n",
        "text",
        "+",
        "\r",
        "\0",
        "é",
        "\u{2003}",
        "7",
        "0",
        "index ",
        "extra ",
        "old ",
        "c2sp.org/tlog-proof@v1\n",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "tile/",
        "entries/",
        "x001/",
        "067",
        ".p/",
        "255",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat().into_bytes()),
    ]
}

fn signature() -> impl Strategy<Value = NoteSignature> {
    let name = "[a-z./\u{e9}-]{1,12}".prop_map(|name| name.parse().unwrap());
    (name, any::<[u8; 4]>(), prop::collection::vec(any::<u8>(), 1..80))
        .prop_map(|(name, id, bytes)| NoteSignature { name, id: NoteKeyId(id), bytes })
}

fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    ("[!-~]{1,20}", 1..u64::MAX, any::<[u8; 32]>(), prop::collection::vec("[ -~é]{1,20}", 0..3)).prop_map(
        |(origin, size, root, extensions)| {
            let checkpoint = Checkpoint::new(origin.parse().unwrap(), TreeSize(size), Hash32(root)).unwrap();
            extensions
                .into_iter()
                .fold(checkpoint, |checkpoint, line| checkpoint.with_extension(line).unwrap())
        },
    )
}

fn signed_checkpoint() -> impl Strategy<Value = SignedCheckpoint> {
    (checkpoint(), signature(), signature()).prop_map(|(checkpoint, first, mut second)| {
        second.id.0[0] = !first.id.0[0];
        let note = SignedNote::new(checkpoint.to_text().unwrap(), first).unwrap();
        SignedCheckpoint::new(note.with_signature(second).unwrap()).unwrap()
    })
}

fn bundle() -> impl Strategy<Value = ProofBundle> {
    let extra = prop::option::of(prop::collection::vec(any::<u8>(), 0..50));
    let path = prop::collection::vec(any::<[u8; 32]>(), 0..64);
    (extra, any::<u64>(), path, signed_checkpoint()).prop_map(|(extra, index, path, checkpoint)| {
        let proof = InclusionProof { path: path.into_iter().map(Hash32).collect() };
        let bundle = ProofBundle::new(LeafIndex(index), proof, checkpoint);
        match extra {
            Some(extra) => bundle.with_entry(&extra),
            None => bundle,
        }
    })
}

fn add_checkpoint() -> impl Strategy<Value = AddCheckpoint> {
    let path = prop::collection::vec(any::<[u8; 32]>(), 0..64);
    (any::<u64>(), path, signed_checkpoint()).prop_map(|(old, path, checkpoint)| {
        let proof = ConsistencyProof { path: path.into_iter().map(Hash32).collect() };
        AddCheckpoint::new(TreeSize(old), proof, checkpoint)
    })
}

fn check_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(note) = SignedNote::parse(bytes) {
        prop_assert_eq!(note.to_string().into_bytes(), bytes);
        if let Ok(checkpoint) = Checkpoint::parse(note.unverified_text()) {
            prop_assert_eq!(&checkpoint.to_text().unwrap(), note.unverified_text());
        }
    }
    if let Ok(checkpoint) = SignedCheckpoint::parse(bytes) {
        prop_assert_eq!(checkpoint.to_string().into_bytes(), bytes);
    }
    if let Ok(request) = AddCheckpoint::parse(bytes) {
        prop_assert_eq!(request.to_string().into_bytes(), bytes);
    }
    if let Ok(bundle) = ProofBundle::parse(bytes) {
        prop_assert_eq!(bundle.to_string().into_bytes(), bytes);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        if let Ok(key) = text.parse::<VerifierKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
        if let Ok(path) = text.parse::<TilePath>() {
            prop_assert_eq!(path.to_string(), text);
            prop_assert!((1..=256).contains(&path.width()));
        }
    }
    Ok(())
}

// Every bit flipped, every byte doubled or left out, at some places.
fn mutations(text: &str, places: &[Index]) -> Vec<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut mutations = Vec::new();
    for at in places.iter().map(|place| place.index(bytes.len())) {
        for bit in 0..8 {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            mutations.push(flipped);
        }
        mutations.push([&bytes[..at], &bytes[at + 1..]].concat());
        mutations.push([&bytes[..=at], &bytes[at..]].concat());
        mutations.push(bytes[..at].to_vec());
    }
    mutations
}

proptest! {
    #[test]
    fn any_bytes_are_read_exactly_or_refused(bytes in note_bytes()) {
        check_all(&bytes)?;
    }

    #[test]
    fn what_was_written_is_read(bundle in bundle()) {
        prop_assert_eq!(ProofBundle::parse(bundle.to_string().as_bytes()), Ok(bundle.clone()));
        let checkpoint = bundle.checkpoint();
        prop_assert_eq!(&SignedCheckpoint::parse(checkpoint.to_string().as_bytes()).unwrap(), checkpoint);
    }

    #[test]
    fn requests_to_witnesses_are_read_exactly_or_refused(
        request in add_checkpoint(), places in prop::collection::vec(any::<Index>(), 1..8),
    ) {
        let text = request.to_string();
        prop_assert_eq!(AddCheckpoint::parse(text.as_bytes()), Ok(request.clone()));
        for mutation in mutations(&text, &places) {
            check_all(&mutation)?;
            prop_assert!(AddCheckpoint::parse(&mutation).ok() != Some(request.clone()));
        }
    }

    #[test]
    fn changed_bytes_are_read_exactly_or_refused(
        bundle in bundle(), places in prop::collection::vec(any::<Index>(), 1..8),
    ) {
        for text in [bundle.to_string(), bundle.checkpoint().to_string()] {
            for mutation in mutations(&text, &places) {
                check_all(&mutation)?;
                prop_assert!(ProofBundle::parse(&mutation).ok() != Some(bundle.clone()));
            }
        }
    }

    #[test]
    fn names_of_tiles_with_changes_are_read_exactly_or_refused(
        index in 0..5_000_000_u64, width in 1..256_u64, places in prop::collection::vec(any::<Index>(), 1..4),
    ) {
        let size = TreeSize(index * 256 + width);
        let tile = TilePath::in_tree(pganalytics_core::tlog::TileKind::Hashes(0), index, size).unwrap();
        for mutation in mutations(&tile.to_string(), &places) {
            check_all(&mutation)?;
        }
    }

    #[test]
    fn any_bytes_are_a_bundle_or_refused(bytes in prop::collection::vec(0..4_u8, 0..200), width in 1..=256_usize) {
        let bytes = Bytes::from(bytes);
        if let Ok(entries) = decode_entries(&bytes, width) {
            prop_assert_eq!(entries.len(), width);
            prop_assert_eq!(encode_entries(&entries).unwrap(), bytes.clone());
        }
        if let Ok(hashes) = decode_hashes(&bytes, width) {
            prop_assert_eq!(encode_hashes(&hashes), bytes);
        }
    }

    #[test]
    fn bundles_are_read_as_they_were_written(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..50)) {
        let entries: Vec<Bytes> = entries.into_iter().map(Bytes::from).collect();
        let bundle = encode_entries(&entries).unwrap();
        prop_assert_eq!(decode_entries(&bundle, entries.len()), Ok(entries));
    }

    #[test]
    fn any_text_is_a_text_of_a_note_or_refused(text in "\\PC*\n?") {
        if let Ok(text) = NoteText::new(text) {
            let signature = NoteSignature { name: "key".parse().unwrap(), id: NoteKeyId([0; 4]), bytes: vec![0] };
            let note = SignedNote::new(text.clone(), signature).unwrap();
            let read = SignedNote::parse(note.to_string().as_bytes()).unwrap();
            prop_assert_eq!(read.unverified_text(), &text);
        }
    }
}
