//! The bare relay: what any proxy on tokio and tokio-rustls must do, and nothing more.
//!
//! It accepts, shakes hands, dials and copies both ways, one task a pair, one thread for all. It
//! knows no HTTP, no WebSocket, no limit and no deadline. The distance between it and an edge is
//! the price of what the edge does. Bytes go through one scratch buffer of the thread and are
//! written at once; a pair owns bytes only while the other side is not taking them.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::tls::Certificate;

/// As much as one read may bring, in bytes.
const SCRATCH: usize = 64 << 10;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

#[derive(Args, Debug)]
pub struct Bare {
    /// Where to listen
    #[arg(long)]
    pub listen: SocketAddr,
    /// Where to dial, over plain TCP
    #[arg(long)]
    pub upstream: SocketAddr,
    /// PEM file of the certificate; without it the listener is plain
    #[arg(long, requires = "key")]
    pub chain: Option<std::path::PathBuf>,
    /// PEM file of the certificate's key
    #[arg(long, requires = "chain")]
    pub key: Option<std::path::PathBuf>,
}

/// Relays until killed.
pub async fn run(bare: Bare) -> anyhow::Result<()> {
    let tls = match (bare.chain, bare.key) {
        (Some(chain), Some(key)) => Some(Certificate { chain, key }.acceptor()?),
        _ => None,
    };
    let listener = TcpListener::bind(bare.listen).await?;
    loop {
        let (client, _) = listener.accept().await?;
        // A pair that breaks ends alone, and nobody listens to a benchmark's relay complain.
        match tls.clone() {
            Some(tls) => drop(tokio::spawn(serve_tls(tls, client, bare.upstream))),
            None => drop(tokio::spawn(serve_plain(client, bare.upstream))),
        }
    }
}

async fn serve_tls(tls: TlsAcceptor, client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let client = tls.accept(client).await?;
    Pair::new(client, dial(upstream).await?).await
}

async fn serve_plain(client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    Pair::new(client, dial(upstream).await?).await
}

async fn dial(upstream: SocketAddr) -> io::Result<TcpStream> {
    let upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    Ok(upstream)
}

/// Two sockets and what each has not taken yet; done when both have ended, or one has broken.
struct Pair<C> {
    client: C,
    upstream: TcpStream,
    up: Way,
    down: Way,
}

impl<C> Pair<C> {
    fn new(client: C, upstream: TcpStream) -> Pair<C> {
        Pair { client, upstream, up: Way::default(), down: Way::default() }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Future for Pair<C> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pair = self.get_mut();
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let up = pair.up.poll(context, &mut pair.client, &mut pair.upstream, scratch)?;
            let down = pair.down.poll(context, &mut pair.upstream, &mut pair.client, scratch)?;
            if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What was read and not yet taken; empty, and without an allocation, most of the time.
    rest: Vec<u8>,
    state: State,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Relaying,
    /// The source has ended and the sink has to be told.
    Ending,
    Ended,
}

impl Way {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        scratch: &mut [u8],
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_rest(context, &mut to))?;
            match self.state {
                State::Relaying => {
                    let mut read = ReadBuf::new(scratch);
                    if Pin::new(&mut from).poll_read(context, &mut read)?.is_pending() {
                        ready!(Pin::new(&mut to).poll_flush(context))?;
                        return Poll::Pending;
                    }
                    self.forward(context, &mut to, read.filled())?;
                }
                State::Ending => {
                    ready!(Pin::new(&mut to).poll_shutdown(context))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn forward(
        &mut self,
        context: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        bytes: &[u8],
    ) -> io::Result<()> {
        if bytes.is_empty() {
            self.state = State::Ending;
            return Ok(());
        }
        let taken = match Pin::new(to).poll_write(context, bytes)? {
            Poll::Ready(taken) => taken,
            Poll::Pending => 0,
        };
        self.rest.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    fn poll_rest(
        &mut self,
        context: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let taken = ready!(Pin::new(&mut *to).poll_write(context, &self.rest))?;
            self.rest.drain(..taken);
        }
        self.rest = Vec::new();
        Poll::Ready(Ok(()))
    }
}
