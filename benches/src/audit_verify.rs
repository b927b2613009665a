//! Proving the audit log against its anchors, with every checksum and personal field, beside reading the same rows back in the
//! same order over one connection. That peer is a bound: it looks at nothing of what it reads.

use anyhow::ensure;

use crate::cost::{Cost, of_all};
use crate::report::{Better, Round, Summary};
use crate::sealed_log::{SealedLog, read_all};

pub(crate) const NAME: &str = "verify/ordered_read";
const CPU: &str = "verify/ordered_read_cpu";

const SEALS: usize = 50;
const SEALED_AT_ONCE: usize = 2000;
const ROWS: usize = SEALS * SEALED_AT_ONCE;

const READ: &str = "SELECT e.at, e.id, e.writer, e.writer_sequence, e.actor_kind, e.actor_id, e.actor_role, e.action, \
    e.resource_type, e.resource_id, e.outcome, e.reason, e.request_id, e.session_id, e.provider, \
    e.actor_name_commitment, e.address_commitment, e.user_agent_commitment, e.changes_commitment, e.mac, e.era, e.xid, \
    p.actor_name, p.actor_name_salt, p.address, p.address_salt, p.user_agent, p.user_agent_salt, p.changes, \
    p.changes_salt \
    FROM audit_events e LEFT JOIN audit_personal p ON p.at = e.at AND p.id = e.id ORDER BY e.xid, e.at, e.id";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let mut log = SealedLog::start().await?;
    for _ in 0..SEALS {
        log.write(SEALED_AT_ONCE).await?;
        log.seal().await?;
    }
    let mut connection = log.database.direct().await?;
    sqlx::raw_sql("VACUUM ANALYZE audit_events, audit_personal").execute(&mut connection).await?;
    let verifier = log.verifier().await?;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        let ours = async {
            let report = verifier.verify(|_| {}).await?;
            ensure!(report.is_clean() && report.rows as usize == ROWS, "{report}");
            Ok(())
        };
        let ours = of_all(&log.postgres, ours).await?;
        let peer = async {
            let bytes = read_all(&mut connection, READ).await?;
            ensure!(bytes > ROWS * 500, "each row is read");
            Ok(())
        };
        let peer = of_all(&log.postgres, peer).await?;
        if round > 0 {
            wall.push(Cost::speeds(ROWS, ours.wall, peer.wall));
            cpu.push(Cost::speeds(ROWS, ours.cpu, peer.cpu));
        }
    }
    Ok(summaries((NAME, &wall), (CPU, &cpu)))
}

/// Of what was done by the clock and by the processor.
pub(crate) fn summaries(
    (name, wall): (&'static str, &[Round]),
    (cpu_name, cpu): (&'static str, &[Round]),
) -> Vec<Summary> {
    vec![
        Summary::of(name, "events/s", Better::More, wall),
        Summary::of(cpu_name, "events a CPU second", Better::More, cpu),
    ]
}
