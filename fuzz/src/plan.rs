//! Plans out of any text. Knows that a plan which was read can be drawn, written and compared; ignores what it would do.

use cfs_dag::{
    graph::Plan,
    render::{self, Colour, Marks, Outlook},
};

use super::memory;

/// Reads a plan, draws it in every way, and reads back what is written.
pub fn plan(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let limit = (1 << 20) + 200 * text.len();
    let Ok(plan) = memory::bounded("a plan", limit, || Plan::from_json(text)) else { return };
    let written = render::json(&plan, &Marks::default());
    let read = match Plan::from_json(&written) {
        Ok(read) => read,
        Err(error) => panic!("what was written cannot be read: {error}: {written}"),
    };
    assert_eq!(render::json(&read, &Marks::default()), written);
    draw(&plan, &Marks::default());
    for node in plan.graph.node_indices() {
        assert!(plan.find(&plan.id(node)).is_ok_and(|found| found.contains(&node)));
    }
}

/// Draws it in every way.
pub(crate) fn draw(plan: &Plan, marks: &Marks) {
    let pictures = [
        render::text(plan, marks, &Outlook::default(), Colour::Off),
        render::dot(plan, marks),
        render::mermaid(plan, marks),
        render::svg(plan, marks),
        render::html(plan, marks),
    ];
    for picture in pictures {
        assert!(!picture.is_empty());
        let hostile = |c: char| c.is_control() && c != '\n';
        assert!(!picture.contains(hostile), "a control character is drawn: {picture:?}");
    }
}
