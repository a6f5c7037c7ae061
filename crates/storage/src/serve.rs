//! Serving: connections, the socket of commands, copies, and their end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use strongroom_http::{Patience, Proxies, Serving, Shown, encryption};
use tokio::{net::TcpListener, sync::watch};

use crate::{Storage, StorageError, admin, replication, router};

/// How many connections there are at once.
const CONNECTIONS: usize = 16 << 10;
/// How long connections may do nothing: clients keep theirs for minutes.
const PATIENCE: Patience =
    Patience { idle: Duration::from_mins(2), stranger: Duration::from_mins(1) };

/// How a listener of storage accounts serves.
pub struct Serve {
    /// Where it listens, as `strongroom_http::listen` gives it.
    pub listener: TcpListener,
    /// The certificate; without it connections are not encrypted.
    pub certificate: Option<Arc<Shown>>,
    /// The proxies that are believed when they say who asks.
    pub proxies: Proxies,
}

impl Serve {
    /// Listens at an address without encryption.
    pub async fn plain(address: SocketAddr) -> Result<(Self, SocketAddr), StorageError> {
        let (listener, address) = strongroom_http::listen(address).await?;
        Ok((Self { listener, certificate: None, proxies: Proxies::default() }, address))
    }
}

/// Serves storage accounts until it is stopped: clients, commands over the socket in the folder of the data, and copies
/// that were running before. Dropping the storage afterwards makes a checkpoint.
pub async fn serve(
    storage: Arc<Storage>,
    serve: Serve,
    stop: watch::Receiver<bool>,
) -> Result<(), StorageError> {
    let Serve { listener, certificate, proxies } = serve;
    let is_https = certificate.is_some();
    let serving = Serving {
        router: router(Arc::clone(&storage), is_https),
        encryption: certificate.map(encryption).transpose()?,
        connections: CONNECTIONS,
        patience: PATIENCE,
        proxies,
    };
    let commands = admin::Socket::bind(&storage)?;
    let commands = tokio::spawn(commands.serve(Arc::clone(&storage), stop.clone()));
    let works = storage.replication.role().decides();
    if works {
        storage.resume_copies().await;
    }
    let pair = tokio::spawn(replication::keep(Arc::clone(&storage), works, stop.clone()));
    strongroom_http::serve(listener, serving, stop).await;
    if let Err(error) = pair.await {
        tracing::error!(%error, "what keeps the other server in step ended early");
    }
    storage.copies.end().await;
    if let Err(error) = commands.await {
        tracing::error!(%error, "the socket of commands ended early");
    }
    Ok(())
}
