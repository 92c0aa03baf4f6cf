//! Traces of runs, checked; and that the checker finds what is wrong.

use super::{check::check, *};
use crate::report::sample_run;

#[test]
fn a_run_is_a_valid_trace() {
    for run in [sample_run::sample(), sample_run::many_spans()] {
        let text = trace(&run);
        let phases = check(&text).unwrap();
        let timeline = Timeline::of(&run);
        let lanes = timeline.workers.values().chain(&timeline.network).chain(&timeline.others);
        assert_eq!(phases["X"], lanes.map(Vec::len).sum::<usize>());
        assert_eq!(phases["s"], phases["f"]);
        assert!(phases["C"] > 100 && phases["M"] > 10);
    }
    let run = sample_run::sample();
    assert_eq!(check(&trace(&run)).unwrap()["s"], run.plan.graph.edge_count(), "every edge has its flow");
}

#[test]
fn a_hostile_record_is_a_valid_trace_too() {
    let mut run = sample_run::sample();
    for node in &mut run.record.nodes {
        node.error = Some("\u{202e}\"</script>\u{0}".into());
        (node.start_us, node.end_us) = (node.end_us, node.start_us);
        node.bytes = u64::MAX;
    }
    run.record.wall_us = u64::MAX;
    run.record.fetched.step_us = u64::MAX;
    for span in &mut run.record.spans {
        span.end_us = span.end_us.wrapping_mul(77);
    }
    check(&trace(&run)).unwrap();
}

#[test]
fn nothing_done_is_a_trace() {
    let mut run = sample_run::sample();
    run.record = Default::default();
    check(&trace(&run)).unwrap();
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let good = trace(&sample_run::sample());
    let field = |name: &str| {
        let at = good.find(name).unwrap();
        let end = good[at..].find([',', '}']).unwrap();
        good[at..at + end].to_owned()
    };
    let dur = field("\"dur\":");
    for (old, new, words) in [
        ("\"ph\":\"X\"", "\"ph\":\"Y\"", "none that we write"),
        (&dur, "\"dur\":-1", "no number"),
        (&dur, "\"dur\":999999999", "overlaps"),
        ("\"ph\":\"s\"", "\"ph\":\"f\"", "bp is for"),
        ("\"bp\":\"e\",", "", "bp is for"),
        ("\"cat\":\"edge\",\"id\":7,", "\"cat\":\"edge\",\"id\":70000,", "has [\"s\"]"),
        ("{\"bytes/s\":", "{\"bytes/s\":null,\"b\":", "counts numbers"),
        ("{\"name\":\"network\"}", "{\"name\":\"\"}", "process 2 has no name"),
        ("{\"name\":\"worker 0\"}", "{}", "has no name"),
        ("\"displayTimeUnit\":\"ms\"", "\"displayTimeUnit\":\"h\"", "displayTimeUnit"),
        ("\"traceEvents\"", "\"events\"", "no traceEvents"),
    ] {
        let bad = good.replacen(old, new, 1);
        assert_ne!(bad, good, "{old}");
        let wrongs = check(&bad).expect_err(words);
        assert!(wrongs.iter().any(|wrong| wrong.contains(words)), "{words}: {wrongs:?}");
    }
    let mut lines: Vec<&str> = good.lines().collect();
    let last = lines.len() - 2;
    lines.swap(last - 40, 40);
    let shuffled = lines.join("\n");
    assert!(check(&shuffled).is_err());
}
