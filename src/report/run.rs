//! A run as it is kept: what was asked, the plan, the record, the outcome. Knows how that becomes bytes and
//! is read back; ignores where they are kept.
//!
//! First the [`Head`] on one line; then, compressed with zstd, the [`Record`] on one line and the plan as
//! `--dry-run=json` writes it. Whoever wants to know what earlier runs did reads only heads.

use std::{
    io::{self, BufRead, BufReader, Read},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{Rates, Record, Summary, summary};
use crate::{
    graph::{self, Before, ImageIx, Kind, Plan},
    render::{self, LayerCounts, Marks, NoPlan},
    types::{Digest, LayerAmbiguity},
};

/// The version of this format.
const SCHEMA: u32 = 1;
/// Upper bound for a run record, unpacked: a step takes some 700 bytes, so these are 700 000 of them. It is
/// read into memory, where it takes more.
const LIMIT: u64 = 512 << 20;
/// Upper bound for its head.
const HEAD_LIMIT: u64 = 64 << 20;

/// A finished run.
#[derive(Debug, Clone)]
pub struct Run {
    /// What it was about and how it ended.
    pub head: Head,
    /// What was planned.
    pub plan: Plan,
    /// What was done.
    pub record: Record,
}

/// What a run was about and how it ended. Fields are only added while `schema` stays the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The version of this format: 1.
    pub schema: u32,
    /// The version of this program.
    pub version: String,
    /// The version of what it makes; a part of all keys.
    pub format: String,
    /// What changes the bytes that the repository gets; a part of most keys.
    pub repository: String,
    /// When it began, in milliseconds since 1970 (UTC).
    pub began_ms: u64,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Why it was not finished as it should, whatever became of its images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it might use.
    pub limits: Limits,
    /// Its images, in the order of the request, also those that could not be resolved.
    pub images: Vec<HeadImage>,
    /// The layers of all images by what had to be done.
    pub layers: LayerCounts,
    /// The sums.
    pub totals: summary::Totals,
    /// How fast it was.
    pub rates: Rates,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// All images are there.
    Done,
    /// Some images are not.
    SomeFailed,
    /// No image is there.
    Failed,
    /// It was interrupted.
    Interrupted,
}

/// How the engine came to the end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// By itself: what became of each image says the rest.
    Whole,
    /// It was interrupted.
    Interrupted,
    /// It could not make its work durable, or has a defect.
    Broken(String),
}

/// What a run might use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Cpu threads.
    pub workers: usize,
    /// Transfers at once.
    pub downloads: usize,
    /// Memory for data in flight.
    pub memory_bytes: u64,
}

/// One image of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadImage {
    /// The name in the repository.
    pub name: String,
    /// The reference as the user wrote it.
    pub reference: String,
    /// Digest of the manifest as stored; absent if the image could not be resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Digest of the config; absent as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Digest>,
    /// The key of its filesystem; absent for artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its entries that tar readers read differently, which were read as cfsctl does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ambiguities: Vec<LayerAmbiguity>,
}

/// Why bytes are no run.
#[derive(Debug, thiserror::Error)]
pub enum NoRun {
    /// They cannot be read or unpacked.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Head or record are no JSON, or lack a field.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The plan is none.
    #[error("its plan: {0}")]
    Plan(#[from] NoPlan),
    /// It is of a later version.
    #[error("it has format {0}, this program knows {SCHEMA}: use the version of cfs-dag that wrote it")]
    Schema(u32),
}

impl Run {
    /// The run of `plan` that ended with this summary.
    pub fn new(
        plan: Plan,
        record: Record,
        summary: &Summary,
        began: SystemTime,
        limits: Limits,
        end: RunEnd,
    ) -> Self {
        let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let images = summary.images.iter().map(|result| HeadImage::new(&plan, result)).collect();
        let (ok, failed) = (summary.totals.images_ok, summary.totals.images_failed);
        let outcome = match (ok, failed) {
            _ if matches!(end, RunEnd::Broken(_)) => RunOutcome::Failed,
            _ if end == RunEnd::Interrupted => RunOutcome::Interrupted,
            (_, 0) => RunOutcome::Done,
            (0, _) => RunOutcome::Failed,
            _ => RunOutcome::SomeFailed,
        };
        let head = Head {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            format: graph::FORMAT.to_owned(),
            repository: plan.repository.clone(),
            began_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            outcome,
            error: if let RunEnd::Broken(error) = end { Some(error) } else { None },
            limits,
            images,
            layers: render::Totals::of(&plan).layers,
            totals: summary.totals.clone(),
            rates: Rates::of(&plan, &record),
        };
        Self { head, plan, record }
    }

    /// The run as bytes.
    ///
    /// # Errors
    /// None that a caller could cause: writing to memory.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(&self.head)?;
        bytes.push(b'\n');
        let mut text = serde_json::to_vec(&self.in_order())?;
        text.push(b'\n');
        text.extend_from_slice(render::json(&self.plan, &Marks::default()).as_bytes());
        bytes.extend(zstd::bulk::compress(&text, zstd::DEFAULT_COMPRESSION_LEVEL)?);
        Ok(bytes)
    }

    /// Everything that is kept of the run, as JSON with a newline at its end: its number, head, record and
    /// plan. Nodes in the record are places in the plan's `nodes`.
    ///
    /// # Errors
    /// None that a caller could cause: writing to memory.
    pub fn json(&self, number: u64) -> io::Result<String> {
        let (head, record) = (serde_json::to_string(&self.head)?, serde_json::to_string(&self.in_order())?);
        let plan = render::json(&self.plan, &Marks::default());
        let plan = plan.trim_end();
        Ok(format!("{{\"run\":{number},\n\"head\":{head},\n\"record\":{record},\n\"plan\":{plan}}}\n"))
    }

    /// The record with the numbers that the nodes have when the plan is read back: in
    /// the order of their names.
    fn in_order(&self) -> Record {
        let graph = &self.plan.graph;
        let mut order: Vec<_> = graph.node_indices().map(|node| (self.plan.id(node), node.index())).collect();
        order.sort_unstable();
        let mut numbers = vec![None; order.len()];
        for (number, (_, node)) in order.into_iter().enumerate() {
            numbers[node] = Some(number);
        }
        self.record.clone().renumbered(&numbers)
    }

    /// The run that `bytes` hold.
    ///
    /// # Errors
    /// They do not hold a run.
    pub fn read(bytes: impl Read) -> Result<Self, NoRun> {
        let mut bytes = BufReader::new(bytes);
        let head = Head::parse(&mut bytes)?;
        let mut text = BufReader::new(zstd::Decoder::with_buffer(bytes)?.take(LIMIT));
        let mut line = Vec::new();
        text.read_until(b'\n', &mut line)?;
        let record = serde_json::from_slice(&line)?;
        let mut plan = String::new();
        text.read_to_string(&mut plan)?;
        Ok(Self { head, plan: Plan::from_json(&plan)?, record })
    }
}

impl Head {
    /// The head of the run that `bytes` hold; reads no more than that.
    ///
    /// # Errors
    /// They do not hold a run.
    pub fn read(bytes: impl Read) -> Result<Self, NoRun> {
        Self::parse(&mut BufReader::new(bytes))
    }

    fn parse(text: &mut impl BufRead) -> Result<Self, NoRun> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let mut line = Vec::new();
        text.take(HEAD_LIMIT).read_until(b'\n', &mut line)?;
        let Version { schema } = serde_json::from_slice(&line)?;
        match schema {
            SCHEMA => Ok(serde_json::from_slice(&line)?),
            other => Err(NoRun::Schema(other)),
        }
    }

    /// What the images of this run stood for, as far as they are there since.
    pub fn stood_for(&self) -> impl Iterator<Item = (String, Before)> {
        let sound = self.images.iter().filter(|image| image.error.is_none() && self.error.is_none());
        sound.filter_map(|image| {
            let before = Before {
                format: self.format.clone(),
                repository: self.repository.clone(),
                manifest: image.manifest?,
                config: image.config?,
                tree: image.tree.as_deref().and_then(graph::Key::from_hex),
            };
            Some((image.name.clone(), before))
        })
    }
}

impl HeadImage {
    fn new(plan: &Plan, result: &summary::ImageResult) -> Self {
        let ix = plan.images.iter().position(|image| image.name == result.name).map(ImageIx);
        let own = ix.map_or_else(Vec::new, |ix| plan.own_nodes(ix));
        let tree = own.into_iter().find(|node| plan.graph[*node].kind == Kind::Filesystem);
        let error = match &result.outcome {
            summary::Outcome::Ok => None,
            summary::Outcome::Failed { error } => Some(error.clone()),
        };
        Self {
            name: result.name.clone(),
            reference: result.reference.clone(),
            manifest: result.manifest,
            config: result.config,
            tree: tree.map(|tree| plan.graph[tree].key.hex()),
            error,
            ambiguities: result.ambiguities.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::{Event, Observer},
        graph::NodeId,
        render::sample,
        report::Recorder,
    };

    fn run() -> Run {
        let plan = sample::two_images();
        let recorder = Recorder::new(&plan);
        recorder.event(Event::Started(NodeId::new(5)));
        recorder.event(Event::Progress { node: NodeId::new(5), bytes: 12 });
        recorder.event(Event::Finished(plan.images[0].tag));
        let record = recorder.record();
        let summary = Summary::new(&plan, &record);
        let limits = Limits { workers: 2, downloads: 6, memory_bytes: 1 << 28 };
        Run::new(plan, record, &summary, UNIX_EPOCH, limits, RunEnd::Whole)
    }

    #[test]
    fn a_run_survives_its_file() {
        let run = run();
        let bytes = run.to_bytes().unwrap();
        let read = Run::read(&*bytes).unwrap();
        assert_eq!(read.head, run.head);
        assert_eq!(Head::read(&*bytes).unwrap(), run.head);
        assert_eq!(render::json(&read.plan, &Marks::default()), render::json(&run.plan, &Marks::default()));
        // The numbers are others, what they name is the same.
        let names = |run: &Run| {
            let nodes = run.record.nodes.iter();
            let mut names: Vec<_> =
                nodes.map(|node| (run.plan.id(NodeId::new(node.node)), node.bytes, node.outcome)).collect();
            names.sort_by(|a, b| a.0.cmp(&b.0));
            names
        };
        assert_eq!(names(&read), names(&run));
        assert_eq!(read.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn only_what_is_there_counts_as_before() {
        let run = run();
        assert_eq!(run.head.outcome, RunOutcome::SomeFailed);
        let names: Vec<_> = run.head.stood_for().map(|(name, _)| name).collect();
        assert_eq!(names, ["webapp:latest"]);
    }

    #[test]
    fn what_is_no_run_is_refused() {
        let bytes = run().to_bytes().unwrap();
        assert!(Run::read(&bytes[..bytes.len() / 2]).is_err());
        assert!(Run::read(&b"no zstd"[..]).is_err());
        assert!(matches!(Run::read(&b"{\"schema\":2}\n"[..]), Err(NoRun::Schema(2))));
    }
}
