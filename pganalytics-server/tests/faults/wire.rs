use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

const LIMIT: Duration = Duration::from_secs(30);

/// The wire between a server and its database, which can be held at a statement.
#[derive(Debug)]
pub(crate) struct Wire {
    port: u16,
    trap: Arc<Mutex<Option<Trap>>>,
    _accepting: AbortOnDropHandle<()>,
}

/// Where a statement is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The server has sent it, PostgreSQL has not got it.
    Question,
    /// PostgreSQL has executed it, the server does not know.
    Answer,
    /// The server has the answer; nothing is held any more.
    Answered,
}

/// A connection that is held. Dropping it cuts the connection.
#[derive(Debug)]
pub(crate) struct Held {
    _hold: oneshot::Sender<()>,
}

/// A trap that was set.
#[derive(Debug)]
pub(crate) struct Set {
    sprung: oneshot::Receiver<Held>,
}

#[derive(Debug)]
struct Trap {
    statement: &'static str,
    at: At,
    sprung: oneshot::Sender<Held>,
}

impl Set {
    /// Waits until the statement came by.
    pub(crate) async fn sprung(self) -> Held {
        timeout(LIMIT, self.sprung).await.expect("the statement comes by in time").unwrap()
    }
}

impl Wire {
    /// A wire from a free port on loopback to PostgreSQL's socket.
    pub(crate) async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let trap = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&trap);
        let accepting = tokio::spawn(async move {
            loop {
                let (server, _) = listener.accept().await.unwrap();
                let (socket, trap) = (socket.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // A database that is away looks to the server like a connection that is closed at once.
                    if let Ok(database) = UnixStream::connect(socket).await {
                        carry(server, database, trap).await;
                    }
                });
            }
        });
        Self { port, trap, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Holds the next statement that contains this text.
    pub(crate) fn hold(&self, statement: &'static str, at: At) -> Set {
        let (sender, sprung) = oneshot::channel();
        *self.trap.lock().unwrap() = Some(Trap { statement, at, sprung: sender });
        Set { sprung }
    }
}

/// Carries bytes both ways until one side closes, or a connection that was held is let go.
async fn carry(
    server: impl AsyncRead + AsyncWrite,
    database: impl AsyncRead + AsyncWrite,
    trap: Arc<Mutex<Option<Trap>>>,
) {
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let (mut from_database, mut to_database) = tokio::io::split(database);
    // The trap whose statement PostgreSQL has got.
    let waiting = Mutex::new(None::<Trap>);
    let questions = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Some(chunk) = read(&mut from_server, &mut buffer).await {
            let sprung = {
                let mut armed = trap.lock().unwrap();
                armed.take_if(|trap| contains(chunk, trap.statement))
            };
            match sprung {
                Some(trap) if trap.at == At::Question => return hold(trap).await,
                Some(trap) => *waiting.lock().unwrap() = Some(trap),
                None => {}
            }
            if to_database.write_all(chunk).await.is_err() {
                return;
            }
        }
    };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Some(chunk) = read(&mut from_database, &mut buffer).await {
            let sprung = waiting.lock().unwrap().take();
            match sprung {
                Some(trap) if trap.at == At::Answer => return hold(trap).await,
                Some(trap) => {
                    let written = to_server.write_all(chunk).await;
                    let (hold, _) = oneshot::channel();
                    // Whoever set the trap may be gone.
                    let _ = trap.sprung.send(Held { _hold: hold });
                    if written.is_err() {
                        return;
                    }
                }
                None if to_server.write_all(chunk).await.is_err() => return,
                None => {}
            }
        }
    };
    tokio::select! { () = questions => {}, () = answers => {} }
}

async fn hold(trap: Trap) {
    let (hold, released) = oneshot::channel();
    if trap.sprung.send(Held { _hold: hold }).is_ok() {
        // It only ever ends by being dropped.
        let _ = released.await;
    }
}

async fn read<'a>(from: &mut (impl AsyncRead + Unpin), buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    match from.read(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(length) => Some(&buffer[..length]),
    }
}

/// Statements of the tests are smaller than one read of a loopback connection.
fn contains(chunk: &[u8], statement: &str) -> bool {
    chunk.windows(statement.len()).any(|window| window == statement.as_bytes())
}
