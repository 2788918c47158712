//! What the Rust crate `ministore` does for one append, transcribed: turn the record into JSON, write line
//! and line feed through a `BufWriter` on tokio's file, flush, `sync_all`; on the current-thread runtime of
//! its examples. Source: `MiniStore::append` in `ministore/src/lib.rs` of ArcellaTeam/mini-rs, version 0.1.5.
//!
//!   ministore-append PATH LINE_BYTES MILLISECONDS
//!
//! Takes and prints the same as append-floor.c: how long each append took, in nanoseconds, one a line. The
//! first ones are not printed: they make the file.
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncWriteExt, BufWriter, Result};

const WARM_UP_APPENDS: usize = 5;

async fn append(journal: &mut BufWriter<File>, record: &Value) -> Result<()> {
    let line = serde_json::to_string(record)?;
    journal.write_all(line.as_bytes()).await?;
    journal.write_all(b"\n").await?;
    journal.flush().await?;
    journal.get_ref().sync_all().await
}

/// A record whose line, with its line feed, takes so many bytes.
fn record_of(bytes: usize) -> Value {
    let around = json!({ "id": 1, "text": "" }).to_string().len() + 1;
    json!({ "id": 1, "text": "x".repeat(bytes.saturating_sub(around)) })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().collect();
    let [_, path, bytes, milliseconds] = &given[..] else {
        eprintln!("usage: ministore-append PATH LINE_BYTES MILLISECONDS");
        std::process::exit(2);
    };
    let record = record_of(bytes.parse().expect("LINE_BYTES"));
    let slice = Duration::from_millis(milliseconds.parse().expect("MILLISECONDS"));

    let file = OpenOptions::new().append(true).create_new(true).open(path).await?;
    let mut journal = BufWriter::new(file);
    for _ in 0..WARM_UP_APPENDS {
        append(&mut journal, &record).await?;
    }
    let mut latencies = Vec::new();
    let begun = Instant::now();
    let mut before = begun;
    while latencies.is_empty() || before - begun < slice {
        append(&mut journal, &record).await?;
        let after = Instant::now();
        latencies.push((after - before).as_nanos());
        before = after;
    }
    for latency in latencies {
        println!("{latency}");
    }
    Ok(())
}
