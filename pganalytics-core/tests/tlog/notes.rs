use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::testing::ManualClock;
use pganalytics_core::tlog::{
    Checkpoint, CheckpointError, CheckpointPolicy, ConsistencyProof, Cosigner, GrowthError, Hash32,
    InvalidCheckpoint, InvalidNote, InvalidPolicy, NOTE_MAX_BYTES, NoteError, NoteKeyKind, NoteSigner,
    NoteText, ProofError, SignedCheckpoint, SignedNote, TreeSize, VerifierKey, VerifierKeys,
};

use crate::support::{ORIGIN, ToySigner, log_signer, policy, signed, verify};

const PETER_NEUMANN: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n\
    \n\
    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

const QUASIMODO: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n\
    — quasimodo.example/salvatore \
    NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";

const BEHIND_THE_SOFA: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
    — example.com/behind-the-sofa \
    Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
    — witness.example.com/w1 \
    jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

#[test]
fn published_notes_are_written_as_they_were_read() {
    for text in [PETER_NEUMANN, QUASIMODO, BEHIND_THE_SOFA] {
        assert_eq!(SignedNote::parse(text.as_bytes()).unwrap().to_string(), text);
    }
    let note = SignedNote::parse(QUASIMODO.as_bytes()).unwrap();
    assert!(note.unverified_text().as_str().ends_with("sole:\n\ned è subito sera.\n"));
    let checkpoint = SignedCheckpoint::parse(BEHIND_THE_SOFA.as_bytes()).unwrap();
    assert_eq!(checkpoint.unverified().size(), TreeSize(20_852_163));
    assert_eq!(checkpoint.note().signatures().len(), 2);
}

fn line(name: &str) -> String {
    format!("— {name} AQIDBAU=\n")
}

#[test]
fn what_is_no_note_is_refused() {
    let malformed = |line| InvalidNote::MalformedSignature { line };
    for (note, error) in [
        (String::new(), InvalidNote::NoFinalNewline),
        ("\n".into(), InvalidNote::NoSignatures),
        ("text\n".into(), InvalidNote::NoSignatures),
        ("text\n\n".into(), InvalidNote::NoSignatures),
        (format!("text\n{}", line("key")), InvalidNote::NoSignatures),
        (format!("\n{}", line("key")), InvalidNote::NoSignatures),
        (format!("text\n\n{}", line("key").trim_end()), InvalidNote::NoFinalNewline),
        (format!("text\r\n\n{}", line("key")), InvalidNote::ControlCharacter { at: 4 }),
        (format!("te\0xt\n\n{}", line("key")), InvalidNote::ControlCharacter { at: 2 }),
        (format!("\ttext\n\n{}", line("key")), InvalidNote::ControlCharacter { at: 0 }),
        (format!("text\n\n{}\n", line("key")), InvalidNote::NoSignatures),
        (format!("text\n\n{}rest\n", line("key")), malformed(2)),
        ("text\n\n- key AQIDBAU=\n".into(), malformed(1)),
        ("text\n\n—key AQIDBAU=\n".into(), malformed(1)),
        ("text\n\n— key\n".into(), malformed(1)),
        ("text\n\n—  AQIDBAU=\n".into(), malformed(1)),
        ("text\n\n— key  AQIDBAU=\n".into(), malformed(1)),
        ("text\n\n— key AQIDBAU= \n".into(), malformed(1)),
        ("text\n\n— k+y AQIDBAU=\n".into(), malformed(1)),
        ("text\n\n— k\u{a0}y AQIDBAU=\n".into(), malformed(1)),
        ("text\n\n— key AQIDBA==\n".into(), malformed(1)),
        ("text\n\n— key AQID\n".into(), malformed(1)),
        ("text\n\n— key AQIDBAU\n".into(), malformed(1)),
        ("text\n\n— key AQIDBAV=\n".into(), malformed(1)),
        ("text\n\n— key AQID_AU=\n".into(), malformed(1)),
        (format!("text\n\n{}{}", line("key"), line("key")), InvalidNote::DuplicateSignature { line: 2 }),
    ] {
        assert_eq!(SignedNote::parse(note.as_bytes()), Err(error), "{note:?}");
    }
    assert_eq!(SignedNote::parse(b"te\xffxt\n\n"), Err(InvalidNote::NotUtf8));
}

#[test]
fn limits_of_a_note_are_kept() {
    let lines = |count: usize| (0..count).map(|at| line(&format!("key{at}"))).collect::<String>();
    assert!(SignedNote::parse(format!("text\n\n{}", lines(100)).as_bytes()).is_ok());
    let many = SignedNote::parse(format!("text\n\n{}", lines(101)).as_bytes());
    assert_eq!(many, Err(InvalidNote::TooManySignatures));
    let end = format!("\n\n{}", line("key"));
    let largest = format!("{}{end}", "x".repeat(NOTE_MAX_BYTES - end.len()));
    assert!(SignedNote::parse(largest.as_bytes()).is_ok());
    let size = NOTE_MAX_BYTES + 1;
    assert_eq!(SignedNote::parse(format!("x{largest}").as_bytes()), Err(InvalidNote::TooLarge { size }));
    let signature = SignedNote::parse(largest.as_bytes()).unwrap().signatures()[0].clone();
    let text = NoteText::new("x".repeat(NOTE_MAX_BYTES - 1) + "\n").unwrap();
    assert!(matches!(SignedNote::new(text, signature), Err(InvalidNote::TooLarge { .. })));
}

fn checkpoint(size: u64, leaf: &[u8]) -> Checkpoint {
    Checkpoint::new(ORIGIN.parse().unwrap(), TreeSize(size), Hash32::of_leaf(leaf)).unwrap()
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let root = Hash32::of_leaf(b"x");
    for (text, error) in [
        ("\n".into(), InvalidCheckpoint::Origin),
        ("origin\n".into(), InvalidCheckpoint::TooShort),
        ("origin\n1\n".into(), InvalidCheckpoint::TooShort),
        (format!("\n1\n{root}\n"), InvalidCheckpoint::Origin),
        (format!("origin\n01\n{root}\n"), InvalidCheckpoint::Size),
        (format!("origin\n+1\n{root}\n"), InvalidCheckpoint::Size),
        (format!("origin\n-1\n{root}\n"), InvalidCheckpoint::Size),
        (format!("origin\n\n{root}\n"), InvalidCheckpoint::Size),
        (format!("origin\n1 \n{root}\n"), InvalidCheckpoint::Size),
        (format!("origin\n18446744073709551616\n{root}\n"), InvalidCheckpoint::Size),
        ("origin\n1\nAAAA\n".into(), InvalidCheckpoint::Root),
        (format!("origin\n1\n{}\n", root.to_string().replace('=', "")), InvalidCheckpoint::Root),
        (format!("origin\n1\n{root}\n\n"), InvalidCheckpoint::Extension),
        (format!("origin\n1\n{root}\nextension\n\n"), InvalidCheckpoint::Extension),
        (format!("origin\n0\n{root}\n"), InvalidCheckpoint::EmptyTree),
    ] {
        assert_eq!(Checkpoint::parse(&NoteText::new(text.clone()).unwrap()), Err(error), "{text:?}");
    }
    assert_eq!("".parse::<pganalytics_core::tlog::Origin>(), Err(InvalidCheckpoint::Origin));
    assert_eq!("a\nb".parse::<pganalytics_core::tlog::Origin>(), Err(InvalidCheckpoint::Origin));
    assert_eq!(checkpoint(1, b"x").with_extension("a\nb"), Err(InvalidCheckpoint::Extension));
}

#[test]
fn a_checkpoint_is_read_as_it_was_written() {
    let empty = Checkpoint::new(ORIGIN.parse().unwrap(), TreeSize(0), Hash32::of_empty_tree()).unwrap();
    let extended = checkpoint(u64::MAX, b"x").with_extension("one").unwrap().with_extension("two ").unwrap();
    for checkpoint in [empty, extended] {
        assert_eq!(Checkpoint::parse(&checkpoint.to_text().unwrap()), Ok(checkpoint));
    }
}

#[tokio::test]
async fn only_notes_of_known_keys_are_believed() {
    let text = NoteText::new("text\n").unwrap();
    let known = log_signer();
    let keys = VerifierKeys::new(known.verifier_keys().await.unwrap()).unwrap();
    let stranger = NoteSigner::new(ORIGIN.parse().unwrap(), ToySigner::new("stranger"));
    let note = stranger.sign_note(text.clone()).await.unwrap();
    assert_eq!(note.verify(&keys, &verify), Err(NoteError::NoKnownSignature));

    let both = note.with_signature(known.sign(&text).await.unwrap()).unwrap();
    let signed = both.verify(&keys, &verify).unwrap();
    assert_eq!(signed.len(), 1);
    assert_eq!((signed[0].key.id(), signed[0].cosigned_at), (keys.iter().next().unwrap().id(), None));

    let mut forged = stranger.sign(&text).await.unwrap();
    forged.id = signed[0].key.id();
    let forged = SignedNote::new(text, forged).unwrap();
    assert!(matches!(forged.verify(&keys, &verify), Err(NoteError::BadSignature { .. })));
    let forged = both.with_signature(forged.signatures()[0].clone()).unwrap();
    assert!(matches!(forged.verify(&keys, &verify), Err(NoteError::BadSignature { .. })));
}

#[tokio::test]
async fn a_checkpoint_signed_by_two_keys_is_believed_by_who_knows_either() {
    let new = NoteSigner::new(ORIGIN.parse().unwrap(), ToySigner::new("new-log"));
    let first = signed(&checkpoint(5, b"x")).await;
    let text = first.note().unverified_text();
    let both = first.note().clone().with_signature(new.sign(text).await.unwrap()).unwrap();
    let both = SignedCheckpoint::new(both).unwrap();
    let only_new =
        CheckpointPolicy::new(ORIGIN.parse().unwrap(), new.verifier_keys().await.unwrap()).unwrap();
    assert!(both.verify(&only_new, &verify).is_ok());
    assert!(both.verify(&policy().await, &verify).is_ok());
    let found = first.verify(&only_new, &verify);
    assert_eq!(found, Err(CheckpointError::Note(NoteError::NoKnownSignature)));
}

#[tokio::test]
async fn a_checkpoint_of_another_log_is_refused() {
    let other = Checkpoint::new("other.example".parse().unwrap(), TreeSize(1), Hash32([1; 32])).unwrap();
    let found = signed(&other).await.verify(&policy().await, &verify);
    assert!(matches!(found, Err(CheckpointError::OtherLog { .. })));
}

struct Witnesses {
    clock: ManualClock,
    cosigners: Vec<Cosigner>,
    keys: Vec<VerifierKey>,
}

// The last two are keys of one witness.
async fn witnesses() -> Witnesses {
    let clock = ManualClock::new();
    let (mut cosigners, mut keys) = (Vec::new(), Vec::new());
    for (name, seed) in [("w.example/1", "w1"), ("w.example/2", "w2"), ("w.example/2", "w2-new")] {
        let cosigner = Cosigner::new(name.parse().unwrap(), ToySigner::new(seed), Arc::new(clock.clone()));
        keys.extend(cosigner.verifier_keys().await.unwrap());
        cosigners.push(cosigner);
    }
    Witnesses { clock, cosigners, keys }
}

async fn cosigned(mut checkpoint: SignedCheckpoint, by: &[&Cosigner]) -> SignedCheckpoint {
    for cosigner in by {
        let line = cosigner.cosign(checkpoint.note().unverified_text()).await.unwrap();
        checkpoint = SignedCheckpoint::new(checkpoint.note().clone().with_signature(line).unwrap()).unwrap();
    }
    checkpoint
}

#[tokio::test]
async fn a_quorum_counts_each_witness_once() {
    let Witnesses { clock, cosigners, keys } = witnesses().await;
    let policy = policy().await.with_witnesses(keys, 2).unwrap();
    let [first, second, second_new] = &cosigners[..] else { unreachable!() };
    let checkpoint = signed(&checkpoint(5, b"x")).await;

    let found = checkpoint.verify(&policy, &verify);
    assert_eq!(found, Err(CheckpointError::TooFewWitnesses { found: 0, quorum: 2 }));
    let twice = cosigned(cosigned(checkpoint.clone(), &[second]).await, &[second_new]).await;
    clock.advance(Duration::from_secs(60));
    let thrice = cosigned(twice, &[second]).await;
    let found = thrice.verify(&policy, &verify);
    assert_eq!(found, Err(CheckpointError::TooFewWitnesses { found: 1, quorum: 2 }));

    let believed = cosigned(thrice, &[first]).await.verify(&policy, &verify).unwrap();
    assert_eq!(believed.witnesses().len(), 2);
    let times: Vec<Option<u64>> = believed.signed().iter().map(|signed| signed.cosigned_at).collect();
    let (start, later) = (Some(1_767_225_600), Some(1_767_225_660));
    assert_eq!(times, [None, start, start, later, later]);
}

#[tokio::test]
async fn a_cosignature_with_another_time_is_refused() {
    let Witnesses { cosigners, keys, .. } = witnesses().await;
    let policy = policy().await.with_witnesses(keys, 1).unwrap();
    let checkpoint = signed(&checkpoint(5, b"x")).await;
    let mut line = cosigners[0].cosign(checkpoint.note().unverified_text()).await.unwrap();
    line.bytes[7] ^= 1;
    let forged = SignedCheckpoint::new(checkpoint.note().clone().with_signature(line).unwrap()).unwrap();
    let found = forged.verify(&policy, &verify);
    assert!(matches!(found, Err(CheckpointError::Note(NoteError::BadSignature { .. }))));
}

#[tokio::test]
async fn witnesses_do_not_replace_the_log() {
    let Witnesses { cosigners, keys, .. } = witnesses().await;
    let policy = policy().await.with_witnesses(keys, 1).unwrap();
    let text = checkpoint(5, b"x").to_text().unwrap();
    let line = cosigners[0].cosign(&text).await.unwrap();
    let unsigned = SignedCheckpoint::new(SignedNote::new(text, line).unwrap()).unwrap();
    assert_eq!(unsigned.verify(&policy, &verify), Err(CheckpointError::NotSignedByLog));
}

#[tokio::test]
async fn policies_without_sense_are_refused() {
    let Witnesses { keys, .. } = witnesses().await;
    let log_keys = log_signer().verifier_keys().await.unwrap();
    let origin = || ORIGIN.parse().unwrap();
    assert_eq!(CheckpointPolicy::new(origin(), []), Err(InvalidPolicy::NoLogKey));
    let wrong_kind = CheckpointPolicy::new(origin(), keys.clone());
    assert!(matches!(wrong_kind, Err(InvalidPolicy::WrongKind { .. })));
    let wrong_kind = policy().await.with_witnesses(log_keys.clone(), 1);
    assert!(matches!(wrong_kind, Err(InvalidPolicy::WrongKind { .. })));
    let too_few = policy().await.with_witnesses(keys.clone(), 3);
    assert_eq!(too_few, Err(InvalidPolicy::TooFewWitnesses { quorum: 3, witnesses: 2 }));
    let again = VerifierKey::new("w.example/3".parse().unwrap(), keys[0].kind(), *keys[0].public_key());
    let shared = policy().await.with_witnesses([keys[0].clone(), again], 1);
    assert!(matches!(shared, Err(InvalidPolicy::SharedKey { .. })));
    let of_log = log_keys[0].public_key();
    let of_log = VerifierKey::new("w.example/4".parse().unwrap(), NoteKeyKind::Cosignature, *of_log);
    let shared = policy().await.with_witnesses([of_log], 1);
    assert!(matches!(shared, Err(InvalidPolicy::SharedKey { .. })));
}

#[test]
fn growth_is_checked_from_checkpoint_to_checkpoint() {
    let leaves: Vec<Hash32> = (0..9_u8).map(|entry| Hash32::of_leaf(&[entry])).collect();
    let at = |size: usize| {
        let mut tree = pganalytics_core::tlog::CompactRange::new();
        leaves[..size].iter().for_each(|leaf| {
            tree.append(*leaf).unwrap();
        });
        Checkpoint::new(ORIGIN.parse().unwrap(), tree.size(), tree.root()).unwrap()
    };
    let proof = |old: u64| ConsistencyProof::from_leaves(TreeSize(old), &leaves).unwrap();
    let empty = ConsistencyProof { path: Vec::new() };
    assert_eq!(at(4).check_growth(&at(9), &proof(4)), Ok(()));
    assert_eq!(at(0).check_growth(&at(9), &empty), Ok(()));
    assert_eq!(at(9).check_growth(&at(9), &empty), Ok(()));
    let long = ProofError::WrongLength { expected: 0, found: proof(4).path.len() };
    assert_eq!(at(0).check_growth(&at(9), &proof(4)), Err(GrowthError::Proof(long)));
    let shrunk = GrowthError::Shrunk { from: TreeSize(9), to: TreeSize(4) };
    assert_eq!(at(9).check_growth(&at(4), &proof(4)), Err(shrunk));
    // A complete old tree is the seed of the proof, so that the fault shows at the new root.
    let mismatch = GrowthError::Proof(ProofError::RootMismatch { size: TreeSize(9) });
    assert_eq!(checkpoint(4, b"other").check_growth(&at(9), &proof(4)), Err(mismatch.clone()));
    let two = GrowthError::TwoHistories { size: TreeSize(9) };
    assert_eq!(checkpoint(9, b"other").check_growth(&at(9), &empty), Err(two));
    let other = Checkpoint::new("other.example".parse().unwrap(), TreeSize(4), *at(4).root()).unwrap();
    assert!(matches!(other.check_growth(&at(9), &proof(4)), Err(GrowthError::OtherLog { .. })));
}
