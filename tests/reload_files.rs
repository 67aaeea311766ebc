//! The files of a configuration as they are changed in the world: certificates renewed, links
//! turned, files half written, gone, late or plainly wrong.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    Backend, Config, Edge, PATIENCE, Pair, authority, client_config, connect_tls, not_reloaded,
    open, relay, reloaded, run, soon,
};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// What a handshake of now is shown.
async fn shown(edge: &Edge) -> CertificateDer<'static> {
    let stream = soon("a handshake", connect_tls(edge.tls, "localhost", client_config())).await;
    let stream = stream.expect("a handshake");
    let chain = stream.get_ref().1.peer_certificates().expect("a server's certificate");
    chain[0].clone().into_owned()
}

/// Waits until handshakes are shown this.
async fn shows(edge: &Edge, pair: &Pair) {
    soon("the new certificate", async {
        while shown(edge).await != pair.der {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn new_pair() -> Pair {
    authority().pair("localhost")
}

/// A folder with `tls.crt` and `tls.key`, and a configuration that names them.
struct Files {
    folder: TempDir,
    backend: Backend,
    config: Config,
}

impl Files {
    async fn new() -> Files {
        let folder = tempfile::tempdir().expect("a folder");
        let [chain, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        let backend = Backend::tcp().await;
        let files = format!("{{ chain = {chain:?}, key = {key:?} }}");
        let config = Config::new(&backend.address).only_certificate(files);
        Files { folder, backend, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, pair: &Pair) {
        self.write_chain(&pair.chain);
        self.write_key(&pair.key);
    }

    fn write_chain(&self, text: &str) {
        fs::write(self.path("tls.crt"), text).expect("a chain's file");
    }

    fn write_key(&self, text: &str) {
        fs::write(self.path("tls.key"), text).expect("a key's file");
    }
}

/// Turns a link to somewhere else, in one step.
fn turn(link: &Path, to: &Path) {
    let turned = link.with_file_name("turned");
    symlink(to, &turned).expect("a link");
    fs::rename(&turned, link).expect("the link is turned");
}

#[tokio::test]
async fn a_mounted_secret_is_renewed_by_one_turn_of_its_data() {
    let files = Files::new().await;
    let version = |number: usize, pair: &Pair| {
        let folder = files.path(&format!("..version{number}"));
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("tls.crt"), &pair.chain).expect("a chain");
        fs::write(folder.join("tls.key"), &pair.key).expect("a key");
        turn(&files.path("..data"), &folder);
    };
    let pairs = [(); 4].map(|()| new_pair());
    version(0, &pairs[0]);
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), files.path(name)).expect("a link into ..data");
    }
    let edge = files.config.start().await;
    let (mut client, mut upstream) = open(&edge, &files.backend).await;
    assert_eq!(shown(&edge).await, pairs[0].der);
    // From the second turn on the folder of the first is no longer what is watched.
    for (number, pair) in pairs.iter().enumerate().skip(1) {
        let began = Instant::now();
        version(number, pair);
        fs::remove_dir_all(files.path(&format!("..version{}", number - 1))).expect("the old one");
        shows(&edge, pair).await;
        assert!(began.elapsed() < Duration::from_secs(4), "that was polled, and not seen");
        relay(&mut client, &mut upstream, "the socket knows nothing of it").await;
    }
    assert_eq!(edge.logged(not_reloaded).len(), 0);
    edge.wait_for_log(|line| line["message"] == "certificates are those of its files now").await;
}

#[tokio::test]
async fn certbot_turns_one_link_after_the_other() {
    let files = Files::new().await;
    let archive = files.path("archive");
    fs::create_dir(&archive).expect("the archive");
    let pairs = [new_pair(), new_pair()];
    for (number, pair) in pairs.iter().enumerate() {
        fs::write(archive.join(format!("fullchain{number}.pem")), &pair.chain).expect("a chain");
        fs::write(archive.join(format!("privkey{number}.pem")), &pair.key).expect("a key");
    }
    let link = |name: &str, to: &str| turn(&files.path(name), &Path::new("archive").join(to));
    link("tls.crt", "fullchain0.pem");
    link("tls.key", "privkey0.pem");
    let edge = files.config.start().await;
    let (mut client, mut upstream) = open(&edge, &files.backend).await;
    link("tls.key", "privkey1.pem");
    // Longer than a look takes: for so long the pair does not match.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(shown(&edge).await, pairs[0].der);
    link("tls.crt", "fullchain1.pem");
    shows(&edge, &pairs[1]).await;
    relay(&mut client, &mut upstream, "still here").await;
    assert_eq!(edge.logged(not_reloaded).len(), 0, "what passes is no fault");
}

#[tokio::test]
async fn a_pair_that_stays_mismatched_is_told_after_five_seconds_and_to_whoever_asks() {
    let files = Files::new().await;
    let (first, second) = (new_pair(), new_pair());
    files.write(&first);
    let edge = files.config.start().await;
    let began = Instant::now();
    files.write_key(&second.key);
    let line = edge.wait_for_log(not_reloaded).await;
    assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
    let fault = line["fault"].as_str().expect("a text");
    assert!(fault.contains("is not the key of the first certificate in"), "{fault}");
    assert!(fault.contains("wsgate.toml:"), "it is underlined in the configuration: {fault}");
    assert_eq!(shown(&edge).await, first.der);
    edge.signal(Signal::HUP);
    edge.wait_for_logs(2, not_reloaded).await;
    files.write_chain(&second.chain);
    shows(&edge, &second).await;
    assert_eq!(edge.logged(not_reloaded).len(), 2);
}

#[tokio::test]
async fn half_a_certificate_or_none_or_one_that_has_expired_keeps_the_one_in_use() {
    let expired = authority().expired_pair("localhost");
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let good = new_pair();
    type Change<'c> = &'c dyn Fn(&Files);
    let changes: [(Change, &str); 6] = [
        (&|files| files.write_chain(&half(&good.chain)), "tls.crt"),
        (&|files| files.write_key(&half(&good.key)), "tls.key"),
        (&|files| files.write_key(""), "holds no private key in PEM form"),
        (
            &|files| fs::remove_file(files.path("tls.key")).expect("gone"),
            "cannot read the private key",
        ),
        (
            &|files| {
                fs::remove_file(files.path("tls.crt")).expect("gone");
                fs::create_dir(files.path("tls.crt")).expect("a folder in its place");
            },
            "cannot read the certificate chain: is a directory",
        ),
        (&|files| files.write(&expired), "expired"),
    ];
    let mut running = Vec::new();
    for (change, words) in changes {
        let files = Files::new().await;
        files.write(&good);
        let edge = files.config.start().await;
        change(&files);
        running.push((files, edge, words));
    }
    for (files, edge, words) in &running {
        let (mut client, mut upstream) = open(edge, &files.backend).await;
        let line = edge.wait_for_log(not_reloaded).await;
        let fault = line["fault"].as_str().expect("a text");
        assert!(fault.contains(words), "{words}: {fault}");
        assert_eq!(line["level"], "ERROR");
        assert_eq!(shown(edge).await, good.der);
        relay(&mut client, &mut upstream, "still here").await;
        // And it recovers.
        let _ = fs::remove_dir(files.path("tls.crt"));
        let next = new_pair();
        files.write(&next);
        shows(edge, &next).await;
    }
}

#[tokio::test]
async fn an_expired_certificate_is_warned_of_by_check_and_at_the_start() {
    let files = Files::new().await;
    files.write(&authority().expired_pair("localhost"));
    let edge = files.config.start().await;
    let line = edge.wait_for_log(|line| line["message"] == "a certificate has expired").await;
    assert_eq!(line["level"], "WARN");
    let checked = run(&["check", edge.file().to_str().expect("UTF-8")]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stderr.contains("expired") && checked.stderr.contains(" days ago"));
    assert!(checked.stdout.ends_with("1 warning\n"), "{}", checked.stdout);
}

// ---- faults of the configuration's own file ----

/// Thirty ways to break a file, from half-written to subtly wrong: what is looked for, and what
/// is there instead. Nothing in the first place is appended to the end.
const BROKEN: [(&str, &str); 27] = [
    ("[[upstream]]", "[[upstream]"),
    ("workers = 1", "workers ="),
    ("workers = 1", "workers = \"many\""),
    ("workers = 1", "workers = 0"),
    ("workers = 1", "workers = 1\nworkers = 2"),
    ("level = \"debug\"", "level = \"loud\""),
    ("log = {", "lgo = {"),
    ("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1\""),
    ("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:99999\""),
    ("listen = \"127.0.0.1:0\"", "listen = \"localhost:80\""),
    ("listen = \"127.0.0.1:0\"", "# listen = \"127.0.0.1:0\""),
    ("[listener.tls]", "[listener.ssl]"),
    ("chain = ", "chian = "),
    (", key = ", ", # key = "),
    ("endpoints = ", "endpoints = [] # "),
    ("endpoints = [", "endpoints = [\"127.0.0.1\", "),
    ("[[route]]\nname = \"app\"", "[[route]]"),
    ("upstream = \"app\"", "upstream = \"ap\""),
    ("timeouts.close = \"1s\"", "timeouts.close = \"1 fortnight\""),
    ("timeouts.close = \"1s\"", "timeouts.close = 1"),
    ("heartbeat.interval = \"off\"", "heartbeat.interval = \"of\""),
    ("", "[[route]]\nname = \"app\"\npath = \"/b\"\nupstream = \"app\"\n"),
    ("", "[[route]]\nname = \"b\"\nupstream = \"app\"\n"),
    ("", "[[route]]\nname = \"b\"\npath = \"ws\"\nupstream = \"app\"\n"),
    ("", "[[upstream]]\nname = \"app\"\nendpoints = [\"127.0.0.1:1\"]\n"),
    ("", "[[listener]]\nlisten = \"127.0.0.1:9\"\nlimits.pending = \"x\"\n"),
    (
        "",
        "[[route]]\nname = \"\u{7}\"\npath = \"/b\"\nupstream = \"app\"\nlimits.max_frame_size = \"-1\"\n",
    ),
];

fn broken(good: &str) -> Vec<Vec<u8>> {
    let edited = BROKEN.iter().map(|(from, to)| {
        let text = match *from {
            "" => good.to_owned() + to,
            from => {
                assert!(good.contains(from), "{from}");
                good.replacen(from, to, 1)
            }
        };
        text.into_bytes()
    });
    let half = good.as_bytes()[..good.len() / 2].to_vec();
    let not_text = [good.as_bytes(), b"# \xff\xfe\n"].concat();
    edited.chain([Vec::new(), half, not_text]).collect()
}

#[tokio::test]
async fn thirty_broken_files_are_each_told_as_check_tells_them() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let file = edge.file();
    let all = broken(&config.text());
    assert_eq!(all.len(), 30);
    for (number, bytes) in all.iter().enumerate() {
        fs::write(file.with_extension("next"), bytes).expect("a broken file");
        fs::rename(file.with_extension("next"), &file).expect("it takes the place");
        edge.signal(Signal::HUP);
        let lines = edge.wait_for_logs(number + 1, not_reloaded).await;
        let told = lines[number]["fault"].as_str().expect("a text");
        let checked = run(&["check", file.to_str().expect("UTF-8")]).await;
        assert_eq!(checked.code, Some(1), "{}", String::from_utf8_lossy(bytes));
        let (report, _count) = checked.stderr.trim_end().rsplit_once('\n').expect("two lines");
        assert_eq!(told.trim_end(), report.trim_end());
        let name = file.display().to_string();
        assert!(told.starts_with("error: ") && told.contains(&name), "{told}");
    }
    relay(&mut client, &mut upstream, "still here").await;
    assert_eq!(edge.logged(reloaded).len(), 0);
    edge.reconfigure(&config.route("limits.backlog = \"1MiB\"")).await;
}

// ---- files that go and come ----

/// A named file, a seed, that is good from the start.
async fn seeded(folder: &TempDir) -> (Backend, Config) {
    let seed = folder.path().join("seeds/seed");
    fs::create_dir_all(folder.path().join("seeds")).expect("a folder");
    fs::write(&seed, "the first seed").expect("a seed");
    let backend = Backend::tcp().await;
    let lines = format!("hash_key = [\"path\"]\nhash_seed_file = {seed:?}");
    let config = Config::new(&backend.address).upstream(&lines);
    (backend, config)
}

#[tokio::test]
async fn a_file_that_is_removed_and_comes_back_soon_is_no_fault() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let text = config.clone().route("limits.backlog = \"1MiB\"").text();
    fs::remove_file(edge.file()).expect("it goes");
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::write(edge.file(), &text).expect("it comes back");
    edge.wait_for_log(reloaded).await;
    assert_eq!(edge.logged(not_reloaded).len(), 0);
    fs::remove_file(edge.file()).expect("it goes");
    let line = edge.wait_for_log(not_reloaded).await;
    let fault = line["fault"].as_str().expect("a text");
    assert!(fault.starts_with("cannot read ") && fault.contains("No such file"), "{fault}");
    edge.reconfigure(&config).await;
}

#[tokio::test]
async fn a_folder_that_is_removed_and_made_again_is_followed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (backend, config) = seeded(&folder).await;
    let edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let seeds = folder.path().join("seeds");
    fs::remove_dir_all(&seeds).expect("it goes");
    edge.wait_for_log(not_reloaded).await;
    fs::create_dir(&seeds).expect("it is there again");
    fs::write(seeds.join("seed"), "the second seed").expect("a seed");
    edge.wait_for_log(reloaded).await;
    // Seen at once, and not only when somebody looks.
    for (number, seed) in ["third", "fourth"].iter().enumerate() {
        let began = Instant::now();
        fs::write(seeds.join("seed"), seed).expect("a seed");
        edge.wait_for_logs(number + 2, reloaded).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
    // A folder that is moved away, and another that takes its name.
    fs::create_dir(folder.path().join("others")).expect("others");
    fs::write(folder.path().join("others/seed"), "the fifth seed").expect("a seed");
    fs::rename(&seeds, folder.path().join("away")).expect("away");
    fs::rename(folder.path().join("others"), &seeds).expect("others");
    edge.wait_for_logs(4, reloaded).await;
    let began = Instant::now();
    fs::write(seeds.join("seed"), "the sixth seed").expect("a seed");
    edge.wait_for_logs(5, reloaded).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    relay(&mut client, &mut upstream, "still here").await;
}

#[tokio::test]
async fn a_named_file_may_appear_late() {
    let folder = tempfile::tempdir().expect("a folder");
    let (backend, seeded) = seeded(&folder).await;
    let edge = Config::new(&backend.address).start().await;
    let seed = folder.path().join("seeds/seed");
    fs::remove_file(&seed).expect("not there yet");
    edge.rewrite(&seeded.text());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((edge.logged(reloaded).len(), edge.logged(not_reloaded).len()), (0, 0));
    fs::write(&seed, "late").expect("a seed");
    edge.wait_for_log(reloaded).await;
    assert_eq!(edge.logged(not_reloaded).len(), 0);
}

#[tokio::test]
async fn an_editors_files_beside_it_are_no_reload() {
    let config = Config::new(&Backend::nobody().await);
    let edge = config.start().await;
    let text = config.text();
    for name in [".wsgate.toml.swp", "wsgate.toml~", "4913", "#wsgate.toml#", "notes"] {
        let beside = edge.file().with_file_name(name);
        fs::write(&beside, "not a configuration").expect("a file beside it");
        fs::remove_file(&beside).expect("it goes again");
    }
    // Saved as it was, in place and by a rename.
    fs::write(edge.file(), &text).expect("the same text");
    edge.rewrite(&text);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    edge.signal(Signal::HUP);
    let line = edge.wait_for_log(|line| line["message"] == "configuration unchanged").await;
    assert_eq!(line["generation"], 1);
    assert_eq!((edge.logged(reloaded).len(), edge.logged(not_reloaded).len()), (0, 0));
}

#[tokio::test]
async fn a_pipe_that_is_named_is_read_at_the_start_and_refused_afterwards() {
    let folder = tempfile::tempdir().expect("a folder");
    let (backend, config) = seeded(&folder).await;
    let pipe = folder.path().join("seeds/seed");
    fs::remove_file(&pipe).expect("the seed goes");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let writer = std::thread::spawn(move || fs::write(pipe, "through a pipe"));
    let mut edge = config.start().await;
    writer.join().expect("a writer").expect("somebody read it");
    let (mut client, mut upstream) = open(&edge, &backend).await;
    edge.rewrite(&config.clone().route("limits.backlog = \"1MiB\"").text());
    edge.signal(Signal::HUP);
    let line = edge.wait_for_log(not_reloaded).await;
    let fault = line["fault"].as_str().expect("a text");
    assert!(fault.contains("can be read but once: restart to change it"), "{fault}");
    assert!(fault.contains("hash_seed_file"), "{fault}");
    relay(&mut client, &mut upstream, "nobody waits for a pipe").await;
    edge.signal(Signal::TERM);
    client.closes(1012).await;
    drop(upstream);
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
}
