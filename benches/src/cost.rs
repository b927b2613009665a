//! What work took of this process, all its threads, and of the database server.

use std::time::{Duration, Instant};

use pganalytics_testkit::LocalPostgres;

use crate::cpu;
use crate::report::Round;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Of this process and of the database's backends that live.
    pub(crate) cpu: Duration,
}

impl Cost {
    /// How many a second, ours and the peer's.
    pub(crate) fn speeds(count: usize, ours: Duration, peer: Duration) -> Round {
        let speed = |time: Duration| count as f64 / time.as_secs_f64();
        Round { ours: speed(ours), peer: speed(peer) }
    }
}

pub(crate) async fn of_all(
    postgres: &LocalPostgres,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Cost> {
    let spent = || Ok(cpu::of_all_threads()? + cpu::of_children(postgres.pid())?);
    let (before, started): (Duration, _) = (spent()?, Instant::now());
    work.await?;
    let wall = started.elapsed();
    let after: anyhow::Result<Duration> = spent();
    Ok(Cost { wall, cpu: after?.saturating_sub(before) })
}
