//! The command line as an operator meets it: exit codes, and which words go where.

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Backend, Config, Ended, PATIENCE, Program, authority, run, wsgate};
use tempfile::TempDir;

/// A file with `listener` as its only listener.
fn configuration(listener: &str) -> String {
    format!(
        "[[listener]]\n{listener}\n[[upstream]]\nname = \"app\"\nendpoints = [\"127.0.0.1:9001\"]\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\n"
    )
}

/// A configuration's file, and the folder that it goes with.
struct File {
    path: PathBuf,
    _folder: TempDir,
}

impl File {
    fn of(text: &str) -> File {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wsgate.toml");
        std::fs::write(&path, text).expect("a configuration");
        File { path, _folder: folder }
    }

    fn name(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    async fn check(&self) -> Ended {
        run(&["check", self.name()]).await
    }

    async fn run(&self) -> Ended {
        run(&["run", "--config", self.name()]).await
    }
}

#[track_caller]
fn assert_succeeds(ended: &Ended) {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
}

/// Failed with that code, and every one of the words is on stderr; stdout is for results.
#[track_caller]
fn assert_fails(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{ended:?}");
    for due in words {
        assert!(ended.stderr.contains(due), "{due:?} is not in {}", ended.stderr);
    }
}

#[tokio::test]
async fn the_version_is_one_line() {
    for argument in ["--version", "-V"] {
        let ended = run(&[argument]).await;
        assert_succeeds(&ended);
        assert_eq!(ended.stdout, concat!("wsgate ", env!("CARGO_PKG_VERSION"), "\n"));
    }
}

#[tokio::test]
async fn help_lists_every_command() {
    let asked = run(&["--help"]).await;
    assert_succeeds(&asked);
    for command in ["run", "check", "diff", "schema", "demo", "completions", "man"] {
        assert!(asked.stdout.contains(&format!("\n  {command} ")), "{command}: {}", asked.stdout);
    }
    let unasked = run(&[]).await;
    assert_fails(&unasked, 2, &["Usage: wsgate <COMMAND>", "Commands:"]);
}

#[tokio::test]
async fn wrong_arguments_exit_2_and_are_named() {
    assert_fails(&run(&["chekc"]).await, 2, &["'chekc'", "similar", "'check'", "Usage:"]);
    assert_fails(&run(&["run"]).await, 2, &["--config <FILE>"]);
    assert_fails(&run(&["check"]).await, 2, &["<FILE>"]);
    assert_fails(&run(&["completions", "cobol"]).await, 2, &["'cobol'", "bash", "fish", "zsh"]);
    let file = File::of(&configuration("listen = \"127.0.0.1:0\""));
    for grace in ["5s", "8999ms"] {
        let refused = run(&["run", "--config", file.name(), "--grace", grace]).await;
        assert_fails(&refused, 2, &[grace, "--grace", "9s or more"]);
    }
    let refused = run(&["run", "--config", file.name(), "--grace", "soon"]).await;
    assert_fails(&refused, 2, &["'soon'", "--grace"]);
}

#[tokio::test]
async fn a_good_file_is_checked_in_one_line() {
    let file = File::of(&configuration("listen = \"127.0.0.1:0\""));
    let checked = file.check().await;
    assert_succeeds(&checked);
    let name = file.name();
    assert_eq!(checked.stdout, format!("{name}: good: 1 listener, 1 upstream, 1 route\n"));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_exits_2() {
    for arguments in [["check"].as_slice(), &["run", "--config"]] {
        for (path, why) in [("no/such.toml", "No such file or directory"), ("/", "Is a directory")]
        {
            let words = format!("error: cannot read {path}: {why}");
            assert_fails(&run(&[arguments, &[path]].concat()).await, 2, &[&words]);
        }
    }
}

#[tokio::test]
async fn run_says_of_a_faulty_file_exactly_what_check_says() {
    let text = configuration("listen = \"127.0.0.1:99999\"\nlimit.pending = 5");
    let file = File::of(&text);
    let checked = file.check().await;
    let place = format!("{}:2:10", file.name());
    let words = ["error: ", &place, "127.0.0.1:99999", "^^^", "limits", "2 faults\n"];
    assert_fails(&checked, 1, &words);
    assert!(!checked.stderr.contains('\x1b'), "colours are for terminals: {}", checked.stderr);
    let refused = file.run().await;
    assert_fails(&refused, 1, &[]);
    assert_eq!(refused.stderr, checked.stderr);
}

#[tokio::test]
async fn the_files_of_conf_are_good_once_the_files_they_name_are_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut making = wsgate(&["demo", "--certificate-only"]);
    let made = Program::start(making.current_dir(folder.path())).ended(PATIENCE).await;
    assert_succeeds(&made);
    std::fs::copy(authority().file("ca.pem"), folder.path().join("certs/clients.pem"))
        .expect("the clients' authority");
    std::fs::copy(authority().file("ca.pem"), folder.path().join("certs/ca.pem"))
        .expect("the upstream's authority");
    for kind in ["pem", "key"] {
        let certificate = |name: &str| folder.path().join("certs").join(name).with_extension(kind);
        std::fs::copy(certificate("localhost"), certificate("edge")).expect("the edge's own");
    }
    std::fs::write(folder.path().join("certs/seed"), "a seed").expect("a seed for hashes");
    std::fs::write(folder.path().join("certs/admin.token"), "0123456789abcdef").expect("a token");
    std::fs::create_dir(folder.path().join("conf")).expect("a folder");
    for name in ["wsgate.toml", "reference.toml"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
        let file = folder.path().join("conf").join(name);
        std::fs::copy(source, &file).expect("a copy");
        let checked = run(&["check", file.to_str().expect("UTF-8")]).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert!(checked.stdout.contains(": good: 1 listener, 1 upstream, 1 route"), "{checked:?}");
        assert!(!checked.stderr.contains("error"), "{checked:?}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_the_way_out() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("an address").to_string();
    let file = File::of(&configuration(&format!("listen = \"{address}\"")));
    assert_succeeds(&file.check().await);
    let words = [
        &format!("wsgate: cannot listen on {address}: Address already in use"),
        "ss -ltnp",
        "reuse_port",
    ];
    assert_fails(&file.run().await, 1, &words);
}

#[tokio::test]
async fn a_certificate_and_a_key_that_do_not_match_are_refused() {
    let [one, two] = ["one.example", "two.example"].map(|name| authority().server(name));
    let (chain, _) = one.split_once(", key").expect("a chain");
    let (_, key) = two.split_once(", key").expect("a key");
    let tls = format!("tls.certificates = [{chain}, key{key}]");
    let file = File::of(&configuration(&format!("listen = \"127.0.0.1:0\"\n{tls}")));
    let checked = file.check().await;
    let words = ["error: ", "is not the key of the first certificate in ", "wsgate.toml:3:", "^^^"];
    assert_fails(&checked, 1, &words);
    let refused = file.run().await;
    assert_fails(&refused, 1, &[]);
    assert_eq!(refused.stderr, checked.stderr);
}

#[tokio::test]
async fn the_schema_is_json() {
    let ended = run(&["schema"]).await;
    assert_succeeds(&ended);
    let schema: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    for table in ["server", "listener", "upstream", "route"] {
        assert!(schema["properties"][table].is_object(), "{table}");
    }
    assert!(ended.stdout.ends_with("}\n"));
}

#[tokio::test]
async fn shells_get_their_completions() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef wsgate"), ("fish", "complete -c wsgate")]
    {
        let ended = run(&["completions", shell]).await;
        assert_succeeds(&ended);
        assert!(ended.stdout.contains(word), "{shell}: {}", ended.stdout);
        assert!(ended.stdout.contains("grace"), "{shell} knows the options too");
    }
}

#[tokio::test]
async fn the_man_page_is_roff() {
    let ended = run(&["man"]).await;
    assert_succeeds(&ended);
    for due in [".TH wsgate 1", ".SH NAME", ".SH SYNOPSIS", "run"] {
        assert!(ended.stdout.contains(due), "{due}: {}", ended.stdout);
    }
}

/// Two configurations by their texts, as a difference.
async fn diff(old: &str, new: &str) -> Ended {
    let (old, new) = (File::of(old), File::of(new));
    run(&["diff", old.name(), new.name()]).await
}

#[tokio::test]
async fn a_difference_is_told_by_what_it_does_to_whom() {
    let old = configuration(
        "listen = \"127.0.0.1:8080\"\ntls = { certificates = [{ chain = \"a\", key = \"b\" }] }",
    );
    let same = diff(&old, &old).await;
    assert_succeeds(&same);
    assert_eq!(same.stdout, "Nothing would change.\n");
    let new =
        old.replace("127.0.0.1:9001", "127.0.0.1:9002").replace("chain = \"a\"", "chain = \"c\"")
            + "limits.backlog = \"1MiB\"\nplain_http = \"proxy\"\n\
           request_headers = { set = { authorization = \"Basic c2VjcmV0\" } }\n\
           [server]\nworkers = 2\n";
    let told = diff(&old, &new).await;
    assert_succeeds(&told);
    let expected = "\
For new connections; live sockets go on as they are:
  listener 127.0.0.1:8080: tls
  upstream \"app\", endpoint 127.0.0.1:9002: added
  route \"app\": plain_http
  route \"app\": request_headers
At once, for live sockets too, at their next frame or timer:
  route \"app\": limits.backlog
Removed; live sockets close with 1012, spread over the drain's window:
  upstream \"app\", endpoint 127.0.0.1:9001: removed
Only by a restart:
  server: workers
";
    assert_eq!(told.stdout, expected);
    let back = diff(&new, &old).await;
    assert!(!back.stdout.contains("c2VjcmV0") && back.stdout.contains("request_headers"));
    let kept = old.replace("endpoints", "on_removed = \"keep\"\nendpoints");
    let told = diff(&kept, &new).await;
    assert!(told.stdout.contains("Removed; live sockets go on:\n  upstream \"app\", endpoint"));
}

#[tokio::test]
async fn a_difference_of_what_is_faulty_or_not_there_is_told_as_check_tells_it() {
    let good = configuration("listen = \"127.0.0.1:8080\"");
    let bad = good.replace("9001", "99999").replace("[[route]]", "[[routes]]");
    for (old, new) in [(&good, &bad), (&bad, &good)] {
        assert_fails(&diff(old, new).await, 1, &["error: ", "99999", "wsgate.toml:5:", "routes"]);
    }
    let both = diff(&bad, &bad).await;
    assert_eq!(
        both.stderr.matches("99999\"").count(),
        2 * diff(&bad, &good).await.stderr.matches("99999\"").count()
    );
    let file = File::of(&good);
    let gone = run(&["diff", file.name(), "no/such.toml"]).await;
    assert_fails(&gone, 2, &["error: cannot read no/such.toml: No such file"]);
    assert_fails(&run(&["diff", file.name()]).await, 2, &["<NEW>"]);
}

#[tokio::test]
async fn an_idle_process_stops_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut edge = Config::new(&Backend::nobody().await).start().await;
        let signalled = Instant::now();
        edge.signal(signal);
        assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
        assert!(signalled.elapsed() < Duration::from_secs(2), "{:?}", signalled.elapsed());
    }
}
