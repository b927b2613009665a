//! Sealing events as they lie in the table: reading them in order, checking the checksums of their writers, growing the tree,
//! signing its checkpoint and anchoring it with its tiles on a disk that is synced. Beside reading as many rows, as fresh, in
//! the same order over one connection. That peer is a bound: it looks at nothing of what it reads, and keeps nothing.

use anyhow::ensure;

use crate::audit_verify::summaries;
use crate::cost::{Cost, of_all};
use crate::sealed_log::{SealedLog, read_all};

use crate::report::Summary;

pub(crate) const NAME: &str = "seal/ordered_read";
const CPU: &str = "seal/ordered_read_cpu";

/// Two seals, each as large as the sealer makes them.
const ROWS: usize = 32_000;

const COLUMNS: &str = "e.at, e.id, e.writer, e.writer_sequence, e.actor_kind, e.actor_id, e.actor_role, e.action, \
    e.resource_type, e.resource_id, e.outcome, e.reason, e.request_id, e.session_id, e.provider, \
    e.actor_name_commitment, e.address_commitment, e.user_agent_commitment, e.changes_commitment, e.mac, e.era, e.xid";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Vec<Summary>> {
    let mut log = SealedLog::start().await?;
    let mut connection = log.database.direct().await?;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        log.write(ROWS).await?;
        sqlx::raw_sql("ANALYZE audit_events; CHECKPOINT").execute(&mut connection).await?;
        let ours = async {
            ensure!(log.seal().await? == ROWS as u64, "each event is sealed");
            Ok(())
        };
        let ours = of_all(&log.postgres, ours).await?;
        let last: String =
            sqlx::query_scalar("SELECT max(xid)::text FROM audit_events").fetch_one(&mut connection).await?;
        log.write(ROWS).await?;
        sqlx::raw_sql("ANALYZE audit_events; CHECKPOINT").execute(&mut connection).await?;
        let rows = format!(
            "SELECT {COLUMNS} FROM audit_events e WHERE e.era = 1 AND e.xid > '{last}'::xid8 \
             ORDER BY e.xid, e.at, e.id"
        );
        let peer = async {
            let bytes = read_all(&mut connection, &rows).await?;
            ensure!(bytes > ROWS * 300 && bytes < ROWS * 1000, "as many rows are read");
            Ok(())
        };
        let peer = of_all(&log.postgres, peer).await?;
        log.seal().await?;
        if round > 0 {
            wall.push(Cost::speeds(ROWS, ours.wall, peer.wall));
            cpu.push(Cost::speeds(ROWS, ours.cpu, peer.cpu));
        }
    }
    Ok(summaries((NAME, &wall), (CPU, &cpu)))
}
