use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What happens to the next message of a client that holds a certain text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// It is not passed on, and the connection is cut.
    Request(&'static str),
    /// It is passed on, and the connection is cut when the server has answered.
    Reply(&'static str),
}

/// A line to PostgreSQL that can be cut or go silent.
pub(crate) struct Proxy {
    url: String,
    cut: Arc<Mutex<Option<Cut>>>,
    silent: watch::Sender<bool>,
    requests: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Proxy {
    /// A line to the database at a URL whose host is a socket folder.
    pub(crate) async fn to(url: &str) -> Self {
        let (_, rest) = url.split_once('@').unwrap();
        let (folder, rest) = rest.split_once(':').unwrap();
        let (port, database) = rest.split_once('/').unwrap();
        let folder = folder.replace("%2F", "/").replace("%2f", "/");
        let socket = PathBuf::from(folder).join(format!(".s.PGSQL.{port}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("postgres://postgres@{address}/{database}?sslmode=disable");
        let cut = Arc::new(Mutex::new(None));
        let (silent, watched) = watch::channel(false);
        let requests = Arc::default();
        let line = Line { cut: Arc::clone(&cut), silent: watched, requests: Arc::clone(&requests) };
        let accepting = tokio::spawn(accept(listener, socket, line)).abort_handle();
        Self { url, cut, silent, requests, accepting }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn cut(&self, cut: Cut) {
        *self.cut.lock().unwrap() = Some(cut);
    }

    /// Whether what was to be cut has come by.
    pub(crate) fn has_cut(&self) -> bool {
        self.cut.lock().unwrap().is_none()
    }

    /// How often clients have sent something.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Nothing passes any more, and nobody is told.
    pub(crate) fn fall_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Clone)]
struct Line {
    cut: Arc<Mutex<Option<Cut>>>,
    silent: watch::Receiver<bool>,
    requests: Arc<AtomicUsize>,
}

async fn accept(listener: TcpListener, socket: PathBuf, line: Line) {
    while let Ok((client, _)) = listener.accept().await {
        // A server that is down refuses as if there were no proxy.
        let Ok(server) = UnixStream::connect(&socket).await else { continue };
        tokio::spawn(line.clone().carry(client, server));
    }
}

impl Line {
    async fn carry(mut self, mut client: TcpStream, mut server: UnixStream) -> std::io::Result<()> {
        let (mut request, mut reply) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            tokio::select! {
                read = client.read(&mut request) => {
                    let part = &request[..read?];
                    let _ = self.silent.wait_for(|silent| !silent).await;
                    if part.is_empty() {
                        return Ok(());
                    }
                    self.requests.fetch_add(1, Ordering::SeqCst);
                    match self.take_cut(part) {
                        None => server.write_all(part).await?,
                        Some(Cut::Request(_)) => return Ok(()),
                        Some(Cut::Reply(_)) => {
                            server.write_all(part).await?;
                            return server.read(&mut reply).await.map(drop);
                        }
                    }
                }
                read = server.read(&mut reply) => {
                    let part = &reply[..read?];
                    let _ = self.silent.wait_for(|silent| !silent).await;
                    if part.is_empty() {
                        return Ok(());
                    }
                    client.write_all(part).await?;
                }
            }
        }
    }

    fn take_cut(&self, part: &[u8]) -> Option<Cut> {
        let mut cut = self.cut.lock().unwrap();
        let (Cut::Request(text) | Cut::Reply(text)) = (*cut)?;
        if part.windows(text.len()).any(|window| window == text.as_bytes()) { cut.take() } else { None }
    }
}
