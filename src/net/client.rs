//! A small HTTP client, for what the edge asks of the services beside it: an authorizer, the keys
//! of an issuer.
//!
//! Requests are GETs or the like, without a body. Connections are kept and used again, few of
//! them and not for long; an answer is bounded in size, and all of an exchange in time. Redirects
//! are answers like any other. A client belongs to the thread that uses it, for its connections
//! are driven by that thread's runtime; it is cheap to make.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, Uri, response};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::Stream;
use super::tls::Connector;

/// The largest head of an answer.
const HEAD: usize = 64 << 10;
/// What of an unwanted body is read, so that its connection can serve again.
const UNWANTED: usize = 64 << 10;
/// How long a connection may wait for its next request; many servers close theirs after 5 s.
const IDLE: Duration = Duration::from_secs(30);
/// How many connections to one server may wait so.
const MOST_IDLE: usize = 32;

/// A client with a pool of connections. Clones share it.
#[derive(Clone)]
pub struct Client(legacy::Client<Dialler, Empty<Bytes>>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientFault {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Broken(String),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

impl Client {
    /// `https` trusts the authorities of the system, which are read when they are first needed.
    pub fn new() -> Client {
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .http1_max_buf_size(HEAD)
            .build(Dialler);
        Client(client)
    }

    /// The whole answer, of a body of at most `most` bytes, within a time.
    pub async fn fetch(
        &self,
        request: Request<()>,
        most: usize,
        within: Duration,
    ) -> Result<Response<Bytes>, ClientFault> {
        let deadline = Instant::now() + within;
        let exchange = async {
            let (head, body) = self.send(request).await?.into_parts();
            let body =
                Limited::new(body, most).collect().await.map_err(|fault| match fault
                    .is::<LengthLimitError>(
                ) {
                    true => ClientFault::TooLarge(most),
                    false => ClientFault::Broken(causes(&*fault)),
                })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        timeout_at(deadline, exchange).await.unwrap_or(Err(ClientFault::Timeout(within)))
    }

    /// The head of the answer alone. Its body is read in the background, within the same time, so
    /// that the connection can serve again; a large one closes it.
    pub async fn ask(
        &self,
        request: Request<()>,
        within: Duration,
    ) -> Result<response::Parts, ClientFault> {
        let deadline = Instant::now() + within;
        let sent = timeout_at(deadline, self.send(request)).await;
        let (head, body) = sent.unwrap_or(Err(ClientFault::Timeout(within)))?.into_parts();
        tokio::spawn(timeout_at(deadline, Limited::new(body, UNWANTED).collect()));
        Ok(head)
    }

    /// A server may close a kept connection in the moment in which it is used again, so a request
    /// that is answered by nothing is sent once more (RFC 9110 §9.2.2: a GET may be).
    async fn send(&self, request: Request<()>) -> Result<Response<Incoming>, ClientFault> {
        let request = request.map(|()| Empty::new());
        match self.0.request(request.clone()).await {
            Err(fault) if is_of_closed(&fault) => self.0.request(request).await,
            answered => answered,
        }
        .map_err(|fault| ClientFault::Broken(causes(&fault)))
    }
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

/// The connection ended before any of the answer came.
fn is_of_closed(fault: &legacy::Error) -> bool {
    let mut cause = fault.source();
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
            return true;
        }
        let closed = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        if error.downcast_ref::<io::Error>().is_some_and(|error| closed.contains(&error.kind())) {
            return !fault.is_connect();
        }
        cause = error.source();
    }
    false
}

/// What went wrong, and why.
fn causes(fault: &(dyn Error + 'static)) -> String {
    let mut words = fault.to_string();
    let mut cause = fault.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.ends_with(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

/// Connects to the server that a URL names.
#[derive(Clone, Copy)]
struct Dialler;

type Dialling = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

impl Service<Uri> for Dialler {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Dialling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Dialling {
        Box::pin(async move { dial(&url).await.map(TokioIo::new) })
    }
}

async fn dial(url: &Uri) -> io::Result<Stream> {
    let secure = url.scheme() == Some(&Scheme::HTTPS);
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    match secure {
        false => Ok(Stream::tcp(socket)),
        true => Connector::system().map_err(io::Error::other)?.connect(socket, host).await,
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that has one script for each connection: an answer for each request, and then it
    /// closes or, with `None`, says nothing more.
    async fn server(scripts: Vec<Vec<Option<Vec<u8>>>>) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            for script in scripts {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move {
                    for answer in script {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            match socket.read_u8().await {
                                Ok(byte) => head.push(byte),
                                Err(_) => return,
                            }
                        }
                        let Some(answer) = answer else { return std::future::pending().await };
                        let _ = socket.write_all(&answer).await;
                    }
                });
            }
        });
        Uri::try_from(format!("http://{address}/keys?a=b")).expect("a URL")
    }

    fn answer(body: &str) -> Option<Vec<u8>> {
        let length = body.len();
        Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes())
    }

    fn get(url: &Uri) -> Request<()> {
        Request::get(url).body(()).expect("a request")
    }

    async fn fetch(client: &Client, url: &Uri) -> Result<Bytes, ClientFault> {
        client.fetch(get(url), 1000, PATIENCE).await.map(Response::into_body)
    }

    #[tokio::test]
    async fn a_connection_serves_again_whatever_was_asked_of_it() {
        let mut scripts = vec![vec![answer("one"), answer("two"), answer("three")]];
        scripts.extend(vec![vec![answer("new")]; 1000]);
        let url = server(scripts).await;
        let client = Client::new();
        assert_eq!(fetch(&client, &url).await.expect("an answer"), "one");
        assert_eq!(client.ask(get(&url), PATIENCE).await.expect("a head").status, 200);
        // Until the second body is read, by a task of its own, others serve.
        while fetch(&client, &url).await.expect("an answer") != "three" {}
    }

    #[test]
    fn it_runs_on_the_runtime_of_a_worker() {
        let runtime = tokio::runtime::LocalRuntime::new().expect("a runtime");
        runtime.block_on(async {
            let url = server(vec![vec![answer("one")]]).await;
            assert_eq!(fetch(&Client::new(), &url).await.expect("an answer"), "one");
        });
    }

    #[tokio::test]
    async fn a_kept_connection_that_closes_is_made_anew() {
        let url = server(vec![vec![answer("one"), Some(Vec::new())], vec![answer("two")]]).await;
        let client = Client::new();
        assert_eq!(fetch(&client, &url).await.expect("an answer"), "one");
        assert_eq!(fetch(&client, &url).await.expect("an answer"), "two");
    }

    #[tokio::test]
    async fn silence_ends_with_its_time() {
        let mut half = answer("whole").expect("a text");
        half.truncate(half.len() - 1);
        let url = server(vec![vec![None], vec![Some(half), None]]).await;
        let soon = Duration::from_millis(50);
        for _ in 0..2 {
            let fault = Client::new().fetch(get(&url), 1000, soon).await.expect_err("no answer");
            assert_eq!(fault.to_string(), "no answer within 50ms");
        }
    }

    #[tokio::test]
    async fn a_body_over_its_bound_is_refused_and_its_head_is_not() {
        let body = "x".repeat(1 << 20);
        let url = server(vec![vec![answer(&body)], vec![answer(&body)]]).await;
        let client = Client::new();
        let fault = fetch(&client, &url).await.expect_err("a large answer");
        assert_eq!(fault.to_string(), "the answer has more than 1000 bytes");
        assert_eq!(client.ask(get(&url), PATIENCE).await.expect("a head").status, 200);
    }

    #[tokio::test]
    async fn faults_say_what_happened() {
        let garbage = server(vec![vec![Some(b"garbage\r\n\r\n".to_vec())]]).await;
        let fault = fetch(&Client::new(), &garbage).await.expect_err("garbage");
        assert!(fault.to_string().contains("invalid HTTP"), "{fault}");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let dead = Uri::try_from(format!("http://{address}/")).expect("a URL");
        let fault = fetch(&Client::new(), &dead).await.expect_err("a dead port");
        assert!(fault.to_string().contains("refused"), "{fault}");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer() {
        let moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n".to_vec();
        let url = server(vec![vec![Some(moved)]]).await;
        let head = Client::new().ask(get(&url), PATIENCE).await.expect("a head");
        assert_eq!(head.status, 302);
    }
}
