//! Processor time, as the scheduler of Linux counts it: the first field of `schedstat` (proc(5)), in nanoseconds. That of a
//! thread which is running is as old as the last tick.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// Long beside a tick.
const WINDOW: Duration = Duration::from_millis(400);

/// Does work again and again, and yields how often it was done in a second of this thread's processor time.
pub(crate) async fn per_second(mut work: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (before, started) = (of_this_thread()?, Instant::now());
    let mut times = 0.0;
    while started.elapsed() < WINDOW {
        work().await?;
        times += 1.0;
    }
    let spent = of_this_thread()?.saturating_sub(before);
    ensure!(!spent.is_zero(), "the thread spent no processor time");
    Ok(times / spent.as_secs_f64())
}

pub(crate) fn of_this_thread() -> anyhow::Result<Duration> {
    of(Path::new("/proc/thread-self"))
}

/// That of a process with one thread.
pub(crate) fn of_process(pid: u32) -> anyhow::Result<Duration> {
    of(&Path::new("/proc").join(pid.to_string()))
}

/// That of all threads of this process that live.
pub(crate) fn of_all_threads() -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread may end while it is looked at.
        sum += of(&thread?.path()).unwrap_or_default();
    }
    Ok(sum)
}

/// That of all children of a process that live, each with one thread.
pub(crate) fn of_children(parent: u32) -> anyhow::Result<Duration> {
    let parent = parent.to_string();
    let mut sum = Duration::ZERO;
    for process in std::fs::read_dir("/proc")? {
        let folder = process?.path();
        // A process may end while it is looked at.
        let Ok(stat) = std::fs::read_to_string(folder.join("stat")) else { continue };
        let of_process = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1));
        if of_process == Some(parent.as_str()) {
            sum += of(&folder).unwrap_or_default();
        }
    }
    Ok(sum)
}

fn of(folder: &Path) -> anyhow::Result<Duration> {
    let schedstat = std::fs::read_to_string(folder.join("schedstat"))?;
    let nanos = schedstat.split_whitespace().next().context("the first field")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}
