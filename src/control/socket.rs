//! The Unix socket: takes a path, binds it, and serves the routes to who may open it, until shutdown.

use std::fs::Permissions;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Group, geteuid};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
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

/// Octets of a local socket's path, without the zero at its end (unix(7)).
const LONGEST: usize = 107;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("control.socket: {path} is in use by a running program: is another smtp-direct configured with it?")]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The system has no room for such an address.
    #[error(
        "control.socket: {path} has {length} octets, and a socket's path has at most {LONGEST}: set control.socket to a shorter one, or to \"\" \
         for none"
    )]
    TooLong {
        /// Where.
        path: PathBuf,
        /// Of its path.
        length: usize,
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
    /// The status page's address.
    #[error("control.listen: {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
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
        let length = path.as_os_str().len();
        if length > LONGEST {
            return Err(SocketError::TooLong { path: path.to_owned(), length });
        }
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
        let uid = peer.uid();
        if self.trusted_group || uid == 0 || uid == geteuid().as_raw() { Rights::Change(Caller::User(uid)) } else { Rights::Read }
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
    let for_peer = {
        let api = api.clone();
        move |rights: Rights| {
            let api = api.clone();
            move |request| respond(request, api.clone(), rights.clone())
        }
    };
    let accept = move |context: &mut Context<'_>| {
        let accepted = listener.listener.poll_accept(context);
        accepted.map_ok(|(stream, _)| {
            let rights = listener.rights(&stream);
            (stream, rights)
        })
    };
    serve_all(accept, for_peer, api, shutdown).await;
}

/// Takes connections from `accept` until `shutdown`, and answers the requests of each with what `for_peer` makes for it.
pub(super) async fn serve_all<S, P, A, F>(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(S, P)>>,
    for_peer: impl Fn(P) -> A,
    api: Arc<Api>,
    shutdown: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, hyper::Error>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let (stop, stopped) = watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = poll_fn(&mut accept), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, for_peer(peer), stopped.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, for one: not to be asked again at once.
                    tracing::warn!(%error, "a control connection cannot be accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
        }
    }
    drop(accept);
    stop.send_replace(true);
    let mut orders = std::mem::take(&mut *api.orders());
    let all = async {
        while connections.join_next().await.is_some() {}
        while orders.join_next().await.is_some() {}
    };
    // What is not over by then is cut off with the set.
    let _ = tokio::time::timeout(PARTING, all).await;
}

async fn connection<S, F>(stream: S, answer: impl Fn(Request<Incoming>) -> F, stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<Response<Full<Bytes>>, hyper::Error>>,
{
    let stopped: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(raised(stopped));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(true).max_buf_size(64 * 1024);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service_fn(answer)));
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stopped => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a control connection broke");
    }
}

async fn raised(mut stopped: watch::Receiver<bool>) {
    // An error means that the server has ended all the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn respond(request: Request<Incoming>, api: Arc<Api>, rights: Rights) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    Ok(response(answer(&head, body, api, rights).await))
}

/// What the API says to a request, when its body is there.
pub(super) async fn answer(head: &Parts, body: Incoming, api: Arc<Api>, rights: Rights) -> Answer {
    let target = head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string);
    match tokio::time::timeout(READING, Limited::new(body, BODY).collect()).await {
        Ok(Ok(body)) => router::answer(api, rights, (head.method.clone(), target, body.to_bytes())).await,
        Ok(Err(error)) if error.is::<LengthLimitError>() => ApiError::TooLarge(BODY).answer(),
        Ok(Err(error)) => ApiError::Invalid(format!("the body did not come: {error}")).answer(),
        Err(_) => ApiError::Invalid("the body did not come in time".to_owned()).answer(),
    }
}

pub(super) fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(answer.content_type));
    response.headers_mut().insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
