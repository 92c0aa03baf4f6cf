//! Records of runs out of any bytes. Knows that a run which was read can be shown in every way; ignores what ran.

use cfs_dag::report::{self, Head, Run};

use super::{input, memory, plan};

/// Unpacked, an input has at most so many bytes for each of its own, and these at once.
const UNPACKED: usize = 64 << 20;

/// Reads a run and shows it in every way.
///
/// The first byte chooses whether the rest is a file or what one is made of: a head, a line of one `%`, and what is
/// compressed.
pub fn run_record(data: &[u8]) {
    let ([flags], data) = input::head(data);
    let bytes = if flags & 1 == 0 { packed(data) } else { data.to_vec() };
    let head = memory::bounded("a head", (1 << 20) + 200 * bytes.len(), || Head::read(&*bytes));
    let limit = UNPACKED + 200 * data.len();
    let run = match memory::bounded("a run", limit, || Run::read(&*bytes)) {
        Ok(run) => run,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(head.ok().as_ref(), Some(&run.head));
    let _ = run.head.stood_for().count();
    let written = run.to_bytes().expect("memory takes it");
    let read = Run::read(&*written).expect("what was written can be read");
    assert_eq!(read.head, run.head);
    assert!(read.to_bytes().expect("memory takes it") == written, "a run changes when it is kept again");
    assert_eq!(run.json(7).expect("memory takes it"), read.json(7).expect("memory takes it"));
    show(&run);
}

fn show(run: &Run) {
    let path = report::critical_path(run);
    let texts =
        [report::list(&[(7, run.head.clone())]), report::overview(7, run), path.text(run), path.heading(run)];
    for text in texts {
        let hostile = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(hostile), "a control character is shown: {text:?}");
    }
    assert!(!report::timings(run).is_empty());
    let trace: Result<serde_json::Value, _> = serde_json::from_str(&report::trace(run));
    assert!(trace.is_ok(), "the trace is no JSON: {trace:?}");
    plan::draw(&run.plan, &run.marks());
    for node in run.plan.graph.node_indices().take(20) {
        assert!(report::why(run, Some(run), &run.plan.id(node)).is_ok());
    }
}

fn packed(data: &[u8]) -> Vec<u8> {
    let parts = input::parts(data);
    let mut bytes = parts[0].to_vec();
    bytes.push(b'\n');
    let rest = parts[1..].join(&b"\n"[..]);
    bytes.extend(zstd::bulk::compress(&rest, 1).expect("memory takes it"));
    bytes
}
