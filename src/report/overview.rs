//! A run that is kept, in a few lines: what ran, what was stored already, how long, bytes in and out. Knows
//! sums; the rest is for the other views.

use std::time::{Duration, UNIX_EPOCH};

use super::{Head, NodeOutcome, Run, RunOutcome};
use crate::{
    graph::{Kind, NodeId, State},
    render::words::{columns, count, printable, size, span},
};

impl RunOutcome {
    /// The words for it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::SomeFailed => "some failed",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

impl Head {
    /// When it began, for people: date and time in UTC.
    pub fn began(&self) -> String {
        // A file may hold any number; what is no time of this calendar is the beginning of it.
        let since = Duration::from_millis(self.began_ms.min(LAST_MS));
        let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
        text.replace('T', " ").trim_end_matches('Z').to_owned() + " UTC"
    }

    fn took(&self) -> Duration {
        Duration::try_from_secs_f64(self.totals.wall_seconds).unwrap_or_default()
    }
}

/// The end of the year 9999, in milliseconds since 1970.
const LAST_MS: u64 = 253_402_300_799_000;

/// The runs in a table, in the given order.
pub fn list(runs: &[(u64, Head)]) -> String {
    let titles = ["RUN", "BEGAN", "OUTCOME", "IMAGES", "TIME", "FETCHED", "WRITTEN"];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(runs.iter().map(|(number, head)| {
        [
            number.to_string(),
            head.began(),
            head.outcome.words().to_owned(),
            head.images.len().to_string(),
            span(head.took()),
            size(head.totals.bytes_fetched),
            size(head.totals.bytes_written),
        ]
    }));
    columns(&rows, &[0, 3, 4, 5, 6]).iter().map(|line| format!("{line}\n")).collect()
}

/// The run `number` in a few lines.
pub fn overview(number: u64, run: &Run) -> String {
    let (head, totals) = (&run.head, &run.head.totals);
    let limits = &head.limits;
    let mut out =
        format!("run {number}  {}  {} in {}\n", head.began(), head.outcome.words(), span(head.took()));
    out += &format!(
        "{}, {}, {} MiB of memory\n\n",
        count(limits.workers, "worker", "workers"),
        count(limits.downloads, "download at once", "downloads at once"),
        limits.memory_bytes >> 20
    );
    let layers = head.layers;
    out += &format!(
        "{}: {} done, {} failed\n",
        count(head.images.len(), "image", "images"),
        totals.images_ok,
        totals.images_failed
    );
    out += &format!(
        "{}: {} stored, {} shared, {} to make\n",
        count(layers.total as usize, "layer", "layers"),
        layers.stored,
        layers.shared,
        layers.new
    );
    out += &format!(
        "{} fetched, {} written: {} new, {} present, {}\n\n",
        size(totals.bytes_fetched),
        size(totals.bytes_written),
        count(totals.objects_new as usize, "object", "objects"),
        totals.objects_present,
        count(totals.barriers as usize, "barrier", "barriers"),
    );
    if let Some(error) = &head.error {
        out += &format!("{}\n\n", printable(error));
    }
    for image in &head.images {
        let end = image
            .error
            .as_deref()
            .map_or_else(String::new, |error| format!(": failed: {}", printable(error)));
        out += &format!("{}{end}\n", printable(&image.name));
        for ambiguity in &image.ambiguities {
            out += &format!("  warning: {}\n", printable(&ambiguity.to_string()));
        }
    }
    out.push('\n');
    out += &steps(run);
    out
}

/// A line for each kind of node: how many ran and how many had nothing to do, what they took.
fn steps(run: &Run) -> String {
    let titles = ["STEP", "RAN", "STORED", "FAILED", "LONGEST", "WORK", "BYTES"];
    let mut rows = vec![titles.map(str::to_owned)];
    for kind in Kind::ALL {
        let nodes = run.plan.graph.node_indices().filter(|id| run.plan.graph[*id].kind == kind);
        let nodes: Vec<NodeId> = nodes.collect();
        if nodes.is_empty() {
            continue;
        }
        let did: Vec<_> = nodes.iter().filter_map(|id| run.record.node(*id)).collect();
        let ended = |outcome| did.iter().filter(|did| did.outcome == outcome).count();
        let stored = nodes.iter().filter(|id| run.plan.graph[**id].state == State::Stored).count();
        let longest = did.iter().map(|did| did.took_us()).max().unwrap_or(0);
        let sum =
            |of: fn(&super::NodeRecord) -> u64| did.iter().map(|did| of(did)).fold(0, u64::saturating_add);
        let bytes = sum(|did| did.bytes.saturating_add(did.lost_bytes));
        rows.push([
            kind.word().to_owned(),
            ended(NodeOutcome::Finished).to_string(),
            stored.to_string(),
            ended(NodeOutcome::Failed).to_string(),
            span(Duration::from_micros(longest)),
            span(Duration::from_micros(sum(|did| did.cpu_us))),
            if bytes > 0 { size(bytes) } else { String::new() },
        ]);
    }
    columns(&rows, &[1, 2, 3, 4, 5, 6]).iter().map(|line| format!("{line}\n")).collect()
}
