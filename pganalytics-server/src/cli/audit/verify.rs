use std::fs;
use std::path::PathBuf;

use clap::Args;
use pganalytics_core::tlog::{SignedCheckpoint, VerifierKey};
use pganalytics_store::postgres::{AuditReport, AuditVerifyError, Finding};
use serde::Serialize;

use crate::cli::progress::Progress;
use crate::cli::{Failure, operator, print};
use crate::config::ServerConfig;
use crate::wiring::{self, AuditKeySource, AuditKeys, GivenKeys};

/// Prove every event in the database by the anchored log, and name what was changed, deleted or inserted.
///
/// It only reads. Events that wait to be sealed are counted, and their checksums are verified.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(in crate::cli) struct Verify {
    /// A key of the log that you have by a way of your own, as `name+id+key`; may be given several times. Else those of
    /// `audit.log.trusted_keys` are believed, or, if there are none, those in the database.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<VerifierKey>,
    /// The key of a witness that you have by a way of your own, as `name+id+key`; may be given several times. All of them must have
    /// cosigned the log; else those of `audit.log.witnesses` are demanded.
    #[arg(long = "witness", value_name = "KEY")]
    witnesses: Vec<VerifierKey>,
    /// A checkpoint that you kept from earlier, or was shown elsewhere: the log must have it as its beginning; may be given
    /// several times.
    #[arg(long = "kept", value_name = "FILE")]
    kept: Vec<PathBuf>,
    /// Take it for tampering, too, where a row has no checksum of its writer, or one by a key that is not there. That data keys
    /// were made is recorded before there is one to sign with.
    #[arg(long)]
    strict: bool,
    /// Leave out the checksums of the writers, for which the data keys are needed: rows that were changed before they were
    /// sealed are not found then.
    #[arg(long, conflicts_with = "strict")]
    without_checksums: bool,
    /// Connections that read at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What the codes mean here.
const CODES: &str = "Exit codes: 0 everything is as it was sealed, 3 something is not, and the report names it, 4 everything is, but \
    events wait to be sealed for longer than they may. With any other code nothing was verified: 1 a file that was named cannot be read, 2 wrong arguments, 69 database, anchor or keys cannot be reached, 78 wrong configuration.";

/// What was verified, and by which keys.
#[derive(Serialize)]
struct Verified<'r> {
    clean: bool,
    believed: &'r AuditKeys,
    #[serde(flatten)]
    report: &'r AuditReport,
}

pub(super) async fn run(command: Verify, config: &ServerConfig) -> Result<(), Failure> {
    let kept = command.kept.iter().map(read_checkpoint).collect::<Result<Vec<_>, _>>()?;
    let checksums = !command.without_checksums;
    let given = GivenKeys { log: command.keys, witnesses: command.witnesses };
    let (verifier, keys) = wiring::audit_verifier(config, operator(), given, checksums).await?;
    let mut verifier = verifier.with_kept(kept).with_workers(command.workers.into());
    if command.strict {
        verifier = verifier.strictly();
    }
    let shown = Progress::begin("reading the log");
    let counted = shown.clone();
    let report = verifier.verify(move |progress| {
        counted.count("proving events".into(), progress.done, progress.total);
    });
    let report = report.await;
    shown.clear();
    let report = report.map_err(not_verified)?;
    if command.json {
        let verified = Verified { clean: report.is_clean(), believed: &keys, report: &report };
        print(serde_json::to_string_pretty(&verified).map_err(Failure::internal)?);
    } else {
        show_keys(&keys);
        print(&report);
    }
    judge(&report)
}

/// How the program ends. That events wait is told apart: it is no harm while no server runs that would seal them.
fn judge(report: &AuditReport) -> Result<(), Failure> {
    let waits = |finding: &Finding| matches!(finding, Finding::SealOverdue { .. });
    match report.findings_total {
        0 => Ok(()),
        _ if report.findings.iter().all(waits) => Err(Failure::overdue(
            "events wait to be sealed for longer than they may; the rest is what was sealed",
        )),
        1 => Err(Failure::found("the audit log is not what was sealed: 1 finding")),
        findings => Err(Failure::found(format!("the audit log is not what was sealed: {findings} findings"))),
    }
}

/// Whom the report believes, which is for its reader to judge.
fn show_keys(keys: &AuditKeys) {
    let from = match keys.from {
        AuditKeySource::Given => "as given",
        AuditKeySource::Configuration => "by the configuration",
        AuditKeySource::Database => "by the database, which whoever changed the log may have changed as well",
    };
    for key in &keys.keys {
        print(format_args!("believed: {key} ({from})"));
    }
}

fn read_checkpoint(path: &PathBuf) -> Result<SignedCheckpoint, Failure> {
    let refused = |reason: String| Failure::refused(format!("{}: {reason}", path.display()));
    let bytes = fs::read(path).map_err(|error| refused(error.to_string()))?;
    SignedCheckpoint::parse(&bytes).map_err(|error| refused(error.to_string()))
}

fn not_verified(error: AuditVerifyError) -> Failure {
    match error {
        AuditVerifyError::Keys(error) => Failure::configuration(error),
        error => Failure::unavailable(error),
    }
}
