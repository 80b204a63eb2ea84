//! The emulator on a socket.

use std::{fmt, future::Future, io, net::SocketAddr, pin::pin, time::Duration};

use http::{Uri, uri::Scheme};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{handle::Emulator, service::EmulatorService};

/// The emulator on a socket, from [`Emulator::serve`], until it is dropped.
///
/// Dropping it closes all connections at once. [`shutdown`](Self::shutdown) lets
/// them finish. Either way the [`Emulator`] keeps its sessions and can be served
/// again.
#[must_use = "the server stops when it is dropped"]
pub struct Server {
    url: Uri,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Emulator {
    /// Serves HTTP/1.1 on this address, on the current runtime.
    ///
    /// Port 0 means any free port: see [`Server::url`].
    ///
    /// ```
    /// # use tower_reauth::controlm::emulator::Emulator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let server = Emulator::new().serve("127.0.0.1:0").await?;
    /// println!("{}", server.url()); // http://127.0.0.1:54321/automation-api
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve(&self, address: impl ToSocketAddrs) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        self.serve_with(listener, Scheme::HTTP, |tcp| std::future::ready(Ok(tcp)))
    }

    /// Serves on a listener, over the stream that `wrap` makes of each connection.
    ///
    /// For TLS, `wrap` is the handshake. It runs in the connection's own task,
    /// so that a slow client does not delay others. A connection whose handshake
    /// fails is dropped. The scheme is for the URLs only.
    ///
    /// ```no_run
    /// # use http::uri::Scheme;
    /// # use tokio::net::TcpListener;
    /// # use tower_reauth::controlm::emulator::Emulator;
    /// # async fn example(tls: tokio_rustls::TlsAcceptor) -> std::io::Result<()> {
    /// let listener = TcpListener::bind("127.0.0.1:8443").await?;
    /// let server = Emulator::new().serve_with(listener, Scheme::HTTPS, move |tcp| tls.accept(tcp))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn serve_with<W, F, I>(
        &self,
        listener: TcpListener,
        scheme: Scheme,
        wrap: W,
    ) -> io::Result<Server>
    where
        W: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = io::Result<I>> + Send + 'static,
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let address = listener.local_addr()?;
        let url = format!("{scheme}://{address}{}", self.shared.base_path);
        let url = url.parse().map_err(io::Error::other)?;
        let service = EmulatorService::new(self.clone(), scheme);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, wrap, service, stopped));
        Ok(Server {
            url,
            address,
            stop,
            task,
        })
    }
}

impl Server {
    /// Returns the URL of the service, base path included.
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// Returns the address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more connections, answers the requests under way, and closes.
    ///
    /// It waits for them without a timeout: [release](Emulator::release) stalled
    /// requests first.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes all connections at once.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // It fails only if the runtime shuts down, which stops the server too.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Dropping the task's `JoinSet` aborts the connections.
        self.task.abort();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

async fn accept<W, F, I>(
    listener: TcpListener,
    wrap: W,
    service: EmulatorService,
    mut stopped: watch::Receiver<bool>,
) where
    W: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = io::Result<I>> + Send + 'static,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    // Small answers must not wait for more data.
                    let _ = tcp.set_nodelay(true);
                    connections.spawn(connection(wrap(tcp), service.clone(), stopped.clone()));
                }
                // Most likely too many open files: an immediate retry would spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
            () = told(&mut stopped) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection<I>(
    handshake: impl Future<Output = io::Result<I>>,
    service: EmulatorService,
    mut stopped: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = tokio::select! {
        io = handshake => io,
        () = told(&mut stopped) => return,
    };
    let Ok(io) = io else { return };
    // Without a timer, an idle connection stays open even if tokio's paused
    // clock jumps ahead.
    let mut http = http1::Builder::new();
    http.header_read_timeout(None);
    let connection = http.serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    // An error of the client or of a fault ends only this connection.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = told(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Waits until the server is stopped or dropped.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}
