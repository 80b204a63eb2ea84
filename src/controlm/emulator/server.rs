//! The emulator on a socket.

use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::service::{Emulator, EmulatorService};
use crate::BoxError;

/// An [`Emulator`] that listens on a socket.
///
/// Dropping it closes the socket and every connection at once;
/// [`Server::shut_down`] lets requests under way be answered.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    base: String,
    accepting: JoinHandle<()>,
    shut_down: Option<oneshot::Sender<()>>,
}

impl Server {
    pub(super) async fn bind(emulator: &Emulator, address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (shut_down, told) = oneshot::channel();
        Ok(Self {
            address,
            base: emulator.base_path(),
            accepting: tokio::spawn(accept(listener, emulator.service(), told)),
            shut_down: Some(shut_down),
        })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of its calls.
    #[must_use]
    pub fn url(&self) -> Uri {
        let url = format!("http://{}{}", self.address, self.base);
        url.parse().expect("an address and a path are a URI")
    }

    /// Takes no more connections, and waits until what is under way is answered.
    ///
    /// A request that [stalls](super::Fault::Stall) never is, unless its client
    /// hangs up.
    pub async fn shut_down(mut self) {
        if let Some(shut_down) = self.shut_down.take() {
            // Gone only if the task is, which is then all there is to do.
            let _ = shut_down.send(());
        }
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, service: EmulatorService, mut told: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // A sender that is gone without a word was dropped, and aborts us.
            _ = &mut told => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            // Such as too many open files, which would fail again at once.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        // A connection that cannot have it sends its small answers later, and no worse.
        let _ = stream.set_nodelay(true);
        let hyper_service = TowerToHyperService::new(service.clone());
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), hyper_service);
        connections.spawn(graceful.watch(connection));
    }
    drop(listener);
    graceful.shutdown().await;
}

impl Emulator {
    /// Serves one connection of any kind, such as a TLS stream, until it closes.
    ///
    /// # Errors
    ///
    /// If the connection breaks, or is closed by a [`Fault`](super::Fault).
    pub async fn serve_connection<I>(&self, io: I) -> Result<(), BoxError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.service());
        http1::Builder::new()
            .serve_connection(TokioIo::new(io), service)
            .await?;
        Ok(())
    }
}
