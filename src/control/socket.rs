//! The Unix socket: takes a path, binds it, and serves the routes to who may open it, until shutdown.

use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Group, geteuid};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::router::{self, ApiError, Caller, Rights};
use super::{Answer, Api};

/// Connections at once: further ones wait in the system's queue.
const CONNECTIONS: usize = 64;
/// Octets of a request's body: thousands of ids.
const BODY: usize = 1 << 20;
/// For the head of a request, and how long a connection may lie idle.
const HEAD: Duration = Duration::from_secs(30);
/// For a request's body.
const READING: Duration = Duration::from_secs(30);
/// For answers that are under way when the daemon ends.
const PARTING: Duration = Duration::from_secs(5);
/// Who may open it: the daemon's user, and the socket's group.
const MODE: u32 = 0o660;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("control.socket: {path} is in use by a running program: is another smtp-direct configured with it?")]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("control.socket: {path} exists and is no socket: it is left alone")]
    NoSocket {
        /// Where.
        path: PathBuf,
    },
    /// No such group.
    #[error("control.group: there is no group {group:?}")]
    NoGroup {
        /// What it is called.
        group: String,
    },
    /// The group cannot be given.
    #[error(
        "control.group: the group of {path} cannot be set to {group}: {source}: the daemon's user must be one of its members (in a \
         systemd service, SupplementaryGroups={group} and PrivateUsers=no)"
    )]
    Group {
        /// Where.
        path: PathBuf,
        /// Which.
        group: String,
        /// The system's words.
        source: io::Error,
    },
    /// The system does not allow it.
    #[error("control.socket: {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// A bound socket. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    listener: UnixListener,
    /// Whether the socket's group is one of administrators.
    trusted_group: bool,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Left behind, it is a stale one, which the next start replaces.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// Binds `path`, in place of a socket that nobody listens on any more. With `group`, its members may connect and change things.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        let gid = group.map(|name| gid_of(name).map_err(io)?.ok_or_else(|| SocketError::NoGroup { group: name.to_owned() })).transpose()?;
        make_room(path)?;
        let listener = UnixListener::bind(path).map_err(io)?;
        let bound = Self { path: path.to_owned(), listener, trusted_group: group.is_some() };
        if let (Some(gid), Some(group)) = (gid, group) {
            chown(path, None, Some(gid)).map_err(|source| SocketError::Group { path: path.to_owned(), group: group.to_owned(), source })?;
        }
        std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(io)?;
        Ok(bound)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a peer may do. Without a group of administrators, the socket's group is the daemon's own, whose members drop messages: they may
    /// look, and change nothing.
    fn rights(&self, peer: &UnixStream) -> Rights {
        let Ok(peer) = peer.peer_cred() else { return Rights::Read };
        let caller = Caller { uid: peer.uid() };
        if self.trusted_group || caller.uid == 0 || caller.uid == geteuid().as_raw() { Rights::Change(caller) } else { Rights::Read }
    }
}

fn gid_of(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name).map_err(io::Error::from)?.map(|group| group.gid.as_raw()))
}

/// Removes a socket that nobody listens on.
fn make_room(path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NoSocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        // A full queue of connections (EAGAIN) is somebody's too.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(io),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(io(error)),
        _ => Err(SocketError::InUse { path: path.to_owned() }),
    }
}

/// Serves until `shutdown`; then lets answers that are under way go out.
pub async fn serve(listener: Listener, api: Arc<Api>, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let (stop, stopped) = watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let rights = listener.rights(&stream);
                    connections.spawn(connection(stream, api.clone(), rights, stopped.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, for one: not to be asked again at once.
                    tracing::warn!(%error, "the control socket cannot accept a connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let mut orders = std::mem::take(&mut *api.orders());
    let all = async {
        while connections.join_next().await.is_some() {}
        while orders.join_next().await.is_some() {}
    };
    // What is not over by then is cut off with the set.
    let _ = tokio::time::timeout(PARTING, all).await;
}

async fn connection(stream: UnixStream, api: Arc<Api>, rights: Rights, stopped: watch::Receiver<bool>) {
    let stopped: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(raised(stopped));
    let service = service_fn(move |request| respond(request, api.clone(), rights.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(true).max_buf_size(64 * 1024);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stopped => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the control socket broke");
    }
}

async fn raised(mut stopped: watch::Receiver<bool>) {
    // An error means that the server has ended all the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn respond(request: Request<Incoming>, api: Arc<Api>, rights: Rights) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string);
    let answer = match tokio::time::timeout(READING, Limited::new(body, BODY).collect()).await {
        Ok(Ok(body)) => router::answer(api, rights, (head.method, target, body.to_bytes())).await,
        Ok(Err(error)) if error.is::<LengthLimitError>() => ApiError::TooLarge(BODY).answer(),
        Ok(Err(error)) => ApiError::Invalid(format!("the body did not come: {error}")).answer(),
        Err(_) => ApiError::Invalid("the body did not come in time".to_owned()).answer(),
    };
    Ok(response(answer))
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(answer.content_type));
    response.headers_mut().insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
