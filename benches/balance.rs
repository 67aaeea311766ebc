//! What it costs to choose an endpoint, by the number there are.
//!
//! `cargo bench --bench balance`; `-- --quick` is a short run.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Uri, header};
use wsgate::config::Config;
use wsgate::upstream::{Asking, Cluster};

/// A cluster of so many endpoints, some heavier than others.
fn cluster(endpoints: usize, lines: &str) -> Cluster {
    let table = |number: usize| {
        let (a, b, weight) = (number / 250, number % 250 + 1, number % 3 + 1);
        format!("{{ address = \"10.0.{a}.{b}:9001\", weight = {weight} }}")
    };
    let endpoints = (0..endpoints).map(table).collect::<Vec<_>>().join(", ");
    let text = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\n\
         [[upstream]]\nname = \"app\"\nendpoints = [{endpoints}]\n{lines}\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\n"
    );
    let parsed = Config::parse(&text, Path::new("bench.toml")).expect("a good file");
    Cluster::new(&parsed.config.upstreams[0], None).expect("no seed file")
}

fn choose(criterion: &mut Criterion) {
    let mut headers = HeaderMap::new();
    headers
        .insert(header::COOKIE, HeaderValue::from_static("theme=dark; session=0123456789abcdef"));
    let uri = Uri::from_static("/ws?room=lobby");
    let client = [192, 0, 2, 7].into();
    let asking = Asking { headers: &headers, uri: &uri, client, claim: &|_| None };
    let balances = [
        ("hash", "hash_key = [\"cookie:session\"]"),
        ("bounded", "hash_key = [\"cookie:session\"]\nbounded_load = 1.25"),
        ("least-connections", ""),
        ("round-robin", "balance = \"round-robin\""),
    ];
    for (name, lines) in balances {
        let mut group = criterion.benchmark_group(name);
        for endpoints in [10, 100, 1000] {
            let cluster = cluster(endpoints, lines);
            group.bench_function(BenchmarkId::from_parameter(endpoints), |bench| {
                let now = Instant::now();
                bench.iter(|| {
                    let wish = cluster.wish(black_box(&asking));
                    black_box(cluster.choice(&wish).next(now))
                });
            });
        }
    }
}

criterion_group!(benches, choose);
criterion_main!(benches);
