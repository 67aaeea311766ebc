//! To choose an endpoint allocates nothing, however many there are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Uri, header};
use wsgate::config::Config;
use wsgate::upstream::{Asking, Cluster};

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps to what `GlobalAlloc::alloc` asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to what `GlobalAlloc::dealloc` asks.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn cluster(lines: &str) -> Cluster {
    let endpoints: Vec<String> = (0..200).map(|it| format!("\"10.0.0.{it}:9001\"")).collect();
    let text = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\n\
         [[upstream]]\nname = \"app\"\nendpoints = [{}]\n{lines}\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\n",
        endpoints.join(", ")
    );
    let parsed = Config::parse(&text, Path::new("test.toml")).expect("a good file");
    Cluster::new(&parsed.config.upstreams[0], None).expect("no seed file")
}

#[test]
fn a_first_choice_allocates_nothing() {
    let mut headers = HeaderMap::new();
    let cookies = HeaderValue::from_static("wsgate_affinity=stale; session=0123456789abcdef");
    headers.insert(header::COOKIE, cookies);
    let uri = Uri::from_static("/ws?room=lobby");
    let client = [192, 0, 2, 7].into();
    let asking = Asking { headers: &headers, uri: &uri, client, claim: &|_| None };
    for lines in [
        "hash_key = [\"cookie:session\"]",
        "hash_key = [\"query:absent\", \"header:x-absent\", \"client-ip\"]\nbounded_load = 1.25",
        "balance = \"least-connections\"\naffinity_cookie = {}",
        "balance = \"round-robin\"",
    ] {
        let cluster = cluster(lines);
        // What a thread makes once, it has made then.
        let wish = cluster.wish(&asking);
        drop(cluster.choice(&wish).next(Instant::now()));

        let before = COUNT.get();
        let wish = cluster.wish(&asking);
        let lease = cluster.choice(&wish).next(Instant::now());
        assert_eq!(COUNT.get() - before, 0, "{lines}");
        assert!(lease.is_some());
    }
}
