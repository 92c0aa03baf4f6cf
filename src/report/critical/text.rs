//! The chain as text for people, in 80 columns. Knows words and widths; ignores how the chain was found.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use super::{CriticalPath, Link};
use crate::{
    graph::{Kind, NodeId, Plan, Subject},
    render::words::{clip, columns, count, size, span},
    report::Run,
};

/// The longest name of a node: the rest of a line has 80 columns with it.
const NAME: usize = 28;

impl CriticalPath {
    /// A line on what decided the time, a table of the chain, and what it waited for; ends with a newline.
    pub fn text(&self, run: &Run) -> String {
        let mut lines = vec![self.heading(run)];
        if self.links.is_empty() {
            lines.push("nothing was done".to_owned());
            return lines.join("\n") + "\n";
        }
        let title = ["NODE", "FROM", "TO", "ON CHAIN", "WAITED", "1 S FREE WINS"].map(str::to_owned);
        let rows = self.links.iter().map(|link| row(&run.plan, link));
        let rows: Vec<_> = std::iter::once(title).chain(rows).collect();
        lines.push(String::new());
        lines.extend(columns(&rows, &[1, 2, 3, 4, 5]));
        lines.push(String::new());
        lines.extend(self.waits());
        if self.after_us > 0 {
            lines.push(format!("{:>8}  after the last node", time(self.after_us)));
        }
        if !self.others.is_empty() {
            lines.push("one second free off the chain wins".to_owned());
        }
        for (node, win_us) in &self.others {
            lines.push(format!("{:>8}  {}", time(*win_us), node_name(&run.plan, *node)));
        }
        lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// How long the run took and why, in one line.
    pub fn heading(&self, run: &Run) -> String {
        let share = |part: f64| format!("{:.0} %", part * 100.0);
        let workers = count(run.head.limits.workers, "worker", "workers");
        format!(
            "{}, bounded by the {}; {workers} {} busy, network {}",
            time(self.wall_us),
            self.bound.name(),
            share(self.workers_busy),
            share(self.network_busy)
        )
    }

    /// What the chain waited for, the longest first.
    fn waits(&self) -> Option<String> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for link in &self.links {
            *sums.entry(link.wait.name()).or_default() += link.waited_us;
            *sums.entry(link.idle.name()).or_default() += link.idle_us;
        }
        let mut waits: Vec<_> = sums.into_iter().filter(|(_, us)| *us > 0).collect();
        waits.sort_by_key(|(_, us)| Reverse(*us));
        let list: Vec<String> =
            waits.iter().map(|(what, us)| format!("{:>8}  for {what}", time(*us))).collect();
        (!list.is_empty()).then(|| format!("waited\n{}", list.join("\n")))
    }
}

fn row(plan: &Plan, link: &Link) -> [String; 6] {
    [
        node_name(plan, link.node),
        time(link.from_us),
        time(link.to_us),
        time(link.to_us - link.from_us),
        time(link.waited_us + link.idle_us),
        time(link.win_us),
    ]
}

/// A span of time for a table: nothing is a dash.
pub(in crate::report) fn time(us: u64) -> String {
    if us == 0 { "-".to_owned() } else { span(Duration::from_micros(us)) }
}

/// A node as people know it: its kind, a layer's short digest and size, an image's name.
pub(in crate::report) fn node_name(plan: &Plan, id: NodeId) -> String {
    let Some(node) = plan.graph.node_weight(id) else { return String::new() };
    let image = || node.wanted_by.first().and_then(|ix| plan.images.get(ix.0)).map(|image| &*image.name);
    let about = match &node.subject {
        Subject::Blob(digest) | Subject::Layer(digest) => {
            let bytes = if node.kind == Kind::Finalize { 0 } else { node.cost_bytes };
            match bytes {
                0 => digest.short(),
                bytes => format!("{} {}", digest.short(), size(bytes)),
            }
        }
        Subject::Document(digest) => image().map_or_else(|| digest.short(), str::to_owned),
        Subject::Tree(key) => image().map_or_else(|| key.short(), str::to_owned),
        Subject::Name(name) => name.clone(),
    };
    clip(&format!("{} {about}", node.kind.word()), NAME)
}
