//! Single events that are given away with their proof.

use pganalytics_core::audit::{EventProof, EventProofError, PersonalField};
use pganalytics_core::tlog::{CheckpointPolicy, VerifierKey};
use pganalytics_crypto::ed25519::verify;
use pganalytics_store::postgres::{AuditProver, EventProving};

use super::fixture::{LOG, ProvedLog};
use crate::samples::{at, uuid};

async fn policy(log: &ProvedLog) -> CheckpointPolicy {
    let keys: Vec<VerifierKey> = log.note_signer().verifier_keys().await.unwrap();
    CheckpointPolicy::new(format!("{LOG}/1").parse().unwrap(), keys).unwrap()
}

async fn prove(log: &ProvedLog, number: u128) -> EventProving {
    let prover = AuditProver::new(log.database.clone(), log.target.clone());
    prover.prove(at(number as i64), uuid(number)).await.unwrap()
}

#[tokio::test]
async fn event_is_proved_to_a_stranger() {
    let Some(log) = ProvedLog::sealed().await else { return };
    let policy = policy(&log).await;
    for number in [0, 9, 10, 23, 29] {
        let EventProving::Proof(proof) = prove(&log, number).await else { panic!("event {number}") };
        let text = proof.to_string();
        let read = EventProof::parse(text.as_bytes()).unwrap();
        assert_eq!(read, *proof);
        let proved = read.verify(&policy, &verify).unwrap();
        assert_eq!((proved.index().0, proved.row().id), (number as u64, uuid(number)));
        assert_eq!(proved.personal(PersonalField::ActorName), Some("Ada"));
        assert_eq!(proved.personal(PersonalField::Address), Some("192.0.2.1"));
        assert_eq!(proved.to_json()["event"]["resource"]["id"], number.to_string());
        // Foreign tools read the bundle, which carries the entry.
        read.bundle().verify_carried_entry(&policy, &verify).unwrap();

        let discreet = read.without(PersonalField::ActorName);
        assert_eq!(discreet.verify(&policy, &verify).unwrap().personal(PersonalField::ActorName), None);
        let forged = EventProof::parse(text.replace("Ada", "Eve").as_bytes()).unwrap();
        assert_eq!(forged.verify(&policy, &verify), Err(EventProofError::Opening { field: "actor_name" }));
    }
}

#[tokio::test]
async fn event_that_cannot_be_proved_says_why() {
    let Some(log) = ProvedLog::sealed().await else { return };
    log.append(40..41).await;
    assert_eq!(prove(&log, 39).await, EventProving::NoEvent);
    assert_eq!(prove(&log, 40).await, EventProving::NotSealed);
    log.attack(&format!("UPDATE audit_events SET reason = 'x' WHERE id = '{}'", uuid(4))).await;
    assert_eq!(prove(&log, 4).await, EventProving::Differs);
    log.attack(&format!("DELETE FROM audit_personal WHERE id = '{}'", uuid(5))).await;
    let EventProving::Proof(proof) = prove(&log, 5).await else { panic!() };
    let proved = proof.verify(&policy(&log).await, &verify).unwrap();
    assert_eq!(proved.personal(PersonalField::ActorName), None);
}
