//! What more workers would bring: records what each piece of a pull costs on one thread, and replays it with the real
//! scheduler on any number of workers, which sleep for so long instead. Knows a pull's pieces and their order; blobs
//! are at hand, and nobody competes for memory bandwidth or the filesystem, so the curve is an upper bound but for the time that waking up takes, which
//! slow motion makes small (the first point, divided by the work, shows how small).
//!
//! Usage: `scaling LAYOUT DIR TAG...`: pulls the images into a new repository `DIR`, and prints JSON: the recorded
//! work and its longest chain in seconds, and for each number of workers the replayed seconds.

#[path = "../common/mod.rs"]
mod common;
mod record;
mod replay;

use std::{collections::BTreeMap, path::Path};

const WORKERS: [usize; 6] = [1, 2, 4, 8, 16, 32];

fn main() -> common::Result<()> {
    let args = common::arguments();
    let [layout, dir, tags @ ..] = &args[..] else {
        println!("usage: scaling LAYOUT DIR TAG...");
        return Ok(());
    };
    let recorded = record::record(Path::new(layout), Path::new(dir), tags)?;
    let mut replayed = BTreeMap::new();
    for workers in WORKERS {
        eprintln!("replaying on {workers} workers");
        replayed.insert(workers, replay::replay(&recorded, workers)?.as_secs_f64());
    }
    let chain: BTreeMap<&str, f64> =
        recorded.chain().map(|(part, cost)| (part, cost.as_secs_f64())).into_iter().collect();
    let work = recorded.work().as_secs_f64();
    println!("{}", serde_json::json!({ "work": work, "chain": chain, "replayed": replayed }));
    Ok(())
}
