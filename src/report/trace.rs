//! A run as trace events, for Perfetto and `chrome://tracing`. Knows that format; ignores how it is shown.
//!
//! Source: "Trace Event Format" of the Chromium project. Times are microseconds. Slices are complete
//! events (`X`), one at a time on each thread; edges are flows (`s`, `f`) whose ends lie within slices;
//! rates are counters (`C`).

use petgraph::visit::EdgeRef;
use serde_json::{Value, json};

use super::{
    Run, Series,
    critical::node_name,
    timeline::{self, Lane, Slice, Timeline},
};
use crate::{
    graph::{Edge, Kind, NodeId},
    render::words::{clean, image_names},
};

/// What stands for workers, transfers, and what needs neither.
const CPU: u64 = 1;
const NETWORK: u64 = 2;
const OTHERS: u64 = 3;
/// Threads count from here within each: some readers know a thread by its number alone, whatever its process,
/// and take one that has its process's number for the main thread.
const FIRST_WORKER: u64 = 100;
const FIRST_TRANSFER: u64 = 10_000;
const FIRST_OTHER: u64 = 1_000_000;
/// How many values a counter has at most.
const STEPS: usize = 512;

/// A slice and the thread on which it is drawn.
#[derive(Clone, Copy)]
struct Placed {
    slice: Slice,
    pid: u64,
    tid: u64,
}

/// An event with what it is sorted by: at the same time a slice comes before the flows that it holds.
type Event = (u64, u8, Value);

/// `run` in the trace-event format: a JSON object with a newline at its end.
pub fn trace(run: &Run) -> String {
    let timeline = Timeline::of(run);
    let placed = placed(&timeline);
    let mut events: Vec<Event> = placed.iter().map(|placed| slice_event(run, placed)).collect();
    events.extend(flow_events(run, &placed));
    events.extend(counter_events(run, &timeline));
    // Stable, so that a flow's start stays before its end.
    events.sort_by_key(|(ts, order, _)| (*ts, *order));
    let mut lines: Vec<String> = names(&timeline).iter().map(Value::to_string).collect();
    lines.extend(events.into_iter().map(|(_, _, event)| event.to_string()));
    let other = json!({ "version": run.head.version, "began_ms": run.head.began_ms });
    format!(
        "{{\"displayTimeUnit\":\"ms\",\"otherData\":{other},\"traceEvents\":[\n{}\n]}}\n",
        lines.join(",\n")
    )
}

/// One thing at a time, under a name.
struct Thread<'a> {
    pid: u64,
    tid: u64,
    name: String,
    lane: &'a Lane,
}

fn threads(timeline: &Timeline) -> Vec<Thread<'_>> {
    let mut threads = Vec::new();
    let mut add = |pid: u64, first: u64, number: usize, word: &str, lane| {
        threads.push(Thread { pid, tid: first + number as u64, name: format!("{word} {number}"), lane });
    };
    for (worker, lane) in &timeline.workers {
        add(CPU, FIRST_WORKER, *worker, "worker", lane);
    }
    for (number, lane) in (1..).zip(&timeline.network) {
        add(NETWORK, FIRST_TRANSFER, number, "transfer", lane);
    }
    for (number, lane) in (1..).zip(&timeline.others) {
        add(OTHERS, FIRST_OTHER, number, "barrier", lane);
    }
    threads
}

fn placed(timeline: &Timeline) -> Vec<Placed> {
    let on = |thread: Thread| -> Vec<Placed> {
        let Thread { pid, tid, lane, .. } = thread;
        lane.iter().map(|slice| Placed { slice: *slice, pid, tid }).collect()
    };
    threads(timeline).into_iter().flat_map(on).collect()
}

/// What processes and threads are called, and in which order they stand.
fn names(timeline: &Timeline) -> Vec<Value> {
    let meta = |name: &str, pid: u64, tid: u64, args: Value| {
        let (ph, ts) = ("M", 0);
        json!({ "ph": ph, "name": name, "pid": pid, "tid": tid, "ts": ts, "args": args })
    };
    let mut all = Vec::new();
    for (pid, name) in [(CPU, "cpu"), (NETWORK, "network"), (OTHERS, "barrier")] {
        all.push(meta("process_name", pid, 0, json!({ "name": name })));
        all.push(meta("process_sort_index", pid, 0, json!({ "sort_index": pid })));
    }
    for Thread { pid, tid, name, .. } in threads(timeline) {
        all.push(meta("thread_name", pid, tid, json!({ "name": name })));
        all.push(meta("thread_sort_index", pid, tid, json!({ "sort_index": tid })));
    }
    all
}

fn slice_event(run: &Run, placed: &Placed) -> Event {
    let Placed { slice, pid, tid } = *placed;
    let node = &run.plan.graph[slice.node];
    let mut args = json!({
        "node": run.plan.id(slice.node),
        "images": clean(&image_names(&run.plan, &node.wanted_by)),
        "reason": node.reason.to_string(),
    });
    if let Some(did) = run.record.node(slice.node) {
        args["outcome"] = did.outcome.name().into();
        args["bytes"] = did.bytes.into();
        if let Some(error) = &did.error {
            args["error"] = clean(error).into();
        }
    }
    let event = json!({
        "ph": "X", "name": node_name(&run.plan, slice.node), "cat": node.kind.name(),
        "pid": pid, "tid": tid, "ts": slice.start_us, "dur": slice.took_us(), "args": args,
    });
    (slice.start_us, 0, event)
}

/// A flow for each edge of which both ends are drawn.
fn flow_events(run: &Run, placed: &[Placed]) -> Vec<Event> {
    let mut of_node: Vec<Vec<Placed>> = vec![Vec::new(); run.plan.graph.node_count()];
    for one in placed {
        let is_fetch = run.plan.graph[one.slice.node].kind == Kind::Fetch;
        // A transfer is drawn by its network, not by the pieces that check it.
        if !is_fetch || one.pid == NETWORK {
            of_node[one.slice.node.index()].push(*one);
        }
    }
    of_node.iter_mut().for_each(|slices| slices.sort_by_key(|one| one.slice));
    let mut edges: Vec<_> = run.plan.graph.edge_references().collect();
    edges.sort_by_key(|edge| (run.plan.id(edge.source()), run.plan.id(edge.target())));
    let mut events = Vec::new();
    for edge in edges {
        let Some(to) = of_node[edge.target().index()].first() else { continue };
        let from = start_of_flow(&of_node, edge.source(), edge.weight(), to.slice.start_us);
        let Some((from, ts)) = from else { continue };
        let name = match edge.weight() {
            Edge::Needs => "needs",
            Edge::Streams => "streams",
            Edge::Candidate { .. } => "candidate",
        };
        let flow = |ph: &str, one: &Placed, ts: u64| {
            json!({
                "ph": ph, "name": name, "cat": "edge", "id": events.len() / 2 + 1,
                "pid": one.pid, "tid": one.tid, "ts": ts,
            })
        };
        let (start, mut end) = (flow("s", from, ts), flow("f", to, to.slice.start_us));
        end["bp"] = "e".into();
        events.extend([(ts, 1, start), (to.slice.start_us, 2, end)]);
    }
    events
}

/// Where the flow of an edge starts: in the last slice of what is needed, in the first one of what streams,
/// and never after its end.
fn start_of_flow<'a>(
    of_node: &'a [Vec<Placed>],
    producer: NodeId,
    edge: &Edge,
    end_us: u64,
) -> Option<(&'a Placed, u64)> {
    let mut before = of_node[producer.index()].iter().take_while(|one| one.slice.start_us <= end_us);
    let from = match edge {
        Edge::Needs => before.last()?,
        Edge::Streams | Edge::Candidate { .. } => before.next()?,
    };
    // Within the slice: its end belongs to the next one already.
    Some((from, (from.slice.end_us - 1).min(end_us)))
}

fn counter_events(run: &Run, timeline: &Timeline) -> Vec<Event> {
    let counter = |pid: u64, name: &str, unit: &str, ts: u64, value: f64| -> Event {
        let value = (value * 100.0).round() / 100.0;
        let event = json!({
            "ph": "C", "name": name, "pid": pid, "tid": 0, "ts": ts, "args": { unit: value },
        });
        (ts, 3, event)
    };
    let length_us = timeline.length_us;
    let steps = STEPS.min(usize::try_from(length_us).unwrap_or(STEPS));
    let busy = timeline.busy_workers(steps);
    let at = |step: usize| (step as f64 * length_us as f64 / steps as f64) as u64;
    let mut events: Vec<Event> = busy
        .iter()
        .enumerate()
        .map(|(step, busy)| counter(CPU, "busy workers", "workers", at(step), *busy))
        .collect();
    events.push(counter(CPU, "busy workers", "workers", length_us, 0.0));
    let mut series = |pid: u64, name: &str, series: &Series| {
        let mut end_us = 0;
        for (start, end, rate) in timeline::rates(series, length_us) {
            events.push(counter(pid, name, "bytes/s", start, rate));
            end_us = end;
        }
        events.push(counter(pid, name, "bytes/s", end_us, 0.0));
    };
    series(NETWORK, "fetched", &run.record.fetched);
    series(CPU, "written", &run.record.written);
    events
}

#[cfg(test)]
mod check;
#[cfg(test)]
mod tests;
