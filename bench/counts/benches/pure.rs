//! How long the pure parts of handoffd take: `make bench-pure`. Times differ from machine to machine and from run to run;
//! what `make test` watches is the instructions of the same operations.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use handoff_counts::cases;

fn pure(criterion: &mut Criterion) {
    for case in cases() {
        criterion.bench_function(case.name, |bencher| bencher.iter((case.prepare)()));
    }
}

criterion_group! {
    name = parts;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = pure
}
criterion_main!(parts);
