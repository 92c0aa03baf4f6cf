//! The result of a run, on stdout: as a block for each image or as JSON. Knows plan and
//! record; ignores how to print.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{NodeOutcome, NodeRecord, Record, plain::without_name};
use crate::{
    graph::{ImageIx, Kind, NodeId, Plan, State},
    render::{
        LayerCounts, layer_counts,
        words::{count, printable, size},
    },
    types::{Digest, LayerAmbiguity},
};

/// What is said of an image that was not done because the run was interrupted.
pub const INTERRUPTED: &str = "interrupted: run this again to go on from here";

/// The result of a run. Fields are only added while `schema` stays the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The version of this format: 1.
    pub schema: u32,
    /// The images in the order of the request.
    pub images: Vec<ImageResult>,
    /// The names that were taken away, since the list no longer has them; absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untagged: Vec<String>,
    /// The sums.
    pub totals: Totals,
}

/// What became of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageResult {
    /// The name in the repository.
    pub name: String,
    /// The reference as the user wrote it.
    pub reference: String,
    /// Digest of the manifest as stored; absent if the image could not be resolved.
    pub manifest: Option<Digest>,
    /// Digest of the manifest as the source has it, if it was converted (docker schema 2 to OCI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_manifest: Option<Digest>,
    /// Digest of the manifest that its name stood for before, if the name was moved by this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_manifest: Option<Digest>,
    /// Digest of the config; absent if the image could not be resolved.
    pub config: Option<Digest>,
    /// EROFS image ids (fs-verity, hexadecimal) by format; empty for artifacts and failed images.
    pub erofs: BTreeMap<String, String>,
    /// Whether it is an artifact, which has no filesystem: a signature, an attestation, an SBOM; absent if
    /// not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub artifact: bool,
    /// Whether its name stood for it before, and nothing was missing.
    #[serde(default)]
    pub unchanged: bool,
    /// Its layers by what had to be done, as planned.
    pub layers: LayerCounts,
    /// Compressed bytes transferred for it, lost ones too. What several images share counts for the first.
    pub bytes_fetched: u64,
    /// Bytes of new objects of its layers. What several images share counts for the first.
    pub bytes_written: u64,
    /// Its entries that tar readers read differently, which were read as cfsctl does;
    /// absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ambiguities: Vec<LayerAmbiguity>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How an image ended: `"outcome": "ok"`, or `"outcome": "failed"` with an `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It is in the repository under its name.
    Ok,
    /// It is not.
    Failed {
        /// Why, one line for people.
        error: String,
    },
}

/// Sums over a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Images that are in the repository.
    pub images_ok: u64,
    /// Images that are not.
    pub images_failed: u64,
    /// Compressed bytes transferred.
    pub bytes_fetched: u64,
    /// Bytes of new objects of layers.
    pub bytes_written: u64,
    /// How often a transfer was begun again, from the same place or from another one.
    #[serde(default)]
    pub retries: u64,
    /// Duration of the run; of several, the sum.
    pub wall_seconds: f64,
    /// Objects that the run stored.
    pub objects_new: u64,
    /// Objects that the run would have stored, had they not been there.
    pub objects_present: u64,
    /// Barriers (`syncfs`) that the run waited for.
    pub barriers: u64,
}

impl Summary {
    /// What `record` says about the images of `plan`. `erofs`, `original_manifest`, `artifact` and the
    /// barriers of the totals are not in events: the caller fills them in.
    pub fn new(plan: &Plan, record: &Record) -> Self {
        let images = (0..plan.images.len()).map(|ix| ImageResult::new(plan, record, ImageIx(ix)));
        let counted = |what| record.nodes.iter().map(|node| node.count(what)).sum();
        let totals = Totals {
            wall_seconds: record.wall_us as f64 / 1e6,
            retries: retries(plan, record),
            objects_new: counted("objects_new"),
            objects_present: counted("objects_present"),
            ..Totals::default()
        };
        Self::of(images.collect(), Vec::new(), totals)
    }

    /// What became of `images`; those of `totals` that are sums over them are set.
    pub fn of(images: Vec<ImageResult>, untagged: Vec<String>, totals: Totals) -> Self {
        let mut summary = Self { schema: 1, images, untagged, totals };
        summary.add_up();
        summary
    }

    fn add_up(&mut self) {
        let sum = |of: fn(&ImageResult) -> u64| self.images.iter().map(of).fold(0, u64::saturating_add);
        let totals = Totals {
            images_ok: sum(|image| (image.outcome == Outcome::Ok).into()),
            images_failed: sum(|image| (image.outcome != Outcome::Ok).into()),
            bytes_fetched: sum(|image| image.bytes_fetched),
            bytes_written: sum(|image| image.bytes_written),
            ..self.totals.clone()
        };
        self.totals = totals;
    }

    /// One block for each image, without a blank line between, and a line for each name that was taken away;
    /// all that people get on stdout.
    pub fn text(&self) -> String {
        let images = self.images.iter().map(ImageResult::text);
        images.chain(self.untagged.iter().map(|name| format!("{}: untagged\n", printable(name)))).collect()
    }

    /// A line for each image that is new, whose name moved, or that failed, and for each name that was
    /// taken away, and the number of those that were here already: what there is to tell of a list that
    /// is mirrored every night.
    pub fn brief(&self) -> String {
        let (unchanged, others): (Vec<_>, Vec<_>) =
            self.images.iter().partition(|image| image.outcome == Outcome::Ok && image.unchanged);
        let mut lines: Vec<String> = others.into_iter().map(ImageResult::line).collect();
        lines.extend(self.images.iter().flat_map(ImageResult::warnings));
        lines.extend(self.untagged.iter().map(|name| format!("untagged  {}", printable(name))));
        if !unchanged.is_empty() {
            lines.push(format!("unchanged {}", count(unchanged.len(), "image", "images")));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The whole as indented JSON with a newline at its end.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a summary's maps have text keys");
        text.push('\n');
        text
    }

    /// The totals on one line without a newline, for stderr.
    pub fn totals_line(&self) -> String {
        let totals = &self.totals;
        let failed = if totals.images_failed > 0 {
            format!(", {} failed", totals.images_failed)
        } else {
            String::new()
        };
        let retries = match totals.retries {
            0 => String::new(),
            retries => format!(" ({})", count(retries as usize, "retry", "retries")),
        };
        format!(
            "{} done{failed} in {:.1} s: {} fetched{retries}, {} written, {} new, {} present, {}",
            count(totals.images_ok as usize, "image", "images"),
            totals.wall_seconds,
            size(totals.bytes_fetched),
            size(totals.bytes_written),
            count(totals.objects_new as usize, "object", "objects"),
            totals.objects_present,
            count(totals.barriers as usize, "barrier", "barriers"),
        )
    }
}

impl Totals {
    /// Adds what another run counted; sums over images are not added, see [`Summary::of`].
    pub fn add(&mut self, other: &Self) {
        self.retries = self.retries.saturating_add(other.retries);
        self.wall_seconds += other.wall_seconds;
        self.objects_new = self.objects_new.saturating_add(other.objects_new);
        self.objects_present = self.objects_present.saturating_add(other.objects_present);
        self.barriers = self.barriers.saturating_add(other.barriers);
    }
}

impl ImageResult {
    /// An image that never came into a plan: it could not be resolved.
    pub fn unresolved(
        name: impl Into<String>,
        reference: impl Into<String>,
        error: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            reference: reference.into(),
            manifest: None,
            original_manifest: None,
            previous_manifest: None,
            config: None,
            erofs: BTreeMap::new(),
            artifact: false,
            unchanged: false,
            layers: LayerCounts::default(),
            bytes_fetched: 0,
            bytes_written: 0,
            ambiguities: Vec::new(),
            outcome: Outcome::Failed { error: error.into() },
        }
    }

    fn new(plan: &Plan, record: &Record, ix: ImageIx) -> Self {
        let image = &plan.images[ix.0];
        let (bytes_fetched, bytes_written) = bytes(plan, record, ix);
        let outcome = outcome(plan, record, ix);
        let moved = image.named.filter(|named| *named != image.manifest);
        Self {
            name: image.name.clone(),
            reference: image.reference.clone(),
            manifest: Some(image.manifest),
            original_manifest: None,
            previous_manifest: moved.filter(|_| outcome == Outcome::Ok),
            config: Some(image.config),
            erofs: BTreeMap::new(),
            artifact: false,
            unchanged: plan.graph[image.tag].state == State::Stored,
            layers: layer_counts(plan, ix),
            bytes_fetched,
            bytes_written,
            ambiguities: Vec::new(),
            outcome,
        }
    }

    /// A line for each ambiguous entry.
    fn warnings(&self) -> impl Iterator<Item = String> {
        let warning = |ambiguity| format!("warning   {}: {ambiguity}", self.name);
        self.ambiguities.iter().map(move |ambiguity| printable(&warning(ambiguity)).into_owned())
    }

    fn line(&self) -> String {
        let name = printable(&self.name);
        match &self.outcome {
            Outcome::Failed { error } => {
                let error = printable(error);
                format!("failed    {name}: {}", without_name(&error, &[&self.name, &self.reference]))
            }
            Outcome::Ok => {
                let digest = self.manifest.map_or_else(String::new, |digest| digest.to_string());
                let kind = if self.artifact { ", artifact" } else { "" };
                let fetched = size(self.bytes_fetched);
                match self.previous_manifest {
                    Some(previous) => {
                        format!("moved     {name}  {previous} -> {digest}  {fetched} fetched{kind}")
                    }
                    None => format!("new       {name}  {digest}  {fetched} fetched{kind}"),
                }
            }
        }
    }

    fn text(&self) -> String {
        let name = printable(&self.name);
        if let Outcome::Failed { error } = &self.outcome {
            let error = printable(error);
            return format!("{name}: failed\n  {}\n", without_name(&error, &[&self.name, &self.reference]));
        }
        let kind = if self.artifact { " (artifact)" } else { "" };
        let mut text = format!("{name}{kind}\n");
        let mut line = |title: &str, value: String| text += &format!("  {title:<9} {value}\n");
        let digest = |digest: &Option<Digest>| digest.map_or("-".to_owned(), |digest| digest.to_string());
        line("manifest", digest(&self.manifest));
        if self.original_manifest.is_some() {
            line("original", digest(&self.original_manifest));
        }
        if self.previous_manifest.is_some() {
            line("previous", digest(&self.previous_manifest));
        }
        line("config", digest(&self.config));
        for (format, id) in &self.erofs {
            line("erofs", format!("{format} {id}"));
        }
        let layers = self.layers;
        let states = format!("{} stored, {} shared, {} new", layers.stored, layers.shared, layers.new);
        line("layers", format!("{}: {states}", layers.total));
        line("bytes", format!("{} fetched, {} written", size(self.bytes_fetched), size(self.bytes_written)));
        for ambiguity in &self.ambiguities {
            line("warning", printable(&ambiguity.to_string()).into_owned());
        }
        text
    }
}

fn retries(plan: &Plan, record: &Record) -> u64 {
    let is_fetch = |did: &&NodeRecord| {
        plan.graph.node_weight(NodeId::new(did.node)).is_some_and(|n| n.kind == Kind::Fetch)
    };
    record.nodes.iter().filter(is_fetch).map(|did| u64::from(did.restarts)).sum()
}

/// Bytes fetched and written for `ix`: of the nodes whose first image it is.
fn bytes(plan: &Plan, record: &Record, ix: ImageIx) -> (u64, u64) {
    let (mut fetched, mut written) = (0_u64, 0_u64);
    for did in &record.nodes {
        let Some(node) = plan.graph.node_weight(NodeId::new(did.node)) else { continue };
        match node.kind {
            _ if node.wanted_by.first() != Some(&ix) => {}
            Kind::Fetch => fetched = fetched.saturating_add(did.bytes).saturating_add(did.lost_bytes),
            // What a write lost by starting over is there, and not written again.
            Kind::Write => written = written.saturating_add(did.bytes).saturating_add(did.lost_bytes),
            _ => {}
        }
    }
    (fetched, written)
}

/// An image is there if its tag is; everything else is a failure, also without a failed node.
fn outcome(plan: &Plan, record: &Record, ix: ImageIx) -> Outcome {
    let tag = plan.images[ix.0].tag;
    let ended = record.node(tag).map(|tag| tag.outcome);
    if ended == Some(NodeOutcome::Finished) {
        return Outcome::Ok;
    }
    match record.first_failure(plan, ix) {
        Some(error) => Outcome::Failed { error: error.to_owned() },
        None if ended.is_none() && plan.graph[tag].state == State::Stored => Outcome::Ok,
        None => Outcome::Failed { error: INTERRUPTED.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::{Event, Observer},
        render::sample,
        report::Recorder,
    };

    fn summary(plan: &Plan, events: impl IntoIterator<Item = Event>) -> Summary {
        let recorder = Recorder::new(plan);
        events.into_iter().for_each(|event| recorder.event(event));
        Summary::new(plan, &Record { wall_us: 1_234_000, ..recorder.record() })
    }

    fn id(index: usize) -> NodeId {
        NodeId::new(index)
    }

    /// The first of two images is done, the second fails at its manifest.
    fn one_of_two() -> Summary {
        let mut summary = summary(
            &sample::two_images(),
            [
                Event::Progress { node: id(5), bytes: 12_000_000 },
                Event::Progress { node: id(8), bytes: 30_000_000 },
                Event::Finished(id(13)),
                Event::Failed(id(16), "node:latest: the disk is full: free some space".into()),
                Event::Cancelled(id(17)),
            ],
        );
        summary.images[0].erofs.insert("v1".into(), "ab12".into());
        summary
    }

    #[test]
    fn blocks_for_people() {
        let expected = "\
webapp:latest
  manifest  sha256:dd9c4f1001f87018a3ad5b7807eef7ae22065d4211f5d400a72b7215a834df0b
  config    sha256:45d940ac529ff5bbd746c4a0dfa874249afd1fae96f7984ac1a45dd9e9389cf9
  erofs     v1 ab12
  layers    2: 1 stored, 0 shared, 1 new
  bytes     12.0 MB fetched, 30.0 MB written
node:latest: failed
  the disk is full: free some space
";
        assert_eq!(one_of_two().text(), expected);
        let line = "1 image done, 1 failed in 1.2 s: 12.0 MB fetched, 30.0 MB written, 0 objects new, 0 \
                    present, 0 barriers";
        assert_eq!(one_of_two().totals_line(), line);
    }

    #[test]
    fn of_a_list_only_what_has_changed_is_told_in_full() {
        let mut summary = one_of_two();
        assert_eq!(
            summary.brief(),
            "new       webapp:latest  \
             sha256:dd9c4f1001f87018a3ad5b7807eef7ae22065d4211f5d400a72b7215a834df0b  12.0 MB fetched\n\
             failed    node:latest: the disk is full: free some space\n"
        );
        summary.untagged = vec!["old:v1".into(), "older\n:v1".into()];
        assert!(
            summary.brief().ends_with("\nuntagged  old:v1\nuntagged  older :v1\n"),
            "{}",
            summary.brief()
        );
        let previous_manifest = Some(Digest::of(b"previous"));
        let moved = ImageResult { previous_manifest, ..summary.images[0].clone() };
        let line = format!(
            "moved     webapp:latest  {} -> \
             sha256:dd9c4f1001f87018a3ad5b7807eef7ae22065d4211f5d400a72b7215a834df0b  \
             12.0 MB fetched",
            Digest::of(b"previous")
        );
        assert_eq!(moved.line(), line);
        assert!(moved.text().contains(&format!("\n  previous  {}\n  config ", Digest::of(b"previous"))));
        let kept = ImageResult { unchanged: true, ..summary.images[0].clone() };
        let told = |images: Vec<ImageResult>| Summary { images, ..summary.clone() }.brief();
        assert!(told(vec![kept.clone(), kept.clone()]).ends_with("older :v1\nunchanged 2 images\n"));
        assert!(told(vec![kept.clone()]).ends_with("\nunchanged 1 image\n"));
        // What failed is told of, also when its name stood for the same image before.
        let lost = ImageResult { unchanged: true, ..summary.images[1].clone() };
        assert!(told(vec![kept, lost]).starts_with("failed    node:latest: the disk"));
    }

    #[test]
    fn transfers_that_were_begun_again_are_counted() {
        let summary = summary(
            &sample::two_images(),
            [
                Event::Started(id(5)),
                Event::Restarted(id(5)),
                Event::Restarted(id(5)),
                Event::Restarted(id(6)),
                Event::Finished(id(13)),
            ],
        );
        assert_eq!(summary.totals.retries, 2, "only fetches count");
        assert!(summary.totals_line().contains("0 B fetched (2 retries), "), "{}", summary.totals_line());
        assert!(!one_of_two().totals_line().contains("retr"));
    }

    #[test]
    fn json_for_programs() {
        let summary = one_of_two();
        let value: serde_json::Value = serde_json::from_str(&summary.json()).unwrap();
        assert_eq!(value["images"][0]["outcome"], "ok");
        assert_eq!(value["images"][0]["layers"]["stored"], 1);
        assert_eq!(value["images"][1]["outcome"], "failed");
        assert_eq!(value["images"][1]["error"], "node:latest: the disk is full: free some space");
        assert_eq!(value["totals"]["wall_seconds"], 1.234);
        assert_eq!(serde_json::from_value::<Summary>(value).unwrap(), summary);
    }

    #[test]
    fn an_image_that_was_stored_is_ok_without_any_event() {
        let plan = sample::Sample::default()
            .layer("base", State::Stored, &[0], &[])
            .image("a:v1", State::Stored, &["base"])
            .plan();
        let summary = summary(&plan, []);
        assert_eq!(summary.images[0].outcome, Outcome::Ok);
        assert_eq!(summary.images[0].layers, LayerCounts { total: 1, stored: 1, shared: 0, new: 0 });
    }

    #[test]
    fn a_name_that_was_taken_away_is_told() {
        let mut summary = one_of_two();
        assert!(!summary.json().contains("untagged"), "nothing to tell of");
        summary.untagged = vec!["old:v1".into(), "older\n:v1".into()];
        assert!(summary.text().ends_with("\nold:v1: untagged\nolder :v1: untagged\n"), "{}", summary.text());
        let value: serde_json::Value = serde_json::from_str(&summary.json()).unwrap();
        assert_eq!(value["untagged"][0], "old:v1");
        assert_eq!(serde_json::from_value::<Summary>(value).unwrap(), summary);
    }

    #[test]
    fn an_image_that_did_not_end_is_not_ok() {
        let summary = summary(&sample::two_images(), [Event::Started(id(5))]);
        assert_eq!((summary.totals.images_ok, summary.totals.images_failed), (0, 2));
    }

    #[test]
    fn an_image_that_could_not_be_resolved_counts_as_failed() {
        let Summary { mut images, totals, .. } = one_of_two();
        let unresolved = ("gone:v1", "docker://r/gone:v1", "docker://r/gone:v1: not found");
        images.push(ImageResult::unresolved(unresolved.0, unresolved.1, unresolved.2));
        let summary = Summary::of(images, Vec::new(), totals);
        assert_eq!(summary.images[2].text(), "gone:v1: failed\n  not found\n");
        assert_eq!(summary.totals.images_failed, 2);
    }

    #[test]
    fn totals_of_two_runs_are_added() {
        let Summary { images, totals, .. } = one_of_two();
        let mut both = Totals { retries: 2, barriers: 1, objects_new: 4, ..totals.clone() };
        both.add(&Totals { objects_present: 3, ..both.clone() });
        let twice = [images.clone(), images].concat();
        let line = "2 images done, 2 failed in 2.5 s: 24.0 MB fetched (4 retries), 60.0 MB written, 8 \
                    objects new, 3 present, 2 barriers";
        assert_eq!(Summary::of(twice, Vec::new(), both).totals_line(), line);
    }
}
