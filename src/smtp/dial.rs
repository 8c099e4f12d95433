//! Dialling, injected: tests hand in peers that live in memory.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// A connection's two directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that is being opened.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// Opens connections. The caller sets the time limit.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `address`.
    fn dial(&self, address: SocketAddr) -> Dialing<'_>;
}

/// TCP without Nagle's delay, from the configured source addresses.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDialer {
    /// `smtp.source_ipv4`.
    pub source_ipv4: Option<Ipv4Addr>,
    /// `smtp.source_ipv6`.
    pub source_ipv6: Option<Ipv6Addr>,
}

impl Dialer for TcpDialer {
    fn dial(&self, address: SocketAddr) -> Dialing<'_> {
        Box::pin(async move { Ok(Box::new(self.connect(address).await?) as Box<dyn Io>) })
    }
}

impl TcpDialer {
    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        match address {
            SocketAddr::V4(_) => self.source_ipv4.map(|ip| socket.bind((ip, 0).into())).transpose()?,
            SocketAddr::V6(_) => self.source_ipv6.map(|ip| socket.bind((ip, 0).into())).transpose()?,
        };
        socket.connect(address).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_leaves_at_once_and_from_the_source_address() {
        let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Ipv4Addr::new(127, 0, 0, 2);
        let dialer = TcpDialer { source_ipv4: Some(source), source_ipv6: None };
        let stream = dialer.connect(peer.local_addr().unwrap()).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(stream.local_addr().unwrap().ip(), source);
    }
}
