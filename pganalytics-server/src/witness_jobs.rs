//! Having the audit log cosigned, and watching that it is.

use pganalytics_core::tlog::WitnessOutcome;
use pganalytics_store::postgres::{AskedWitness, StoreError, WitnessStanding};

use crate::api::error_chain;
use crate::app::App;
use crate::wiring::WitnessLag;

/// Asks the witnesses of the log. Whatever they answer, the log goes on.
pub(crate) async fn ask_witnesses(app: App) -> Result<(), StoreError> {
    let Some(witnesses) = &app.log_witnesses else { return Ok(()) };
    match witnesses.asking.ask().await {
        Ok(asked) => asked.iter().for_each(tell),
        Err(error) => {
            tracing::warn!(error = %error_chain(&error), "the witnesses of the audit log were not asked");
        }
    }
    Ok(())
}

fn tell(asked: &AskedWitness) {
    let witness = asked.witness.as_str();
    let outcome = match &asked.outcome {
        Ok(WitnessOutcome::Cosigned { .. }) => "cosigned",
        Ok(outcome @ (WitnessOutcome::Ahead { .. } | WitnessOutcome::OtherHistory { .. })) => {
            tracing::error!(
                witness,
                ?outcome,
                "a witness has seen another history of the audit log: it was restored to an earlier state, or forked"
            );
            "other_history"
        }
        Ok(outcome) => {
            tracing::warn!(witness, ?outcome, "a witness does not cosign the audit log");
            "refused"
        }
        Err(error) => {
            tracing::warn!(witness, error = %error_chain(error), "a witness of the audit log gave no answer");
            "no_answer"
        }
    };
    if asked.is_new_finding {
        metrics::counter!("pganalytics_audit_findings_total").increment(1);
    }
    metrics::counter!(
        "pganalytics_audit_witness_answers_total", "witness" => witness.to_owned(), "outcome" => outcome
    )
    .increment(1);
}

/// Shows how far each witness has cosigned, and raises the alarm when one is too far behind.
pub(crate) async fn watch_witnesses(app: App) -> Result<(), StoreError> {
    let Some(witnesses) = &app.log_witnesses else { return Ok(()) };
    for WitnessLag { standing, is_overdue } in witnesses.look().await? {
        let label = [("witness", standing.witness.clone())];
        metrics::gauge!("pganalytics_audit_witness_lag_seconds", &label).set(standing.lag.as_secs_f64());
        let refuses = f64::from(u8::from(standing.refusal.is_some()));
        metrics::gauge!("pganalytics_audit_witness_refuses", &label).set(refuses);
        if is_overdue {
            let WitnessStanding { witness, lag, refusal, .. } = standing;
            tracing::error!(witness, ?lag, refusal, "a witness has not cosigned the audit log for too long");
        }
    }
    Ok(())
}
