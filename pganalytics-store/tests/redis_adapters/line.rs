use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A line to Redis on which subscriptions can fall silent, while commands still pass.
pub(crate) struct Line {
    port: u16,
    silent: watch::Sender<bool>,
    accepting: AbortHandle,
}

impl Line {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (silent, watched) = watch::channel(false);
        let accept = async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is down refuses as if there were no line.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                tokio::spawn(carry(client, server, watched.clone()));
            }
        };
        Self { port, silent, accepting: tokio::spawn(accept).abort_handle() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Nothing comes to subscribers any more, and nobody is told.
    pub(crate) fn fall_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    mut silent: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let (mut request, mut reply) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut subscriber = false;
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let part = &request[..read?];
                if part.is_empty() {
                    return Ok(());
                }
                subscriber |= part.windows(9).any(|word| word == b"SUBSCRIBE");
                server.write_all(part).await?;
            }
            read = server.read(&mut reply) => {
                let part = &reply[..read?];
                if subscriber {
                    let _ = silent.wait_for(|silent| !silent).await;
                }
                if part.is_empty() {
                    return Ok(());
                }
                client.write_all(part).await?;
            }
        }
    }
}
