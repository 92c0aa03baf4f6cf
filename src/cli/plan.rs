//! Plans on their way in and out: drawn for `--dry-run`, saved by `--plan-out`, run again by `--plan`. Knows
//! formats and files; ignores what is in a plan.

use std::path::Path;

use clap::ValueEnum;

use super::{
    Problem,
    files::{self, Accept, MAX_PLAN},
};
use crate::{
    graph::Plan,
    render::{self, Colour, Marks, Outlook},
};

/// How a graph is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PlanFormat {
    /// For people
    Text,
    /// For Graphviz
    Dot,
    /// For Mermaid; large plans are folded until it takes them
    Mermaid,
    /// For programs
    Json,
    /// A page: search, details, what needs what
    Html,
    /// A picture
    Svg,
}

impl PlanFormat {
    /// The format that a file's name asks for.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "txt" => Some(Self::Text),
            "dot" | "gv" => Some(Self::Dot),
            "mmd" | "mermaid" => Some(Self::Mermaid),
            "json" => Some(Self::Json),
            "html" | "htm" => Some(Self::Html),
            "svg" => Some(Self::Svg),
            _ => None,
        }
    }

    /// The graph in this format.
    pub(super) fn draw(self, plan: &Plan, marks: &Marks, outlook: &Outlook, colour: Colour) -> String {
        match self {
            Self::Text => render::text(plan, marks, outlook, colour),
            Self::Dot => render::dot(plan, marks),
            Self::Mermaid => render::mermaid(plan, marks),
            Self::Json => render::json(plan, marks),
            Self::Html => render::html(plan, marks),
            Self::Svg => render::svg(plan, marks),
        }
    }
}

/// Whether what goes to stdout is painted.
pub(super) fn colour() -> Colour {
    use std::io::IsTerminal;
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if std::io::stdout().is_terminal() && !refused && !dumb { Colour::On } else { Colour::Off }
}

/// Saves a plan for `--plan`.
pub(super) fn save(plan: &Plan, path: &Path) -> Result<(), Problem> {
    files::write_file(path, "the plan", &render::json(plan, &Marks::default()))
}

/// Reads a plan that was saved.
pub(super) fn read(path: &Path) -> Result<Plan, Problem> {
    let place = path.display();
    let text = files::read_text(path, Accept::FilesAndPipes, MAX_PLAN)
        .map_err(|error| Problem::usage(format!("{place}: {error}")))?;
    let plan = Plan::from_json(&text);
    let plan = plan.map_err(|error| Problem::usage(format!("{place}: this is no plan: {error}")))?;
    if !plan.selections.is_empty() || !plan.untag.is_empty() {
        return Err(Problem::usage(format!(
            "{place}: this plan was made for a list: run `cfs-dag mirror` again"
        )));
    }
    if plan.images.is_empty() {
        return Err(Problem::usage(format!("{place}: this plan has no images")));
    }
    Ok(plan)
}
