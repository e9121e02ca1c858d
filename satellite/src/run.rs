//! A running satellite: its server, its admin socket and its background work.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use strand_protocol::{Code, Invitation, NodeId, Scheme, limits as shared};
use strand_transport::{BindError, DialError, Dialer, Role, SATELLITE_ALPN, Server};
use tokio::task::JoinHandle;

use crate::admin::{self, AdminSocket};
use crate::api;
use crate::clock;
use crate::config::{Directory, DirectoryError, store_error};
use crate::core::address::Reach;
use crate::gc::{self, GcOptions};
use crate::limits;
use crate::outbox;
use crate::state::Satellite;
use crate::store::{MetaStore, OpenError, RedbStore, StoreError};

/// What `run` is told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// A directory that `setup` made.
    pub dir: PathBuf,
    /// In place of the scheme in the settings.
    pub scheme: Option<Scheme>,
    /// When and how garbage is collected.
    pub gc: GcOptions,
}

/// Why a satellite does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Its directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its UDP port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its sockets for dialling.
    #[error(transparent)]
    Dialer(#[from] DialError),
    /// Its store.
    #[error("{0}")]
    Store(String),
    /// Its admin socket.
    #[error("cannot open the admin socket: {0}")]
    Admin(std::io::Error),
}

/// Why a project was not made.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct CreateProjectError {
    reason: String,
}

/// A satellite that answers. [`close`](Self::close) it; dropping it stops it at once.
pub struct Running {
    satellite: Arc<Satellite<RedbStore>>,
    server: Arc<Server>,
    listen: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts the satellite of a directory; it answers when this returns.
    ///
    /// # Errors
    ///
    /// One sentence that says what to do.
    pub async fn start(options: &RunOptions) -> Result<Self, RunError> {
        let directory = Directory::open(&options.dir)?;
        let store = open_store(&directory).await?;
        let server = Server::bind(
            &directory.identity,
            directory.listen,
            SATELLITE_ALPN,
            Role::SatelliteServer,
        )
        .await?;
        let server = Arc::new(server);
        let listen = server.local_address().map_err(|source| BindError::Socket {
            address: directory.listen,
            source,
        })?;
        let advertise = with_port(&directory.advertise, listen.port());
        let reach = reach(listen.ip(), &advertise).await;
        let dialer = Dialer::new(directory.identity.clone())?;
        let scheme = options.scheme.or(directory.scheme);
        let satellite = Satellite::new(
            dialer,
            advertise,
            directory.keys.clone(),
            scheme,
            reach,
            store,
        )
        .await
        .map_err(|error: StoreError| RunError::Store(error.to_string()))?;
        let satellite = Arc::new(satellite);
        let admin = AdminSocket::bind(&options.dir).map_err(RunError::Admin)?;
        let store_bytes = move || directory.store_bytes();
        let tasks = vec![
            tokio::spawn(api::serve(satellite.clone(), server.clone())),
            tokio::spawn(admin.serve(satellite.clone(), store_bytes)),
            tokio::spawn(outbox::run(satellite.clone())),
            tokio::spawn(sweep(satellite.clone())),
            tokio::spawn(gc::run(satellite.clone(), options.gc)),
        ];
        Ok(Self {
            satellite,
            server,
            listen,
            tasks,
        })
    }

    /// Its identity.
    pub fn node_id(&self) -> NodeId {
        self.satellite.id
    }

    /// Where it listens.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// `host:port` in its invitations.
    pub fn advertised_address(&self) -> &str {
        &self.satellite.advertise
    }

    /// Makes a project. Whoever has the invitation owns it; it is kept nowhere else.
    ///
    /// # Errors
    ///
    /// If the name is unusable or the store fails.
    pub async fn create_project(&self, name: &str) -> Result<Invitation, CreateProjectError> {
        let Satellite {
            store,
            id,
            advertise,
            ..
        } = &*self.satellite;
        admin::create_project(store, *id, advertise, name.to_owned())
            .await
            .map_err(|refusal| CreateProjectError {
                reason: refusal.message,
            })
    }

    /// Lets requests under way end, tells the peers, and makes sure of the store.
    pub async fn close(mut self) {
        // All permits back: no request is under way. New ones are answered BUSY from here on.
        let all = self
            .satellite
            .requests
            .acquire_many(limits::REQUESTS_MAX as u32);
        let drained = tokio::time::timeout(limits::DRAIN_TIMEOUT, all).await;
        if drained.is_err() {
            tracing::warn!("requests were still under way and are cut");
        }
        drop(drained);
        self.server.close(Code::Shutdown).await;
        for task in self.tasks.drain(..) {
            task.abort();
            // Aborted or ended: either way it is gone.
            let _ = task.await;
        }
        self.satellite.dialer.close().await;
        self.satellite.store.close().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// `project create` may have the store for a moment.
async fn open_store(directory: &Directory) -> Result<RedbStore, DirectoryError> {
    let patience = tokio::time::Instant::now() + STORE_PATIENCE;
    loop {
        match directory.open_store() {
            Err(OpenError::InUse { .. }) if tokio::time::Instant::now() < patience => {
                tokio::time::sleep(shared::BACKOFF_MIN).await;
            }
            opened => return opened.map_err(store_error),
        }
    }
}

/// An advertised port of 0 means the one listened on.
fn with_port(advertise: &str, port: u16) -> String {
    match advertise.strip_suffix(":0") {
        Some(host) => format!("{host}:{port}"),
        None => advertise.to_owned(),
    }
}

async fn reach(listen: IpAddr, advertise: &str) -> Reach {
    let lookup = tokio::time::timeout(shared::CONNECT_TIMEOUT, tokio::net::lookup_host(advertise));
    let mut addresses = vec![listen];
    // A name that does not resolve here says nothing about where we are.
    if let Ok(Ok(resolved)) = lookup.await {
        addresses.extend(resolved.map(|address| address.ip()));
    }
    Reach::of_satellite(addresses)
}

/// Drops uploads that were never committed and objects that expired.
async fn sweep<S: MetaStore>(satellite: Arc<Satellite<S>>) {
    loop {
        if let Err(error) = sweep_once(&satellite.store, clock::now_ms()).await {
            tracing::warn!(%error, "stale uploads and expired objects stay for now");
        }
        tokio::time::sleep(limits::SWEEP_INTERVAL).await;
    }
}

/// One pass over all uploads and all expired objects, in bounded steps.
pub(crate) async fn sweep_once(store: &impl MetaStore, now_ms: u64) -> Result<(), StoreError> {
    let begun_ms = now_ms.saturating_sub(shared::UPLOAD_LIFETIME_MS);
    let mut after = None;
    loop {
        let (stale, next) = store
            .uploads_before(begun_ms, after, limits::SWEEP_STEP)
            .await?;
        for stream in stale {
            store.drop_upload(stream, now_ms).await?;
        }
        if next.is_none() {
            break;
        }
        after = next;
    }
    while store.drop_expired(now_ms, limits::SWEEP_STEP).await? == limits::SWEEP_STEP {}
    Ok(())
}

/// How long another process may keep the store open while we start.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
