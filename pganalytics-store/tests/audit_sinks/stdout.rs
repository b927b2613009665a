use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use pganalytics_core::audit::{AuditError, AuditSink};
use pganalytics_core::testing::Subject;
use pganalytics_core::testing::audit_sink::AuditSinkFixture;
use pganalytics_store::audit::StdoutAuditSink;

use crate::samples::{event, parse_lines};

/// A pipe that somebody reads, until it is closed.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    fails: bool,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        if std::mem::take(&mut state.fails) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn piped() -> Option<AuditSinkFixture> {
    let pipe = Pipe::default();
    let (read, failing) = (pipe.clone(), pipe.clone());
    let subject = Subject::<dyn AuditSink>::real_time(Arc::new(StdoutAuditSink::with_writer(pipe)));
    let read = move |_| std::future::ready(parse_lines(&read.0.lock().unwrap().bytes));
    Some(AuditSinkFixture::new(subject, read).with_failure(move || {
        failing.0.lock().unwrap().fails = true;
        std::future::ready(())
    }))
}

pganalytics_core::audit_sink_contract!(piped());

#[tokio::test]
async fn a_closed_pipe_is_an_error() {
    let pipe = Pipe::default();
    pipe.0.lock().unwrap().fails = true;
    let error = StdoutAuditSink::with_writer(pipe).append(&[event(0)]).await.unwrap_err();
    assert!(matches!(error, AuditError::Backend(error) if error.backend == "stdout"));
}
