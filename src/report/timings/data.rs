//! What the page's script knows of nodes. Knows field order, which `page.js` repeats;
//! ignores how it is shown.

use serde_json::{Value, json};

use super::{Page, class, node_name};
use crate::{
    graph::NodeId,
    render::words::{clean, image_names},
};

/// The nodes' details as JSON that may stand within a script element.
pub(super) fn json(page: &Page) -> String {
    let nodes: Vec<Value> = page.nodes.iter().map(|node| details(page, *node)).collect();
    let lines: Vec<String> = nodes.iter().map(Value::to_string).collect();
    script(&format!("{{\"wall\":{},\"nodes\":[\n{}\n]}}", page.timeline.length_us, lines.join(",\n")))
}

/// `json` without what could end a script element or begin a comment in it.
pub(super) fn script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn details(page: &Page, id: NodeId) -> Value {
    let (run, node) = (page.run, &page.run.plan.graph[id]);
    let did = run.record.node(id).cloned().unwrap_or_default();
    let times = page.timeline.node(id);
    let end = times.map_or(0, |times| times.end_us);
    let took = times.map_or(0, |times| times.took_us());
    let link = page.path.links.iter().find(|link| link.node == id);
    let images = image_names(&run.plan, &node.wanted_by);
    json!([
        node_name(&run.plan, id),
        class(node.kind),
        run.plan.id(id),
        clean(&images),
        node.reason.to_string(),
        end - took,
        end,
        times.map_or(0, |times| times.own_us),
        did.cpu_us,
        did.bytes,
        did.outcome.name(),
        did.error.as_deref().map(clean),
        link.map(|link| json!([link.from_us, link.to_us, link.waited_us + link.idle_us, link.win_us])),
    ])
}
