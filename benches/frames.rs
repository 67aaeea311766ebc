//! The pure parts of the relay path: frame heads and the meter, in bytes and frames per second.
//!
//! `cargo bench --bench frames`; `-- --quick` is a short run.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wsgate::ending::Side;
use wsgate::metrics::Received;
use wsgate::plan::Plan;
use wsgate::tunnel::meter::{Agreement, Meter};
use wsgate::ws::{Data, FrameHeader, OpCode, head};

/// What one read of a worker brings at the most.
const CHUNK: usize = 64 << 10;

fn frame(payload: usize) -> Vec<u8> {
    let opcode = OpCode::Data(Data::Text);
    let header = FrameHeader { opcode, mask: Some([1, 2, 3, 4]), ..FrameHeader::default() };
    let mut wire = Vec::new();
    header.format(payload as u64, &mut wire).expect("a Vec takes every byte");
    wire.resize(wire.len() + payload, b'x' ^ 1);
    wire
}

/// As many whole frames as fit in a chunk, at least one.
fn frames(payload: usize) -> (Vec<u8>, u64) {
    let one = frame(payload);
    let count = (CHUNK / one.len()).max(1);
    (one.repeat(count), count as u64)
}

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    group.throughput(Throughput::Elements(1));
    for payload in [64, 4 << 10, 256 << 10] {
        let bytes = frame(payload);
        group.bench_with_input(BenchmarkId::new("parse", payload), &bytes, |bench, bytes| {
            bench.iter(|| head::parse(black_box(bytes)));
        });
    }
    group.finish();
}

fn meter(criterion: &mut Criterion) {
    let plan = Plan::default();
    for (check_utf8, name) in [(false, "meter"), (true, "meter, UTF-8 checked")] {
        let mut group = criterion.benchmark_group(name);
        for payload in [2, 64, 4 << 10, 256 << 10] {
            let (wire, count) = frames(payload);
            let agreement = Agreement { sender: Side::Client, deflate: false, check_utf8 };
            let scan_all =
                |throughput: Throughput,
                 what: &str,
                 group: &mut criterion::BenchmarkGroup<'_, _>| {
                    group.throughput(throughput);
                    group.bench_with_input(
                        BenchmarkId::new(what, payload),
                        &wire,
                        |bench, wire| {
                            let now = Instant::now();
                            let (mut meter, tally) = (Meter::new(agreement), Received::default());
                            bench.iter(|| meter.scan(now, black_box(wire), &plan, &tally));
                        },
                    );
                };
            scan_all(Throughput::Elements(count), "frames", &mut group);
            scan_all(Throughput::Bytes(wire.len() as u64), "bytes", &mut group);
        }
        group.finish();
    }
}

criterion_group!(benches, heads, meter);
criterion_main!(benches);
