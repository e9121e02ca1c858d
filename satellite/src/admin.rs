//! Administration of a running satellite: a Unix socket in its directory, one JSON line each way.
//!
//! The directory is the owner's alone (0700) and so is the socket (0600): whoever can connect may
//! do everything. `project create` also works without a running satellite, on the store itself.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strand_protocol::{Invitation, Macaroon, NodeId, ProjectId, limits as shared};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::clock;
use crate::config::socket_path;
use crate::core::placement::{self, is_online};
use crate::core::refusal::Refusal;
use crate::core::row::{CollectionRow, MacaroonSecret, NodeNumber, ProjectRow};
use crate::limits;
use crate::state::Satellite;
use crate::store::MetaStore;
use strand_protocol::Scheme;

/// What may be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Request {
    ProjectCreate {
        name: String,
    },
    NodeList,
    Status,
    /// Begin to collect garbage.
    GcStart,
    /// How collections went.
    Gc,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Ok(Value),
    Error(String),
}

/// Why an admin request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("no satellite is running in this directory")]
    NotRunning,
    #[error("the admin socket failed: {0}")]
    Io(#[from] io::Error),
    #[error("the running satellite did not answer in time")]
    TimedOut,
    #[error("the running satellite answered something else")]
    Malformed,
    #[error("{0}")]
    Refused(String),
}

/// The socket of a running satellite; its file goes with it.
pub(crate) struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Takes the directory's socket over. The caller has the store open, so nobody else runs here.
    pub(crate) fn bind(dir: &Path) -> io::Result<Self> {
        let path = socket_path(dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = with_short_path(&path, |path| UnixListener::bind(path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until the task is aborted.
    pub(crate) async fn serve<S: MetaStore>(
        self,
        satellite: Arc<Satellite<S>>,
        store_bytes: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let store_bytes = Arc::new(store_bytes);
        let turns = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS_MAX));
        loop {
            let Ok(turn) = turns.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors, most likely: let others end first.
                tokio::time::sleep(shared::BACKOFF_MAX).await;
                continue;
            };
            let (satellite, store_bytes) = (satellite.clone(), store_bytes.clone());
            tokio::spawn(async move {
                let _turn = turn;
                let answered = answer_line(&satellite, stream, &*store_bytes);
                if let Ok(Err(error)) = tokio::time::timeout(limits::ADMIN_TIMEOUT, answered).await
                {
                    tracing::debug!(%error, "an admin connection failed");
                }
            });
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the satellite that runs in `dir`.
pub(crate) async fn ask(dir: &Path, request: &Request) -> Result<Value, AdminError> {
    let exchange = async {
        let path = socket_path(dir);
        // A socket file without a listener is what a killed satellite leaves.
        let connected =
            match with_short_path(&path, |path| std::os::unix::net::UnixStream::connect(path)) {
                Ok(stream) => stream,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    return Err(AdminError::NotRunning);
                }
                Err(error) => return Err(error.into()),
            };
        connected.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(connected)?;
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        let most = limits::ADMIN_LINE_BYTES_MAX as u64;
        BufReader::new(stream)
            .take(most)
            .read_until(b'\n', &mut answer)
            .await?;
        match serde_json::from_slice(&answer) {
            Ok(Reply::Ok(value)) => Ok(value),
            Ok(Reply::Error(message)) => Err(AdminError::Refused(message)),
            Err(_) => Err(AdminError::Malformed),
        }
    };
    tokio::time::timeout(limits::ADMIN_TIMEOUT, exchange)
        .await
        .unwrap_or(Err(AdminError::TimedOut))
}

async fn answer_line<S: MetaStore>(
    satellite: &Satellite<S>,
    stream: UnixStream,
    store_bytes: &(impl Fn() -> u64 + Send + Sync),
) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = Vec::new();
    BufReader::new(reading)
        .take(65_536)
        .read_until(b'\n', &mut line)
        .await?;
    let answered = match serde_json::from_slice(&line) {
        Err(error) => Err(Refusal::bad_request(format!("not a request: {error}"))),
        Ok(Request::ProjectCreate { name }) => {
            create_project(&satellite.store, satellite.id, &satellite.advertise, name)
                .await
                .map(|invitation| describe(&invitation))
        }
        Ok(Request::NodeList) => Ok(node_list(satellite)),
        Ok(Request::GcStart) => Ok(json!({ "number": satellite.gc.request() })),
        Ok(Request::Gc) => gc(satellite).await,
        Ok(Request::Status) => status(satellite, store_bytes()).await,
    };
    let reply = match answered {
        Ok(value) => Reply::Ok(value),
        Err(refusal) => Reply::Error(refusal.message),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    writing.write_all(&line).await?;
    writing.shutdown().await
}

/// Makes a project. Its invitation is the answer and is kept nowhere else.
pub(crate) async fn create_project(
    store: &impl MetaStore,
    satellite: NodeId,
    advertise: &str,
    name: String,
) -> Result<Invitation, Refusal> {
    if name.is_empty() || name.len() > shared::PROJECT_NAME_BYTES_MAX {
        let most = shared::PROJECT_NAME_BYTES_MAX;
        return Err(Refusal::bad_request(format!(
            "a project's name has 1 to {most} bytes"
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Refusal::bad_request(
            "a project's name has no control characters",
        ));
    }
    let project = ProjectId::from(clock::random_bytes());
    let secret = MacaroonSecret {
        key_id: clock::random_bytes(),
        secret: clock::random_bytes(),
    };
    let row = ProjectRow {
        id: project,
        name: name.clone(),
        salt: clock::random_bytes(),
        secrets: vec![secret.clone()],
        check_value: Vec::new(),
        created_ms: clock::now_ms(),
    };
    let invitation = Invitation {
        address: advertise.to_owned(),
        satellite,
        macaroon: Macaroon::mint(&secret.secret, project, secret.key_id),
        salt: row.salt,
        project,
        project_name: name,
    };
    store.create_project(row).await?;
    Ok(invitation)
}

/// What `project create --json` prints.
pub(crate) fn describe(invitation: &Invitation) -> Value {
    json!({
        "project_id": invitation.project.to_string(),
        "name": invitation.project_name,
        "satellite": invitation.satellite.to_string(),
        "address": invitation.address,
        "invitation": invitation.to_text(),
    })
}

fn node_list<S: MetaStore>(satellite: &Satellite<S>) -> Value {
    let now_ms = clock::now_ms();
    let node = |(number, node): (crate::core::row::NodeNumber, crate::core::row::NodeRow)| {
        json!({
            "number": number.0,
            "node_id": node.id.to_string(),
            "address": node.address,
            "domain": node.domain.to_string(),
            "reachable": node.is_reachable,
            "online": is_online(&node, now_ms),
            "capacity_bytes": node.capacity_bytes,
            "used_bytes": node.used_bytes,
            "free_bytes": node.free_bytes,
            "version": node.version,
            "clock_skew_ms": node.skew_ms,
            "first_contact_ms": node.first_contact_ms,
            "last_contact_ms": node.last_contact_ms,
            "last_contact_s_ago": now_ms.saturating_sub(node.last_contact_ms) / 1_000,
        })
    };
    let nodes: Vec<Value> = satellite.nodes.all().into_iter().map(node).collect();
    json!({ "nodes": nodes })
}

async fn status<S: MetaStore>(
    satellite: &Satellite<S>,
    store_bytes: u64,
) -> Result<Value, Refusal> {
    let now_ms = clock::now_ms();
    let nodes = satellite.nodes.all();
    let online_count = nodes
        .iter()
        .filter(|(_, node)| is_online(node, now_ms))
        .count();
    let candidates = satellite.nodes.candidates(0, now_ms);
    let domain_count = placement::domain_count(&candidates);
    let scheme = satellite
        .scheme
        .or_else(|| Scheme::for_domains(domain_count));
    let counts = satellite.store.counts().await?;
    let last = satellite.store.last_run().await?;
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "satellite": satellite.id.to_string(),
        "address": satellite.advertise,
        "uptime_s": satellite.started.elapsed().as_secs(),
        "nodes": nodes.len(),
        "nodes_online": online_count,
        "nodes_with_room": candidates.len(),
        "domains_with_room": domain_count,
        "scheme": scheme.map(|scheme| scheme.to_string()),
        "capacity_bytes": nodes.iter().map(|(_, node)| node.capacity_bytes).sum::<u64>(),
        "free_bytes": nodes.iter().map(|(_, node)| node.free_bytes).sum::<u64>(),
        "projects": counts.projects,
        "buckets": counts.buckets,
        "objects": counts.objects,
        "segments": counts.segments,
        "uploads": counts.uploads,
        "deletes_waiting": counts.discards,
        "gc_last_s_ago": last.map(|last| now_ms.saturating_sub(last.ended_ms) / 1_000),
        "lost_pieces_waiting": counts.lost,
        "revived_pieces": counts.revived,
        "store_bytes": store_bytes,
    }))
}

/// How the last collection went, at the satellite and at its nodes.
async fn gc<S: MetaStore>(satellite: &Satellite<S>) -> Result<Value, Refusal> {
    let state = satellite.gc.state();
    let last = satellite.store.last_run().await?;
    let counts = satellite.store.counts().await?;
    let node = |(number, row): (NodeNumber, CollectionRow)| {
        let (id, _) = satellite.nodes.locate(number)?;
        let outcome = row.outcome.filter(|outcome| outcome.run == row.run);
        Some(json!({
            "node_id": id.to_string(),
            "pieces": row.piece_count,
            "filters": row.part_count,
            "done": outcome.is_some(),
            "examined": outcome.map(|outcome| outcome.examined),
            "kept": outcome.map(|outcome| outcome.kept),
            "trashed": outcome.map(|outcome| outcome.trashed),
            "trashed_bytes": outcome.map(|outcome| outcome.trashed_bytes),
            "refused_filters": outcome.map(|outcome| outcome.refused_parts),
            "would_trash": outcome.map(|outcome| outcome.would_trash),
        }))
    };
    let collections = satellite.store.collections().await?;
    let nodes: Vec<Value> = collections.into_iter().filter_map(node).collect();
    let last = last.map(|run| {
        json!({
            "run": run.run,
            "snapshot_ms": run.snapshot_ms,
            "ended_ms": run.ended_ms,
            "segments": run.segment_count,
            "pieces": run.piece_count,
            "nodes": run.node_count,
            "lost_pieces_taken_out": run.lost_count,
        })
    });
    Ok(json!({
        "begun": state.begun,
        "ended": state.ended,
        "error": state.error,
        "last": last,
        "lost_pieces_waiting": counts.lost,
        "revived_pieces": counts.revived,
        "nodes": nodes,
    }))
}

/// Calls `with` with a path to the socket that fits `sockaddr_un` (107 bytes) however deep its
/// directory lies: through an open descriptor of the directory.
fn with_short_path<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return with(path);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return with(path);
    };
    let dir = std::fs::File::open(dir)?;
    with(
        &Path::new("/proc/self/fd")
            .join(dir.as_raw_fd().to_string())
            .join(name),
    )
}

/// `sun_path` has 108 bytes, a terminating zero included.
const SOCKET_PATH_BYTES_MAX: usize = 107;
