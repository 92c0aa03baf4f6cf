//! Progress as JSON lines for programs. Knows the field names; ignores who reads them.
//!
//! One object a line, in the order in which things happened; `event` says which:
//!
//! | `event` | further fields |
//! |---|---|
//! | `plan` | first line: `schema` (1), `to_fetch_bytes`, `layers`, `images`: [{`image`, `name`, `reference`, `stored`}] |
//! | `started` | `node`, `kind`, `subject`, `cost_bytes`, `images` |
//! | `progress` | `node`, `bytes` (of this node since it started over last), `fetched_bytes`, `to_fetch_bytes` (of the run) |
//! | `restarted`, `finished`, `cancelled` | `node` |
//! | `failed` | `node`, `error` |
//! | `layer` | a layer is stored: `node` (its last), `layers_done`, `layers` |
//! | `image` | an image ended: `image`, `outcome` (`ok` or `failed`), `error` if failed |
//! | `message` | `text`, a warning for people |
//! | `end` | last line: `fetched_bytes`, `layers_done`, `images_ok`, `images_failed` |
//!
//! `node`, `kind`, `subject` and `image` are those of the plan in JSON; `t_ms`, in all but `plan` and `message`, is
//! the time since the run began. Progress of a node comes at most ten times a second. The totals may change during a run
//! (`progress` has the present ones): work that is cancelled is taken off, another blob of a layer is added. Fields
//! are only added while `schema` stays the same.

use std::{io::Write, time::Duration};

use serde::Serialize;

use super::{News, Tracker, View, progress::Lines};
use crate::{exec::Event, graph::State, render::SubjectJson};

/// One JSON object a line, as the head of this file says.
pub struct Json {
    out: Lines,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Plan {
        schema: u32,
        to_fetch_bytes: u64,
        layers: usize,
        images: Vec<PlanImage<'a>>,
    },
    Started {
        t_ms: u64,
        node: usize,
        kind: &'static str,
        subject: SubjectJson,
        cost_bytes: u64,
        images: Vec<usize>,
    },
    Progress {
        t_ms: u64,
        node: usize,
        bytes: u64,
        fetched_bytes: u64,
        to_fetch_bytes: u64,
    },
    Restarted {
        t_ms: u64,
        node: usize,
    },
    Finished {
        t_ms: u64,
        node: usize,
    },
    Cancelled {
        t_ms: u64,
        node: usize,
    },
    Failed {
        t_ms: u64,
        node: usize,
        error: &'a str,
    },
    Layer {
        t_ms: u64,
        node: usize,
        layers_done: usize,
        layers: usize,
    },
    Image(ImageEnd<'a>),
    Message {
        text: &'a str,
    },
    End {
        t_ms: u64,
        fetched_bytes: u64,
        layers_done: usize,
        images_ok: usize,
        images_failed: usize,
    },
}

#[derive(Serialize)]
struct PlanImage<'a> {
    image: usize,
    name: &'a str,
    reference: &'a str,
    stored: bool,
}

#[derive(Serialize)]
struct ImageEnd<'a> {
    t_ms: u64,
    image: usize,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Json {
    /// Lines to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out: Lines::new(out) }
    }

    fn write(&mut self, line: &Line<'_>) {
        // Such lines have text keys only, so there is always something to write.
        if let Ok(text) = serde_json::to_string(line) {
            self.out.write(&text);
        }
    }
}

impl View for Json {
    fn begin(&mut self, seen: &Tracker) {
        let plan = seen.plan();
        let images = plan.images.iter().enumerate().map(|(image, planned)| PlanImage {
            image,
            name: &planned.name,
            reference: &planned.reference,
            stored: plan.graph[planned.tag].state == State::Stored,
        });
        let (_, to_fetch_bytes) = seen.bytes();
        let (_, layers) = seen.layers();
        self.write(&Line::Plan { schema: 1, to_fetch_bytes, layers, images: images.collect() });
    }

    fn event(&mut self, seen: &Tracker, at: Duration, event: &Event, news: &[News]) {
        let (t_ms, id) = (millis(at), event.node());
        let node = id.index();
        // The tracker ignores such nodes too.
        let Some(planned) = seen.plan().graph.node_weight(id) else { return };
        let (fetched_bytes, to_fetch_bytes) = seen.bytes();
        self.write(&match event {
            Event::Started(_) => Line::Started {
                t_ms,
                node,
                kind: planned.kind.name(),
                subject: SubjectJson::from(&planned.subject),
                cost_bytes: planned.cost_bytes,
                images: planned.wanted_by.iter().map(|ix| ix.0).collect(),
            },
            Event::Progress { .. } => {
                Line::Progress { t_ms, node, bytes: seen.node_bytes(id), fetched_bytes, to_fetch_bytes }
            }
            Event::Restarted(_) => Line::Restarted { t_ms, node },
            Event::Finished(_) => Line::Finished { t_ms, node },
            Event::Cancelled(_) => Line::Cancelled { t_ms, node },
            Event::Failed(_, error) => Line::Failed { t_ms, node, error },
        });
        for news in news {
            self.write(&news_line(seen, t_ms, news));
        }
    }

    fn line(&mut self, text: &str) {
        self.write(&Line::Message { text });
    }

    fn tick(&mut self, _: &Tracker, _: Duration) {}

    fn end(&mut self, seen: &Tracker, now: Duration) {
        let (fetched_bytes, _) = seen.bytes();
        let (layers_done, _) = seen.layers();
        let (images_ok, images_failed, _) = seen.images();
        self.write(&Line::End { t_ms: millis(now), fetched_bytes, layers_done, images_ok, images_failed });
    }
}

fn news_line<'a>(seen: &Tracker, t_ms: u64, news: &'a News) -> Line<'a> {
    match news {
        News::LayerDone(layer) => {
            let (layers_done, layers) = seen.layers();
            Line::Layer { t_ms, node: layer.finalize.index(), layers_done, layers }
        }
        News::ImageDone(ix) => Line::Image(ImageEnd { t_ms, image: ix.0, outcome: "ok", error: None }),
        News::ImageFailed(ix, text) => {
            Line::Image(ImageEnd { t_ms, image: ix.0, outcome: "failed", error: Some(text) })
        }
    }
}

/// A time in whole milliseconds; half a billion years are enough.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::progress::testing::{Page, show},
        *,
    };
    use crate::{graph::NodeId, render::sample};

    #[test]
    fn a_run_in_objects() {
        let page = Page::default();
        let (mut view, mut tracker) =
            (Json::new(Box::new(page.clone())), Tracker::new(Arc::new(sample::two_candidates())));
        let id = NodeId::new;
        view.begin(&tracker);
        show(&mut view, &mut tracker, 1, Event::Started(id(0)));
        show(&mut view, &mut tracker, 2, Event::Progress { node: id(0), bytes: 400 });
        show(&mut view, &mut tracker, 3, Event::Failed(id(0), "wrong digest".into()));
        show(&mut view, &mut tracker, 4, Event::Restarted(id(2)));
        show(&mut view, &mut tracker, 5, Event::Finished(id(13)));
        view.line("a \"warning\"");
        view.end(&tracker, Duration::from_millis(6));
        let expected = r#"
{"event":"plan","schema":1,"to_fetch_bytes":1000,"layers":1,"images":[{"image":0,"name":"a:v1","reference":"docker://registry.example/a:v1","stored":false},{"image":1,"name":"b:v1","reference":"docker://registry.example/b:v1","stored":false}]}
{"event":"started","t_ms":1,"node":0,"kind":"fetch","subject":{"blob":"@BLOB@"},"cost_bytes":1000,"images":[0]}
{"event":"progress","t_ms":2,"node":0,"bytes":400,"fetched_bytes":400,"to_fetch_bytes":1000}
{"event":"failed","t_ms":3,"node":0,"error":"wrong digest"}
{"event":"image","t_ms":3,"image":0,"outcome":"failed","error":"wrong digest"}
{"event":"restarted","t_ms":4,"node":2}
{"event":"finished","t_ms":5,"node":13}
{"event":"image","t_ms":5,"image":1,"outcome":"ok"}
{"event":"message","text":"a \"warning\""}
{"event":"end","t_ms":6,"fetched_bytes":400,"layers_done":0,"images_ok":1,"images_failed":1}
"#;
        let expected = expected.trim_start().replace("@BLOB@", &sample::digest("libs.gz").to_string());
        assert_eq!(page.text(), expected);
    }
}
