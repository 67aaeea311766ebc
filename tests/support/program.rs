//! A program that is started, listened to and ended, whatever it is.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, within};

/// The built wsgate, about to be run.
pub fn wsgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsgate"));
    command.args(arguments);
    command
}

/// Node, about to run a script of `folder`. What it requires is that of the examples, for all tests.
pub fn node(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(script).current_dir(folder).env("NODE_PATH", packages());
    command
}

/// Whether Node and those packages are installed: `npm ci` in `examples` does the latter.
pub fn has_packages(names: &[&str]) -> bool {
    let node = Command::new("node").arg("--version").output();
    node.is_ok() && names.iter().all(|name| packages().join(name).is_dir())
}

fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node_modules")
}

/// A headless Chromium, which says on stderr where it can be driven.
pub fn chromium(profile: &Path) -> Command {
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--ignore-certificate-errors",
        "--remote-debugging-port=0",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
    command
}

/// A running program. It is killed when the value is dropped.
pub struct Program {
    name: String,
    child: Child,
    stdout: Words,
    stderr: Words,
}

/// What a program that ended by itself leaves.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; a signal has none.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn start(command: &mut Command) -> Program {
        let name = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = Words::of(child.stdout.take().expect("stdout is piped"));
        let stderr = Words::of(child.stderr.take().expect("stderr is piped"));
        Program { name, child, stdout, stderr }
    }

    /// Stdout, once `text` is in it.
    pub async fn says(&self, text: &str) -> String {
        self.says_within(PATIENCE, text).await
    }

    pub async fn says_within(&self, limit: Duration, text: &str) -> String {
        self.stdout.wait_for(limit, text).await
    }

    /// Stderr, once `text` is in it.
    pub async fn complains(&self, text: &str) -> String {
        self.stderr.wait_for(PATIENCE, text).await
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// What it left, when it has ended by itself.
    pub async fn ended(mut self, limit: Duration) -> Ended {
        let ending = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let status = within(limit, &format!("{} ends", self.name), ending).await;
        Ended { code: status.code(), stdout: self.stdout.all(), stderr: self.stderr.all() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let (stdout, stderr) = (self.stdout.so_far(), self.stderr.so_far());
            eprintln!("{}\nstdout: {stdout}\nstderr: {stderr}", self.name);
        }
    }
}

/// Runs wsgate to its end.
pub async fn run(arguments: &[&str]) -> Ended {
    Program::start(&mut wsgate(arguments)).ended(PATIENCE).await
}

/// One output of a program, read as it comes.
struct Words {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Words {
    fn of(mut pipe: impl Read + Send + 'static) -> Words {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = text.clone();
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            let mut bytes = Vec::new();
            while let Ok(size @ 1..) = pipe.read(&mut chunk) {
                bytes.extend_from_slice(&chunk[..size]);
                *sink.lock().expect("a program's words") = String::from_utf8_lossy(&bytes).into();
            }
        });
        Words { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        self.text.lock().expect("a program's words").clone()
    }

    /// All of it; the program has ended.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of a program's words");
        }
        self.so_far()
    }

    async fn wait_for(&self, limit: Duration, text: &str) -> String {
        within(limit, &format!("the words {text:?}"), async {
            loop {
                let words = self.so_far();
                if words.contains(text) {
                    return words;
                }
                let ended = self.reader.as_ref().is_none_or(JoinHandle::is_finished);
                assert!(!ended || self.so_far().contains(text), "{text:?} was due: {words}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

/// Python, in the venv of the peers where there is one.
pub fn python() -> Command {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers-venv/bin/python");
    Command::new(if own.exists() { own } else { "python3".into() })
}

/// Whether it has these modules.
pub fn python_knows(modules: &str) -> bool {
    let imported = python().args(["-c", &format!("import {modules}")]).output();
    imported.is_ok_and(|output| output.status.success())
}
