//! The contract of [`Witness`], a function for each clause.

use std::fmt;
use std::sync::Arc;

use crate::testing::Subject;
use crate::testing::support::together;
use crate::tlog::{
    AddCheckpoint, Checkpoint, CheckpointPolicy, CompactRange, ConsistencyProof, Ed25519Verifier, Hash32,
    NoteSigner, Origin, SignedCheckpoint, TreeSize, VerifierKey, Witness, WitnessRefusal, WitnessVerdict,
};

/// Runs the contract of `Witness` on the adapter that the expression yields (`async` → `Option<WitnessFixture>`), which has
/// cosigned nothing.
#[macro_export]
macro_rules! witness_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::witness,
            $fixture,
            [
                a_checkpoint_that_grew_is_cosigned,
                another_history_is_never_cosigned,
                a_refusal_names_the_size_that_is_known,
                strangers_are_refused,
                of_two_histories_at_once_one_is_cosigned,
            ]
        );
    };
}

/// A witness under test, its key, and the log that it is a witness of.
pub struct WitnessFixture {
    subject: Subject<dyn Witness>,
    key: VerifierKey,
    log: (Origin, NoteSigner),
    stranger: NoteSigner,
    ed25519: Arc<dyn Ed25519Verifier>,
}

impl WitnessFixture {
    /// A witness with this key of the log that this signer signs; it does not know `stranger`, whose key has another name or
    /// bytes.
    pub fn new(
        (subject, key): (Subject<dyn Witness>, VerifierKey),
        log: (Origin, NoteSigner),
        stranger: NoteSigner,
        ed25519: Arc<dyn Ed25519Verifier>,
    ) -> Self {
        Self { subject, key, log, stranger, ed25519 }
    }

    async fn policy(&self) -> CheckpointPolicy {
        let keys = self.log.1.verifier_keys().await.expect("the log knows its keys");
        let policy = CheckpointPolicy::new(self.log.0.clone(), keys).expect("the log has a key");
        policy.with_witnesses([self.key.clone()], 1).expect("the witness has a key of its own")
    }

    async fn add(&self, request: &AddCheckpoint) -> WitnessVerdict {
        self.subject.port.add_checkpoint(request).await.expect("the witness answers")
    }

    async fn signed(&self, leaves: &[Hash32]) -> SignedCheckpoint {
        signed(&self.log.0, &self.log.1, leaves).await
    }

    /// Asks for the tree of these leaves, which grew from the first `old` of them.
    async fn request(&self, old: usize, leaves: &[Hash32]) -> AddCheckpoint {
        AddCheckpoint::new(TreeSize(old as u64), proof(old, leaves), self.signed(leaves).await)
    }

    async fn assert_cosigned(&self, old: usize, leaves: &[Hash32]) {
        let verdict = self.add(&self.request(old, leaves).await).await;
        let WitnessVerdict::Cosigned(lines) = verdict else { panic!("{verdict:?}") };
        let signed = self.signed(leaves).await;
        let note = lines.into_iter().try_fold(signed.note().clone(), |note, line| note.with_signature(line));
        let cosigned = SignedCheckpoint::new(note.expect("the lines are signatures")).expect("a checkpoint");
        let verified = cosigned.verify(&self.policy().await, &*self.ed25519).expect("it is cosigned");
        assert!(verified.witnesses().contains(self.key.name()));
    }

    async fn assert_refused(&self, request: AddCheckpoint, refusal: WitnessRefusal) {
        assert_eq!(self.add(&request).await, WitnessVerdict::Refused(refusal));
    }
}

impl fmt::Debug for WitnessFixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitnessFixture").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// Clause 1.
pub async fn a_checkpoint_that_grew_is_cosigned(fixture: WitnessFixture) {
    let leaves = leaves(700, "a");
    let mut old = 0;
    for size in [1, 2, 3, 256, 256, 600, 700] {
        fixture.assert_cosigned(old, &leaves[..size]).await;
        old = size;
    }
}

/// Clause 2.
pub async fn another_history_is_never_cosigned(fixture: WitnessFixture) {
    let (ours, other) = (leaves(20, "a"), leaves(20, "b"));
    fixture.assert_cosigned(0, &ours[..10]).await;
    let known = TreeSize(10);
    let grown = fixture.request(10, &other).await;
    fixture.assert_refused(grown, WitnessRefusal::Inconsistent).await;
    let same_size = AddCheckpoint::new(known, proof(10, &ours[..10]), fixture.signed(&other[..10]).await);
    fixture.assert_refused(same_size, WitnessRefusal::OtherSize { known }).await;
    let afresh = fixture.request(0, &other).await;
    fixture.assert_refused(afresh, WitnessRefusal::OtherSize { known }).await;
    let wrong_proof = AddCheckpoint::new(known, proof(9, &ours), fixture.signed(&ours).await);
    fixture.assert_refused(wrong_proof, WitnessRefusal::Inconsistent).await;
    fixture.assert_cosigned(10, &ours).await;
}

/// Clause 3.
pub async fn a_refusal_names_the_size_that_is_known(fixture: WitnessFixture) {
    let leaves = leaves(20, "a");
    let early = fixture.request(7, &leaves).await;
    fixture.assert_refused(early, WitnessRefusal::OtherSize { known: TreeSize::EMPTY }).await;
    fixture.assert_cosigned(0, &leaves[..10]).await;
    for old in [0, 9, 11] {
        let request = fixture.request(old, &leaves).await;
        fixture.assert_refused(request, WitnessRefusal::OtherSize { known: TreeSize(10) }).await;
    }
    fixture.assert_cosigned(10, &leaves).await;
}

/// Clause 4.
pub async fn strangers_are_refused(fixture: WitnessFixture) {
    let leaves = leaves(5, "a");
    let nothing = || ConsistencyProof { path: Vec::new() };
    let forged = signed(&fixture.log.0, &fixture.stranger, &leaves).await;
    let forged = AddCheckpoint::new(TreeSize::EMPTY, nothing(), forged);
    fixture.assert_refused(forged, WitnessRefusal::NotSigned).await;
    let unknown: Origin = format!("{}/unknown", fixture.log.0).parse().expect("a line");
    let unknown = signed(&unknown, &fixture.log.1, &leaves).await;
    let unknown = AddCheckpoint::new(TreeSize::EMPTY, nothing(), unknown);
    fixture.assert_refused(unknown, WitnessRefusal::UnknownLog).await;
}

/// Clause 5.
pub async fn of_two_histories_at_once_one_is_cosigned(fixture: WitnessFixture) {
    let fixture = Arc::new(fixture);
    let mut trunk = Vec::new();
    for round in 0..5 {
        let old = trunk.len();
        let histories =
            ["a", "b"].map(|flavour| [&trunk[..], &leaves(3, &format!("{flavour} {round}"))].concat());
        let ask = |number: usize| {
            let (fixture, history) = (Arc::clone(&fixture), histories[number % 2].clone());
            async move { fixture.add(&fixture.request(old, &history).await).await }
        };
        let verdicts = together((0..6).map(ask)).await;
        let cosigned = |history: usize| {
            let of_history = verdicts.iter().skip(history).step_by(2);
            of_history.filter(|verdict| matches!(verdict, WitnessVerdict::Cosigned(_))).count()
        };
        assert!((cosigned(0) > 0) != (cosigned(1) > 0), "{verdicts:?}");
        trunk = histories[usize::from(cosigned(1) > 0)].clone();
    }
}

fn leaves(count: u64, flavour: &str) -> Vec<Hash32> {
    (0..count).map(|number| Hash32::of_leaf(format!("{flavour} {number}").as_bytes())).collect()
}

fn proof(old: usize, leaves: &[Hash32]) -> ConsistencyProof {
    if old == 0 {
        return ConsistencyProof { path: Vec::new() };
    }
    ConsistencyProof::from_leaves(TreeSize(old as u64), leaves).expect("the tree is as large")
}

async fn signed(origin: &Origin, signer: &NoteSigner, leaves: &[Hash32]) -> SignedCheckpoint {
    let mut tree = CompactRange::new();
    for leaf in leaves {
        tree.append(*leaf).expect("there is room");
    }
    let checkpoint = Checkpoint::new(origin.clone(), tree.size(), tree.root()).expect("a checkpoint");
    let text = checkpoint.to_text().expect("it is short");
    SignedCheckpoint::new(signer.sign_note(text).await.expect("the log signs")).expect("a checkpoint")
}
