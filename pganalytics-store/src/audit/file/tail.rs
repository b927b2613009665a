use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use pganalytics_core::audit::{Actor, AuditEvent, Outcome};
use pganalytics_core::clock::Clock;
use pganalytics_core::ids::EventId;
use pganalytics_core::random::{Random, RandomExt};
use serde_json::value::RawValue;

const STEP: u64 = 64 * 1024;

/// Cuts the last line off if it is not whole, and yields what stood there. A line that lacks only its end is completed.
pub(super) fn take_torn_line(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let length = file.metadata()?.len();
    let start = end_of_whole_lines(file, length)?;
    if start == length {
        return Ok(None);
    }
    let mut line = vec![0; usize::try_from(length - start).map_err(|_| io::ErrorKind::OutOfMemory)?];
    file.read_exact_at(&mut line, start)?;
    if serde_json::from_slice::<&RawValue>(&line).is_ok() {
        io::Write::write_all(file, b"\n")?;
        return Ok(None);
    }
    file.set_len(start)?;
    Ok(Some(line))
}

/// Tells what was found, which nobody had been told is recorded.
pub(super) fn torn_event(torn: &[u8], clock: &dyn Clock, random: &dyn Random) -> AuditEvent {
    let action = "audit.torn".parse().expect("it is an action");
    let id = EventId(random.uuid_v7(clock));
    let mut event = AuditEvent::new(id, clock.now(), Actor::system("audit"), action, Outcome::Failure);
    event.reason = Some(format!(
        "a crash left {} bytes of a line that was never acknowledged: {}",
        torn.len(),
        String::from_utf8_lossy(torn)
    ));
    event.bounded()
}

fn end_of_whole_lines(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut buffer = vec![0; STEP as usize];
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let part = &mut buffer[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
