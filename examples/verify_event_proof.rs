//! Verifies the proofs of single events as somebody who has nothing else: no server, no database, no copy of the log. The key has to
//! come to you by another way than the proofs.
//!
//! ```text
//! cargo run -p examples --example verify_event_proof -- example.com/audit/1 'example.com/audit+1a2b3c4d+AZ…' proof.json
//! ```
//!
//! A proof is what `/api/v1/audit/events/{id}/proof` answers. That the log has the event is then certain, and that its personal fields
//! are those that were recorded; that the log shows all people the same history is not. Where the key of a witness is given
//! besides (with a comma between, as for keys that followed each other), it must have cosigned the tree which the event is in.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::fs;

use anyhow::{Context, bail};
use pganalytics_core::audit::{EventProof, ProvedEvent};
use pganalytics_core::tlog::{CheckpointPolicy, InvalidPolicy, NoteKeyKind, Origin, VerifierKey};
use pganalytics_crypto::ed25519::verify;

/// Believes this log, signed with one of its keys and by every witness that has a key here.
fn policy(log: Origin, keys: Vec<VerifierKey>) -> Result<CheckpointPolicy, InvalidPolicy> {
    let (witnesses, keys): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|key| key.kind() == NoteKeyKind::Cosignature);
    CheckpointPolicy::new(log, keys)?.with_every_witness(witnesses)
}

fn verify_proof(policy: &CheckpointPolicy, proof: &[u8]) -> anyhow::Result<ProvedEvent> {
    Ok(EventProof::parse(proof)?.verify(policy, &verify)?)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [log, keys, files @ ..] = &arguments[..] else {
        bail!("give the name of the log, its key, and files of proofs");
    };
    let keys = keys.split(',').map(str::parse).collect::<Result<Vec<VerifierKey>, _>>()?;
    let policy = policy(log.parse()?, keys)?;
    for file in files {
        let event = verify_proof(&policy, &fs::read(file)?).with_context(|| file.clone())?;
        let checkpoint = event.checkpoint().checkpoint();
        println!("{:#}", event.to_json());
        println!("is entry {} of the {} of {}", event.index(), checkpoint.size(), checkpoint.origin());
        for witness in event.checkpoint().witnesses() {
            println!("as {witness} has cosigned");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server made it, and another one cosigned it.
    const PROOF: &str = include_str!("event-proof.json");
    const LOG: &str = "a.example/audit/1";
    const LOG_KEY: &str = "a.example/audit+a62539e6+ARdhmxJ3SUiBaDfy+2PiiNP65YOt7CoK1jps6Ey1kXLe";
    const WITNESS_KEY: &str = "b.example/witness+bd38f1ec+BGMfen1MI0aqrWhsWwAQduVfYp1d+r1ol1UkNdnz3r20";

    fn verified(log: &str, keys: &[&str], proof: &str) -> anyhow::Result<ProvedEvent> {
        let keys = keys.iter().map(|key| key.parse().unwrap()).collect();
        verify_proof(&policy(log.parse().unwrap(), keys).unwrap(), proof.as_bytes())
    }

    #[test]
    fn proof_holds_with_nothing_but_the_keys() {
        for keys in [&[LOG_KEY][..], &[LOG_KEY, WITNESS_KEY]] {
            let event = verified(LOG, keys, PROOF).unwrap().to_json();
            assert_eq!(event["event"]["action"], "registration_secret.create", "{event}");
            assert_eq!(event["event"]["actor_name"], "admin", "{event}");
        }
    }

    #[test]
    fn proof_that_was_touched_or_is_of_others_is_refused() {
        verified("a.example/audit/2", &[LOG_KEY], PROOF).unwrap_err();
        let stranger =
            VerifierKey::new("b.example/witness".parse().unwrap(), NoteKeyKind::Cosignature, [7; 32]);
        verified(LOG, &[LOG_KEY, &stranger.to_string()], PROOF).unwrap_err();
        // The name of the actor, the entry, its place, the proof, the size of the tree, its signature.
        for (is, forged) in [
            ("\"admin\"", "\"eve\""),
            ("AAAHc3VjY2Vzc", "AAAHc3VjY2Vzd"),
            ("index 11\\n", "index 12\\n"),
            ("v04y8PdV", "v04y8PdW"),
            ("\\n14\\n", "\\n15\\n"),
            ("3zwzR2oe", "3zwzR2of"),
        ] {
            assert!(PROOF.contains(is), "{is}");
            verified(LOG, &[LOG_KEY], &PROOF.replace(is, forged)).unwrap_err();
        }
    }
}
