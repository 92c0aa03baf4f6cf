//! Chains of runs made by hand, and of the sample run.

use std::collections::BTreeMap;

use super::*;
use crate::{
    graph::{State, sample},
    report::{Limits, NodeOutcome, NodeRecord, Record, RunEnd, Span, Summary, sample_run},
};

/// A run of one layer; `times` has start, first work, end and busy time of each kind in milliseconds.
fn run(times: &[(Kind, u64, u64, u64, u64)], held_ms: u64) -> Run {
    let plan = sample::twice_the_same_layer();
    let (mut nodes, mut spans) = (Vec::new(), Vec::new());
    for &(kind, start, first, end, busy) in times {
        let of_kind =
            |node: &NodeId| plan.graph[*node].kind == kind && plan.graph[*node].state == State::Needed;
        let node = plan.graph.node_indices().find(of_kind).unwrap().index();
        let counts = match kind {
            Kind::Fetch => BTreeMap::from([("held_us".to_owned(), held_ms * 1000)]),
            _ => BTreeMap::new(),
        };
        nodes.push(NodeRecord {
            node,
            start_us: Some(start * 1000),
            end_us: Some(end * 1000),
            cpu_us: busy * 1000,
            bytes: 32,
            counts,
            outcome: NodeOutcome::Finished,
            ..NodeRecord::default()
        });
        // Half of the work at its beginning, half at its end.
        let worker = kind as usize;
        if !matches!(kind, Kind::Fetch | Kind::Tag) {
            let half = busy * 500;
            for start_us in [first * 1000, end * 1000 - half] {
                spans.push(Span { worker, node, start_us, end_us: start_us + half });
            }
        }
    }
    nodes.sort_by_key(|node| node.node);
    let wall_us = times.iter().map(|times| times.3).max().unwrap_or(0) * 1000 + 5000;
    let record = Record { schema: 1, wall_us, nodes, spans, ..Record::default() };
    let summary = Summary::new(&plan, &record);
    let limits = Limits { workers: 4, downloads: 2, memory_bytes: 1 << 28 };
    Run::new(plan, record, &summary, std::time::UNIX_EPOCH, limits, RunEnd::Whole)
}

/// Kind, from and to in milliseconds.
fn chain(run: &Run) -> Vec<(Kind, u64, u64)> {
    let path = critical_path(run);
    tiles(&path);
    let part = |link: &Link| (run.plan.graph[link.node].kind, link.from_us / 1000, link.to_us / 1000);
    path.links.iter().map(part).collect()
}

/// The parts and what was waited between them make up the run.
fn tiles(path: &CriticalPath) {
    let mut at = 0;
    for link in &path.links {
        assert_eq!(at + link.waited_us, link.from_us, "{path:?}");
        assert!(link.from_us <= link.to_us && link.idle_us <= link.to_us - link.from_us);
        at = link.to_us;
    }
    assert_eq!(at + path.after_us, path.wall_us);
}

#[test]
fn a_slow_network_has_the_common_time() {
    let run = run(
        &[
            (Kind::Fetch, 10, 10, 6000, 0),
            (Kind::Split, 10, 30, 6010, 3000),
            (Kind::Write, 10, 50, 6020, 2000),
            (Kind::Encode, 10, 60, 6025, 100),
            (Kind::Finalize, 6030, 6030, 6040, 10),
            (Kind::Tag, 6050, 6050, 6100, 0),
        ],
        500,
    );
    let expected = [
        (Kind::Fetch, 10, 6000),
        (Kind::Split, 6000, 6010),
        (Kind::Write, 6010, 6020),
        (Kind::Encode, 6020, 6025),
        (Kind::Finalize, 6030, 6040),
        (Kind::Tag, 6050, 6100),
    ];
    // The tag's producers have no times in this record, so the chain ends there.
    assert_eq!(chain(&run), expected[5..]);
    let mut whole = run;
    whole.record.nodes.retain(|node| whole.plan.graph[NodeId::new(node.node)].kind != Kind::Tag);
    assert_eq!(chain(&whole), expected[..5]);
}

#[test]
fn a_fetch_that_was_held_up_is_no_bottleneck() {
    let run = run(
        &[
            (Kind::Fetch, 10, 10, 6000, 0),
            (Kind::Split, 10, 30, 6200, 5800),
            (Kind::Encode, 10, 60, 6210, 100),
        ],
        4000,
    );
    assert_eq!(chain(&run), [(Kind::Fetch, 10, 30), (Kind::Split, 30, 6200), (Kind::Encode, 6200, 6210)]);
    let path = critical_path(&run);
    let won: Vec<u64> = path.links.iter().map(|link| link.win_us).collect();
    assert_eq!(won[0], 0, "its time is not what the run waited for: {won:?}");
    assert!((900_000..=1_000_000).contains(&won[1]), "{won:?}");
}

#[test]
fn nothing_done_is_no_chain() {
    let path = critical_path(&run(&[], 0));
    tiles(&path);
    assert!(path.links.is_empty());
    assert!(path.text(&run(&[], 0)).ends_with("nothing was done\n"));
}

#[test]
fn the_chain_of_a_run_tiles_its_time_however_it_is_numbered() {
    for run in [sample_run::sample(), sample_run::many_spans()] {
        let path = critical_path(&run);
        tiles(&path);
        let names =
            |run: &Run| -> Vec<String> { critical_nodes(run).into_iter().map(|n| run.plan.id(n)).collect() };
        let read = Run::read(&*run.to_bytes().unwrap()).unwrap();
        assert_eq!(names(&read), names(&run));
        assert!(path.links.iter().all(|link| link.win_us <= 1_000_000));
        assert!(names(&run)[0].starts_with("fetch"), "{:?}", names(&run));
        assert!(names(&run).last().is_some_and(|last| last.starts_with("tag")));
    }
}

#[test]
fn people_read_it_in_80_columns() {
    let run = sample_run::sample();
    let text = critical_path(&run).text(&run);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(
        text.starts_with("7.24 s, bounded by the network; 4 workers 35 % busy, network 81 %\n\nNODE"),
        "{text}"
    );
    assert!(text.contains("\nwaited\n  2.71 s  for those who take the bytes\n"), "{text}");
}

#[test]
fn neither_a_hostile_record_nor_a_cycle_brings_it_down() {
    let mut run = sample_run::sample();
    for (number, node) in (0..).zip(&mut run.record.nodes) {
        match number % 3 {
            0 => (node.start_us, node.end_us) = (node.end_us, node.start_us),
            1 => (node.end_us, node.cpu_us) = (Some(u64::MAX), u64::MAX),
            _ => node.bytes = u64::MAX,
        }
    }
    tiles(&critical_path(&run));
    let (first, last) = (run.plan.images[0].layers[0], run.plan.images[0].tag);
    run.plan.graph.add_edge(last, first, Edge::Needs);
    let path = critical_path(&run);
    tiles(&path);
    assert!(path.text(&run).lines().all(|line| line.chars().count() <= 80));
    assert!(run.marks().critical.len() == path.links.len());
}
