//! Sockets that echo without pause while their configuration is rewritten again and again, in
//! every way that files are rewritten: nobody is closed, nothing is lost, nothing is left behind.
//!
//! `WSGATE_STORM=2000x200` makes it as large as it is told in `docs/reload.md`. What nginx does in
//! the same storm is told by `cargo test --test reload_storm -- --ignored --nocapture`.

mod support;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Config, Edge, Event, Frame, Peer, Upgrade, accept_of, reloaded, soon, within};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// So often is the configuration rewritten: 200 times in a minute.
const PACE: Duration = Duration::from_millis(300);
/// Reloads come in so many bouts, with as long a calm before each.
const BOUTS: usize = 4;

/// Sockets and rewrites, and whether somebody asked for so many.
fn size() -> (usize, usize, bool) {
    let asked = std::env::var("WSGATE_STORM").ok();
    let asked = asked.as_deref().and_then(|text| text.split_once('x'));
    asked.map_or((200, 20, false), |(sockets, rewrites)| {
        (sockets.parse().expect("a number"), rewrites.parse().expect("a number"), true)
    })
}

#[tokio::test]
async fn a_storm_of_reloads_touches_nobody() {
    let (sockets, rewrites, asked) = size();
    let echo = echo_server().await;
    let config = Config::new(&echo).workers(2);
    let edge = config.start().await;
    let storm = Storm::begin(sockets, || edge.connect_plain()).await;
    rewrite(&edge, &config, 0).await;
    let before = (edge.descriptors(), edge.threads());
    let mut resident = Vec::new();
    let told = storm
        .blow(rewrites, async |number| {
            rewrite(&edge, &config, number).await;
            resident.push(edge.resident());
            None
        })
        .await;
    assert_eq!((edge.descriptors(), edge.threads()), before);
    assert_eq!(edge.logged(support::ended).len(), 0);
    let told = told.stop().await;
    println!(
        "wsgate: {told}; resident {} KiB after the first reload, {} KiB after the last",
        resident[0] / 1024,
        resident[resident.len() - 1] / 1024,
    );
    assert_eq!(told.lost, 0);
    // On a machine that is busy with other tests a percentile of a short run means nothing.
    assert!(!asked || told.stormy <= 2 * told.calm, "{told}");
    let grown = resident[resident.len() - 1].saturating_sub(resident[0]);
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert_eq!(edge.logged(|line| line["level"] == "ERROR").len(), 0);
}

#[tokio::test]
#[ignore = "it tells of nginx, for docs/reload.md"]
async fn what_nginx_does_in_the_same_storm() {
    beside("wsgate", async |echo| Wsgate::start(echo).await).await;
    for shutdown_timeout in ["", "worker_shutdown_timeout 10s;"] {
        let name = format!("nginx {shutdown_timeout}");
        beside(&name, async |echo| Nginx::start(echo, shutdown_timeout).await).await;
    }
}

/// The same storm over any proxy, with a client more after each reload.
async fn beside<P: Proxy>(name: &str, start: impl AsyncFnOnce(&str) -> P) {
    let (sockets, rewrites, _) = size();
    let proxy = start(&echo_server().await).await;
    let connect = async || {
        let socket = TcpStream::connect(proxy.address()).await.expect("a connection");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        Peer::client(socket)
    };
    let storm = Storm::begin(sockets, &connect).await;
    let first = proxy.footprint();
    let storm = storm
        .blow(rewrites, async |number| {
            proxy.reload(number).await;
            Some(connect().await)
        })
        .await;
    let last = proxy.footprint();
    let told = storm.stop().await;
    println!("{name}: {told}; {first} before the first reload, {last} after the last");
}

/// What is compared.
trait Proxy {
    fn address(&self) -> String;
    async fn reload(&self, number: usize);
    fn processes(&self) -> Vec<u32>;

    fn footprint(&self) -> Footprint {
        let processes = self.processes();
        let bytes = processes.iter().map(|pid| proportional(*pid)).sum();
        Footprint { processes: processes.len(), bytes }
    }
}

struct Footprint {
    processes: usize,
    bytes: usize,
}

impl fmt::Display for Footprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} processes with {} KiB", self.processes, self.bytes / 1024)
    }
}

/// Memory of a process, with its share of what it shares.
fn proportional(pid: u32) -> usize {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kibibytes.map_or(0, |number| number.parse::<usize>().expect("a number") << 10)
}

struct Wsgate {
    edge: Edge,
    config: Config,
}

impl Wsgate {
    async fn start(echo: &str) -> Wsgate {
        let config = Config::new(echo).workers(2);
        Wsgate { edge: config.start().await, config }
    }
}

impl Proxy for Wsgate {
    fn address(&self) -> String {
        self.edge.plain.to_string()
    }

    async fn reload(&self, number: usize) {
        rewrite(&self.edge, &self.config, number).await;
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.edge.id()]
    }
}

struct Nginx {
    child: Child,
    address: String,
    echo: String,
    shutdown_timeout: &'static str,
    folder: TempDir,
}

impl Nginx {
    async fn start(echo: &str, shutdown_timeout: &'static str) -> Nginx {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = free.local_addr().expect("its address").to_string();
        drop(free);
        let file = folder.path().join("nginx.conf");
        fs::write(&file, nginx_conf(folder.path(), &address, echo, shutdown_timeout, 0))
            .expect("nginx.conf");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(file).arg("-e").arg(folder.path().join("error.log"));
        let child = command.stdin(Stdio::null()).spawn().expect("nginx is installed");
        let nginx = Nginx { child, address, echo: echo.to_owned(), shutdown_timeout, folder };
        soon("nginx listens", async {
            while TcpStream::connect(nginx.address()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        nginx
    }
}

impl Proxy for Nginx {
    fn address(&self) -> String {
        self.address.clone()
    }

    /// What `nginx -s reload` does, and then a moment for the new workers to be there.
    async fn reload(&self, number: usize) {
        let (folder, timeout) = (self.folder.path(), self.shutdown_timeout);
        let text = nginx_conf(folder, &self.address, &self.echo, timeout, number);
        fs::write(folder.join("nginx.conf"), text).expect("nginx.conf");
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("nginx is there");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }

    fn processes(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().map(|pid| pid.parse().expect("a number"));
        std::iter::once(id).chain(children).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        for pid in self.processes() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let _ = kill_process(pid.expect("a process"), Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn nginx_conf(folder: &Path, address: &str, echo: &str, timeout: &str, number: usize) -> String {
    let at = folder.display();
    format!(
        "daemon off; user root; worker_processes 2; pid {at}/nginx.pid; {timeout}
         events {{ worker_connections 8192; }}
         http {{
             access_log off;
             client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
             server {{
                 listen {address};
                 location / {{
                     proxy_pass http://{echo};
                     proxy_http_version 1.1;
                     proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection upgrade;
                     proxy_read_timeout 3600s;
                     add_header X-Number {number};
                 }}
             }}
         }}"
    )
}

/// Clients that talk.
struct Storm {
    clients: JoinSet<Talk>,
    stop: Arc<AtomicBool>,
    stormy: Arc<AtomicBool>,
    reloads: usize,
    began: Instant,
}

/// What came of it. Times are from a message to its echo, the 99th percentile.
struct Told {
    sockets: usize,
    reloads: usize,
    took: Duration,
    messages: usize,
    /// Sockets that were closed or cut, by those who were told so by a Close.
    lost: usize,
    closes: BTreeSet<u16>,
    calm: Duration,
    stormy: Duration,
}

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { sockets, reloads, took, messages, lost, closes, calm, stormy } = self;
        write!(
            out,
            "{sockets} sockets, {reloads} reloads in {took:.0?}: {lost} lost, Closes {closes:?}; \
             {messages} messages, p99 {calm:.1?} in calm and {stormy:.1?} in storm"
        )
    }
}

impl Storm {
    async fn begin<F: Future<Output = Peer>>(sockets: usize, connect: impl Fn() -> F) -> Storm {
        let mut storm = Storm {
            clients: JoinSet::new(),
            stop: Arc::default(),
            stormy: Arc::default(),
            reloads: 0,
            began: Instant::now(),
        };
        for _ in 0..sockets {
            storm.join(connect().await).await;
        }
        storm
    }

    async fn join(&mut self, mut client: Peer) {
        client.upgrade(Upgrade::to("/")).await;
        self.clients.spawn(chat(client, self.stop.clone(), self.stormy.clone()));
    }

    /// Calms and bouts of reloads by turns; a reload may bring another client.
    async fn blow(
        mut self,
        reloads: usize,
        mut reload: impl AsyncFnMut(usize) -> Option<Peer>,
    ) -> Storm {
        let bout = reloads.div_ceil(BOUTS);
        while self.reloads < reloads {
            self.stormy.store(false, Ordering::Relaxed);
            tokio::time::sleep(PACE.mul_f64(bout as f64)).await;
            self.stormy.store(true, Ordering::Relaxed);
            let began = Instant::now();
            for number in 1..=bout.min(reloads - self.reloads) {
                self.reloads += 1;
                if let Some(client) = reload(self.reloads).await {
                    self.join(client).await;
                }
                tokio::time::sleep(PACE.mul_f64(number as f64).saturating_sub(began.elapsed()))
                    .await;
            }
        }
        self
    }

    async fn stop(self) -> Told {
        let took = self.began.elapsed();
        self.stop.store(true, Ordering::Relaxed);
        let talks = self.clients.join_all();
        let talks = within(Duration::from_secs(60), "all clients end", talks).await;
        let mut times = [Vec::new(), Vec::new()];
        for talk in &talks {
            for (all, own) in times.iter_mut().zip(&talk.times) {
                all.extend(own);
            }
        }
        let messages = times.iter().map(Vec::len).sum();
        let [calm, stormy] = times.map(percentile);
        let lost: Vec<_> = talks.iter().filter_map(|talk| talk.lost).collect();
        Told {
            sockets: talks.len(),
            reloads: self.reloads,
            took,
            messages,
            lost: lost.len(),
            closes: lost.into_iter().flatten().collect(),
            calm,
            stormy,
        }
    }
}

fn percentile(mut times: Vec<u32>) -> Duration {
    assert!(!times.is_empty(), "nobody said anything");
    let index = times.len() * 99 / 100;
    let (_, time, _) = times.select_nth_unstable(index);
    Duration::from_micros((*time).into())
}

/// How one client fared: microseconds of each echo in calm and in storm, and, where it lost its
/// socket, the code that it was told.
#[derive(Default)]
struct Talk {
    times: [Vec<u32>; 2],
    lost: Option<Option<u16>>,
}

/// Sends numbers and expects each to come back in its turn.
async fn chat(mut client: Peer, stop: Arc<AtomicBool>, stormy: Arc<AtomicBool>) -> Talk {
    let (mut number, mut talk) = (0_u64, Talk::default());
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (sent, in_storm) = (Instant::now(), stormy.load(Ordering::Relaxed));
        let frame = Frame::binary(number.to_be_bytes());
        let sending = client.writer.try_send(&frame.masked(true).encode()).await;
        match client.reader.next_event().await {
            Event::Frame(frame) if frame.opcode == support::BINARY => {
                assert_eq!(frame.payload, number.to_be_bytes());
            }
            Event::Frame(close) => {
                talk.lost = Some(close.closing().code);
                return talk;
            }
            Event::End { .. } => {
                talk.lost = Some(None);
                return talk;
            }
        }
        sending.expect("what was echoed was sent");
        let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
        talk.times[usize::from(in_storm)].push(micros);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.send_frame(Frame::close(1000, "")).await;
    assert_eq!(client.close().await.code, Some(1000));
    talk
}

async fn echo_server() -> String {
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("an echo server");
    let address = echo.local_addr().expect("its address").to_string();
    tokio::spawn(serve(echo));
    address
}

/// Puts another good configuration in the file's place, as an editor, a shell or Kubernetes does,
/// and waits until it is in use.
async fn rewrite(edge: &Edge, config: &Config, number: usize) {
    let text = config.clone().route(&format!("limits.backlog = \"{}KiB\"", 256 + number)).text();
    let (file, before) = (edge.file(), edge.logged(reloaded).len());
    match number % 3 {
        0 => edge.rewrite(&text),
        1 => write_in_place(&file, &text),
        _ => swap_data(file.parent().expect("it has a folder"), &text, number),
    }
    edge.wait_for_logs(before + 1, reloaded).await;
}

/// Truncates the file and writes it in two halves: what is read in between is half a file.
fn write_in_place(file: &Path, text: &str) {
    let (head, tail) = text.split_at(text.len() / 2);
    let mut file = fs::File::create(file).expect("the file opens");
    file.write_all(head.as_bytes()).expect("its first half");
    file.write_all(tail.as_bytes()).expect("its second half");
}

/// The swap of a mounted ConfigMap: the file is a link into `..data`, which is a link that is
/// turned to another folder.
fn swap_data(folder: &Path, text: &str, number: usize) {
    let version = folder.join(format!("..version{number}"));
    fs::create_dir(&version).expect("a folder for this version");
    fs::write(version.join("wsgate.toml"), text).expect("its file");
    let turned = folder.join("..data_tmp");
    symlink(&version, &turned).expect("a link to the version");
    fs::rename(&turned, folder.join("..data")).expect("the swap");
    let link = folder.join("link");
    symlink("..data/wsgate.toml", &link).expect("a link into ..data");
    fs::rename(&link, folder.join("wsgate.toml")).expect("the file is that link");
}

/// Echoes binary frames under 126 bytes, and a Close.
async fn serve(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(async move { drop(echo(socket).await) });
    }
}

async fn echo(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(socket.read_u8().await?);
    }
    let head = support::Message::parse(&read);
    let accept = accept_of(head.header("sec-websocket-key").unwrap_or_default());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await?;
    let mut wire = Vec::new();
    while socket.read_buf(&mut wire).await? > 0 {
        while let Some((frame, used)) = Frame::decode(&wire) {
            wire.drain(..used);
            let closes = frame.opcode == support::CLOSE;
            socket.write_all(&frame.masked(false).encode()).await?;
            if closes {
                return socket.shutdown().await;
            }
        }
    }
    Ok(())
}
