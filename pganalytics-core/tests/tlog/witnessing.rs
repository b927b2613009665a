//! Asking witnesses, and what their answers tell.

use std::sync::Arc;

use async_trait::async_trait;
use pganalytics_core::backup::MemoryBackupTarget;
use pganalytics_core::testing::witness::WitnessFixture;
use pganalytics_core::testing::{ManualClock, Subject};
use pganalytics_core::tlog::{
    AddCheckpoint, AskWitnessError, Cosigner, KnownWitness, MemoryWitness, NoteSigner, SignedCheckpoint,
    TreeEdge, TreeSize, VerifierKey, Witness, WitnessError, WitnessOutcome, WitnessRefusal, WitnessVerdict,
};

use crate::support::{
    ORIGIN, ToySigner, checkpoint_of, grown, grown_by, log_signer, memory, open, policy, signed, store,
    verify, write_log,
};

fn cosigner(seed: &'static str) -> Cosigner {
    Cosigner::new("witness.example/w".parse().unwrap(), ToySigner::new(seed), Arc::new(ManualClock::new()))
}

async fn key(seed: &'static str) -> VerifierKey {
    cosigner(seed).verifier_keys().await.unwrap().remove(0)
}

async fn witness() -> MemoryWitness {
    MemoryWitness::new([policy().await], cosigner("witness"), Arc::new(verify))
}

async fn fixture(witness: Arc<dyn Witness>) -> Option<WitnessFixture> {
    let subject = (Subject::real_time(witness), key("witness").await);
    let stranger = NoteSigner::new(ORIGIN.parse().unwrap(), ToySigner::new("stranger"));
    Some(WitnessFixture::new(subject, (ORIGIN.parse().unwrap(), log_signer()), stranger, Arc::new(verify)))
}

mod kept_in_memory {
    use super::*;

    pganalytics_core::witness_contract!(async { fixture(Arc::new(witness().await)).await });
}

mod boxed {
    use super::*;

    pganalytics_core::witness_contract!(async {
        let boxed: Box<dyn Witness> = Box::new(witness().await);
        fixture(Arc::new(boxed)).await
    });
}

async fn ask(
    target: &MemoryBackupTarget,
    witness: impl Witness,
    known: u64,
) -> Result<WitnessOutcome, AskWitnessError> {
    let published = store(target).reader().checkpoint().await.unwrap().unwrap();
    let mut tree = open(target, published.unverified()).await;
    let witness = KnownWitness::new(key("witness").await, Arc::new(witness));
    witness.cosign(&published, &mut tree, TreeSize(known), &verify).await
}

#[tokio::test]
async fn whatever_the_log_believes_the_witness_to_know_it_is_asked_for_what_it_knows() {
    let (target, witness) = (memory(), witness().await);
    for (size, known) in [(300, 0), (300, 300), (301, 0), (800, 17), (900, 5000)] {
        let published = store(&target).reader().checkpoint().await.unwrap();
        if published.is_none_or(|published| published.unverified().size() < TreeSize(size)) {
            extend(&target, size).await;
        }
        let outcome = ask(&target, witness.clone(), known).await.unwrap();
        assert!(matches!(outcome, WitnessOutcome::Cosigned { .. }), "{size} {known}: {outcome:?}");
    }
}

/// Goes on from what is published.
async fn extend(target: &MemoryBackupTarget, size: u64) {
    let store = store(target);
    let edge = match store.reader().checkpoint().await.unwrap() {
        None => TreeEdge::new(),
        Some(published) => open(target, published.unverified()).await.edge().await.unwrap(),
    };
    let growth = grown(edge, size);
    store.extend(&growth, &signed(&checkpoint_of(&growth)).await).await.unwrap();
}

#[tokio::test]
async fn log_that_went_back_or_forked_is_told_by_its_witness() {
    let (target, witness) = (memory(), witness().await);
    write_log(&store(&target), &[300, 400]).await;
    ask(&target, witness.clone(), 0).await.unwrap();

    let restored = memory();
    write_log(&store(&restored), &[300]).await;
    let ahead = WitnessOutcome::Ahead { known: TreeSize(400) };
    assert_eq!(ask(&restored, witness.clone(), 300).await.unwrap(), ahead);

    for size in [400, 500] {
        let forked = memory();
        let growth = grown_by(TreeEdge::new(), size, |index| format!("other {index}").into());
        store(&forked).extend(&growth, &signed(&checkpoint_of(&growth)).await).await.unwrap();
        let other = WitnessOutcome::OtherHistory { known: TreeSize(400) };
        assert_eq!(ask(&forked, witness.clone(), 0).await.unwrap(), other, "{size}");
    }
}

/// Answers everything alike.
#[derive(Clone, Debug)]
struct Stubborn(WitnessVerdict);

#[async_trait]
impl Witness for Stubborn {
    fn name(&self) -> &'static str {
        "stubborn"
    }

    async fn add_checkpoint(&self, _: &AddCheckpoint) -> Result<WitnessVerdict, WitnessError> {
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn cosignature_is_believed_only_under_the_key_of_the_witness() {
    let target = memory();
    write_log(&store(&target), &[10, 20]).await;
    let reader = store(&target).reader().clone();
    let published = reader.checkpoint().await.unwrap().unwrap();
    let earlier = reader.anchored_after(TreeSize(0)).await.unwrap().unwrap();
    let line = async |seed, checkpoint: &SignedCheckpoint| {
        cosigner(seed).cosign(checkpoint.note().unverified_text()).await.unwrap()
    };
    let (own, stranger) = (line("witness", &published).await, line("stranger", &published).await);
    let of_another = line("witness", &earlier).await;
    for lines in [vec![stranger.clone()], vec![of_another.clone()], vec![]] {
        let refused = ask(&target, Stubborn(WitnessVerdict::Cosigned(lines)), 0).await;
        assert!(matches!(refused, Err(AskWitnessError::NotCosigned { .. })), "{refused:?}");
    }
    let lines = WitnessVerdict::Cosigned(vec![stranger, of_another, own.clone()]);
    let outcome = ask(&target, Stubborn(lines), 0).await.unwrap();
    assert!(matches!(outcome, WitnessOutcome::Cosigned { signature, .. } if signature == own));
}

#[tokio::test]
async fn witness_that_names_another_size_each_time_is_given_up() {
    let target = memory();
    write_log(&store(&target), &[10, 20]).await;
    let known = TreeSize(7);
    let stubborn = Stubborn(WitnessVerdict::Refused(WitnessRefusal::OtherSize { known }));
    assert!(matches!(ask(&target, stubborn, 3).await, Err(AskWitnessError::Restless { .. })));
    let unknown = Stubborn(WitnessVerdict::Refused(WitnessRefusal::UnknownLog));
    let refused = WitnessOutcome::Refused(WitnessRefusal::UnknownLog);
    assert_eq!(ask(&target, unknown, 3).await.unwrap(), refused);
}

#[tokio::test]
async fn answers_over_http_are_read_exactly_or_are_none() {
    let target = memory();
    write_log(&store(&target), &[10]).await;
    let published = store(&target).reader().checkpoint().await.unwrap().unwrap();
    let mut tree = open(&target, published.unverified()).await;
    let proof = tree.prove_consistency(TreeSize(4)).await.unwrap();
    let request = AddCheckpoint::new(TreeSize(4), proof, published.clone());
    let line = cosigner("witness").cosign(published.note().unverified_text()).await.unwrap();
    let read = |status, body: &str| WitnessVerdict::of_answer(&request, status, body.as_bytes());
    let refused = |refusal| Some(WitnessVerdict::Refused(refusal));
    assert_eq!(read(200, &line.to_string()), Some(WitnessVerdict::Cosigned(vec![line.clone()])));
    assert_eq!(read(409, "17\n"), refused(WitnessRefusal::OtherSize { known: TreeSize(17) }));
    assert_eq!(read(403, "no"), refused(WitnessRefusal::NotSigned));
    assert_eq!(read(404, ""), refused(WitnessRefusal::UnknownLog));
    assert_eq!(read(422, ""), refused(WitnessRefusal::Inconsistent));
    for (status, body) in [
        (200, ""),
        (200, "\n"),
        (200, "fine\n"),
        (200, &format!("more text\n\n{line}")),
        (200, line.to_string().trim_end()),
        (409, "17"),
        (409, "017\n"),
        (409, "-1\n"),
        (409, "two histories\n"),
        (400, ""),
        (500, ""),
        (302, ""),
    ] {
        assert_eq!(read(status, body), None, "{status} {body:?}");
    }
}

#[tokio::test]
async fn cosigned_checkpoint_lies_beside_the_published_one_and_never_goes_back() {
    let target = memory();
    let store = store(&target);
    write_log(&store, &[10, 20]).await;
    let reader = store.reader();
    assert_eq!(reader.cosigned().await.unwrap(), None);
    let published = reader.checkpoint().await.unwrap().unwrap();
    let earlier = reader.anchored_after(TreeSize(0)).await.unwrap().unwrap();
    for checkpoint in [&earlier, &published, &earlier] {
        store.put_cosigned(checkpoint).await.unwrap();
    }
    assert_eq!(reader.cosigned().await.unwrap(), Some(published.clone()));
    assert_eq!(reader.checkpoint().await.unwrap(), Some(published));
}
