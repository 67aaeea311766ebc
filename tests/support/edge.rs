//! The program under test: its configuration, its process and its log.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::peer::Peer;
use super::tls::{authority, client_config, connect_tls};
use super::{PATIENCE, soon, within};

/// One line of the log.
pub type Line = Value;

/// A running wsgate. It is killed when the value is dropped.
pub struct Edge {
    child: Child,
    log: Log,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    folder: TempDir,
}

/// The file a test gives the program: a plain and a TLS listener, one upstream, one route for
/// everything, heartbeats off so that none comes unasked. Tests add their own keys.
#[derive(Clone, Debug)]
pub struct Config {
    workers: usize,
    descriptors: Option<usize>,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    server: String,
    listener: String,
    certificates: Vec<String>,
    tls: String,
    endpoints: String,
    upstream: String,
    route: String,
    heartbeat: String,
    close: String,
    more: String,
    hosts: Option<PathBuf>,
}

impl Config {
    pub fn new(endpoint: &str) -> Config {
        Config {
            workers: 1,
            descriptors: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            server: String::new(),
            listener: String::new(),
            certificates: vec![authority().server("localhost")],
            tls: String::new(),
            endpoints: format!("[{endpoint:?}]"),
            upstream: String::new(),
            route: String::new(),
            heartbeat: "heartbeat.interval = \"off\"\nheartbeat.upstream.interval = \"off\"".into(),
            close: "1s".into(),
            more: String::new(),
            hosts: None,
        }
    }

    pub fn workers(self, workers: usize) -> Config {
        Config { workers, ..self }
    }

    /// The most files the process may open.
    pub fn descriptors(self, most: usize) -> Config {
        Config { descriptors: Some(most), ..self }
    }

    pub fn argument(mut self, argument: &str) -> Config {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A variable of the program's environment.
    pub fn environment(mut self, name: &str, value: impl Into<PathBuf>) -> Config {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Lines for `[server]`.
    pub fn server(mut self, lines: &str) -> Config {
        self.server += &format!("{lines}\n");
        self
    }

    /// Lines for both listeners.
    pub fn listener(mut self, lines: &str) -> Config {
        self.listener += &format!("{lines}\n");
        self
    }

    /// The only certificate, `{ chain = …, key = … }`.
    pub fn only_certificate(self, files: String) -> Config {
        Config { certificates: vec![files], ..self }
    }

    /// A further certificate, `{ chain = …, key = … }`.
    pub fn certificate(mut self, files: String) -> Config {
        self.certificates.push(files);
        self
    }

    /// Lines for `[listener.tls]`.
    pub fn tls(mut self, lines: &str) -> Config {
        self.tls += &format!("{lines}\n");
        self
    }

    /// The upstream's endpoints, as TOML.
    pub fn endpoints(self, endpoints: &str) -> Config {
        Config { endpoints: endpoints.to_owned(), ..self }
    }

    /// Lines for the upstream `app`.
    pub fn upstream(mut self, lines: &str) -> Config {
        self.upstream += &format!("{lines}\n");
        self
    }

    /// Lines for the route `app`.
    pub fn route(mut self, lines: &str) -> Config {
        self.route += &format!("{lines}\n");
        self
    }

    /// The route's `heartbeat.…` lines, in place of "off".
    pub fn heartbeat(self, lines: &str) -> Config {
        Config { heartbeat: lines.to_owned(), ..self }
    }

    /// The route's `timeouts.close`.
    pub fn close(self, close: &str) -> Config {
        Config { close: close.to_owned(), ..self }
    }

    /// Whole tables behind all the others.
    pub fn more(mut self, tables: &str) -> Config {
        self.more += &format!("{tables}\n");
        self
    }

    /// The only names that the process can resolve: a file like /etc/hosts, which may change. See
    /// [`can_have_hosts`].
    pub fn hosts(self, file: &Path) -> Config {
        Config { hosts: Some(file.to_owned()), ..self }
    }

    pub fn text(&self) -> String {
        let Config { workers, server, listener, tls, endpoints, upstream, .. } = self;
        let Config { route, heartbeat, close, more, .. } = self;
        let certificates = self.certificates.join(", ");
        format!(
            r#"
[server]
workers = {workers}
log = {{ level = "debug" }}
{server}

[[listener]]
listen = "127.0.0.1:0"
{listener}

[[listener]]
listen = "127.0.0.2:0"
{listener}
[listener.tls]
certificates = [{certificates}]
{tls}

[[upstream]]
name = "app"
endpoints = {endpoints}
{upstream}

[[route]]
name = "app"
upstream = "app"
{heartbeat}
timeouts.close = "{close}"
{route}

{more}
"#
        )
    }

    pub async fn start(&self) -> Edge {
        let mut edge = self.spawn();
        edge.plain = edge.listening(false).await;
        edge.tls = edge.listening(true).await;
        edge
    }

    /// Runs a program that must not start; gives its exit code and its words.
    pub async fn refused(&self) -> (Option<i32>, String) {
        let mut edge = self.spawn();
        let code = edge.exit(PATIENCE).await.code();
        soon("stderr ends", async { while edge.log.changed.changed().await.is_ok() {} }).await;
        let lines = edge.logged(|_| true);
        let words = lines.iter().map(|line| line.as_str().map_or(line.to_string(), str::to_owned));
        (code, words.collect::<Vec<_>>().join("\n"))
    }

    fn spawn(&self) -> Edge {
        let folder = tempfile::tempdir().expect("a folder for the configuration");
        let file = folder.path().join("wsgate.toml");
        std::fs::write(&file, self.text()).expect("the configuration's file");
        let mut command = self.command();
        command.arg("run").arg("--config").arg(file).args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("wsgate starts");
        let log = Log::of(child.stderr.take().expect("stderr is piped"));
        let unbound = SocketAddr::from(([0; 4], 0));
        Edge { child, log, plain: unbound, tls: unbound, folder }
    }

    fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_wsgate");
        if let Some(hosts) = &self.hosts {
            let mut command = with_hosts(hosts);
            command.arg(program);
            return command;
        }
        let Some(most) = self.descriptors else { return Command::new(program) };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {most} && exec \"$0\" \"$@\"")).arg(program);
        shell
    }
}

/// Whether this system lets a process have an /etc/hosts of its own.
pub fn can_have_hosts() -> bool {
    let hosts = Path::new("/etc/hosts");
    let tried = with_hosts(hosts).arg("true").stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Runs what is added as arguments with another /etc/hosts and no other source of names.
fn with_hosts(hosts: &Path) -> Command {
    let script = "mount --bind \"$0\" /etc/hosts && \
        if [ -e /etc/nsswitch.conf ]; then \
            mount -t tmpfs none /mnt && echo hosts: files > /mnt/nsswitch.conf && \
            mount --bind /mnt/nsswitch.conf /etc/nsswitch.conf; fi && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(hosts);
    command
}

impl Edge {
    async fn listening(&self, tls: bool) -> SocketAddr {
        let line =
            self.wait_for_log(|line| line["message"] == "listening" && line["tls"] == tls).await;
        let address = line["address"].as_str().expect("a listener's line has its address");
        address.parse().expect("the address has a port")
    }

    /// The configuration's file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("wsgate.toml")
    }

    /// Writes another configuration beside the file and renames it into its place; the program is
    /// not told.
    pub fn rewrite(&self, text: &str) {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, text).expect("a new configuration");
        std::fs::rename(&fresh, self.file()).expect("the new configuration takes its place");
    }

    /// Goes over to another configuration, and waits until the log says so.
    pub async fn reconfigure(&self, config: &Config) {
        self.reconfigure_by(&config.text()).await;
    }

    pub async fn reconfigure_by(&self, text: &str) {
        let before = self.logged(reloaded).len();
        self.rewrite(text);
        self.wait_for_logs(before + 1, reloaded).await;
    }

    /// A TLS connection, nothing sent on it.
    pub async fn connect(&self) -> Peer {
        let connecting = connect_tls(self.tls, "localhost", client_config());
        Peer::client(soon("a TLS handshake", connecting).await.expect("a TLS handshake"))
    }

    pub async fn connect_plain(&self) -> Peer {
        let socket = soon("a TCP connection", TcpStream::connect(self.plain)).await;
        let socket = socket.expect("a TCP connection");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        Peer::client(socket)
    }

    /// The first line that fits, now or later.
    pub async fn wait_for_log(&self, fits: impl Fn(&Line) -> bool) -> Line {
        self.wait_for_logs(1, fits).await.swap_remove(0)
    }

    /// The first `count` lines that fit, now or later.
    pub async fn wait_for_logs(&self, count: usize, fits: impl Fn(&Line) -> bool) -> Vec<Line> {
        let mut changes = self.log.changed.clone();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                let found = self.logged(&fits);
                if found.len() >= count {
                    return found;
                }
                if changes.changed().await.is_err() {
                    let found = self.logged(&fits);
                    assert!(found.len() >= count, "{} of {count}; stderr ended", found.len());
                    return found;
                }
            }
        };
        within(PATIENCE, "a line of the log", waiting).await
    }

    /// The lines so far that fit.
    pub fn logged(&self, fits: impl Fn(&Line) -> bool) -> Vec<Line> {
        self.log.lines.lock().expect("the log").iter().filter(|line| fits(line)).cloned().collect()
    }

    /// Nobody reads the log from now on, but for what is on its way, until it is read again.
    pub fn stop_reading(&self) {
        self.log.reading.send_replace(Reading::Stopped);
    }

    pub fn read_on(&self) {
        self.log.reading.send_replace(Reading::On);
    }

    /// Closes the pipe of the log behind the next line.
    pub fn close_log(&self) {
        self.log.reading.send_replace(Reading::Closed);
    }

    /// Waits until the log is read no more.
    pub async fn log_ends(&self) {
        let mut changes = self.log.changed.clone();
        soon("the log is closed", async { while changes.changed().await.is_ok() {} }).await;
    }

    /// The line of the first tunnel that ended.
    pub async fn ended(&self) -> Line {
        self.wait_for_log(ended).await
    }

    /// Waits for the first tunnel's end and compares what is said of it.
    pub async fn assert_ended(&self, reason: &str, by: &str) -> Line {
        let line = self.ended().await;
        assert_eq!((&line["reason"], &line["by"]), (&reason.into(), &by.into()), "{line}");
        line
    }

    /// The line of the first refused handshake.
    pub async fn refused(&self) -> Line {
        self.wait_for_log(|line| line["message"] == "handshake refused").await
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// How the process ended, which it must do by itself.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        within(limit, "the process ends", async {
            loop {
                if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child can be waited for").is_none()
    }

    /// Bytes of memory that are resident.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("VmRSS");
        kibibytes.parse::<usize>().expect("a number") << 10
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(folder).expect("the process is there").count()
    }

    /// Processor time used so far, of user and system.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("the process is there");
        // The fields behind the name, which is in brackets: utime and stime are the 14th and 15th.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        // USER_HZ, which is 100 on every Linux that runs these tests.
        Duration::from_secs(ticks) / 100
    }

    /// Waits until no more than `most` bytes are resident; an allocator gives back late.
    pub async fn resident_falls_to(&self, most: usize) {
        let falling = async {
            while self.resident() > most {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let falling = tokio::time::timeout(2 * PATIENCE, falling).await;
        let resident = self.resident();
        assert!(falling.is_ok(), "{resident} bytes are resident, {most} were to be left");
    }

    /// Threads of the program.
    pub fn threads(&self) -> usize {
        let tasks = format!("/proc/{}/task", self.child.id());
        std::fs::read_dir(tasks).expect("the program's threads").count()
    }

    /// Waits until no more than `most` descriptors are open.
    pub async fn descriptors_fall_to(&self, most: usize) {
        let falling = async {
            while self.descriptors() > most {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let falling = tokio::time::timeout(PATIENCE, falling).await;
        let open = self.descriptors();
        assert!(falling.is_ok(), "{open} descriptors are open, {most} were before");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = self.log.lines.lock().expect("the log");
            let from = lines.len().saturating_sub(40);
            lines[from..].iter().for_each(|line| eprintln!("wsgate: {line}"));
        }
    }
}

/// The line of a configuration that was put to use.
pub fn reloaded(line: &Line) -> bool {
    line["message"] == "configuration reloaded"
}

/// The line of one that was refused.
pub fn not_reloaded(line: &Line) -> bool {
    line["message"] == "configuration not reloaded: what runs goes on"
}

/// Whether a line tells of a tunnel's end.
pub fn ended(line: &Line) -> bool {
    line["message"] == "tunnel ended"
}

/// What the program wrote to stderr, line by line.
struct Log {
    lines: Arc<Mutex<Vec<Line>>>,
    changed: watch::Receiver<()>,
    reading: watch::Sender<Reading>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    Stopped,
    Closed,
}

impl Log {
    /// Reads until the program closes its stderr. A line that is no JSON is kept as a string.
    fn of(stderr: ChildStderr) -> Log {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (change, changed) = watch::channel(());
        let (reading, may_read) = watch::channel(Reading::On);
        let log = Log { lines: lines.clone(), changed, reading };
        std::thread::spawn(move || {
            for text in BufReader::new(stderr).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&text).unwrap_or(Value::String(text));
                lines.lock().expect("the log").push(line);
                change.send_replace(());
                while *may_read.borrow() == Reading::Stopped {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if *may_read.borrow() == Reading::Closed {
                    break;
                }
            }
        });
        log
    }
}
