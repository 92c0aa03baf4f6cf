//! What a scripted registry was asked and what it sent. Knows kinds of requests, bytes and how many went on
//! at once; ignores time and faults themselves.

use std::collections::{BTreeMap, HashMap};

use cfs_dag::types::Digest;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `/v2/`.
    Ping,
    /// `/token`.
    Token,
    /// `/v2/NAME/tags/list`.
    Tags,
    /// A manifest or an index, by tag or by digest.
    Manifest,
    /// A blob that some manifest here calls its config.
    Config,
    /// Any other blob.
    Layer,
    /// Whatever else a client tries.
    Other,
}

impl Kind {
    /// All that a pull needs.
    pub const PULL: [Self; 5] = [Self::Ping, Self::Token, Self::Manifest, Self::Config, Self::Layer];

    pub(super) fn is_blob(self) -> bool {
        matches!(self, Self::Config | Self::Layer)
    }
}

/// What was sent of one body, over all requests for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// The size of the body, in bytes.
    pub size: u64,
    /// Bytes sent in all.
    pub bytes: u64,
    /// Of these, the bytes of answers that a fault touched and that were not whole and true.
    pub spoiled: u64,
    /// How often it was sent to its end as it is.
    pub whole: usize,
}

/// The server's view, until now.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    kinds: BTreeMap<Kind, usize>,
    paths: HashMap<String, usize>,
    faults: BTreeMap<Kind, usize>,
    bodies: HashMap<Digest, (Kind, Sent)>,
    requests: Gauge,
    blobs: Gauge,
    layers: Gauge,
    /// For each layer that was asked for, how many were being sent then, with this one;
    /// in the order of requests.
    layers_met: Vec<usize>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Gauge {
    now: usize,
    most: usize,
}

impl Gauge {
    fn up(&mut self) {
        self.now += 1;
        self.most = self.most.max(self.now);
    }
}

impl Counts {
    /// How many requests of a kind came.
    pub fn requests(&self, kind: Kind) -> usize {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// How many requests came for this very path below `/v2/`.
    pub fn requests_to(&self, path: &str) -> usize {
        self.paths.get(path).copied().unwrap_or_default()
    }

    /// How many requests of a kind met a fault.
    pub fn faults(&self, kind: Kind) -> usize {
        self.faults.get(&kind).copied().unwrap_or_default()
    }

    /// How many requests met a fault.
    pub fn all_faults(&self) -> usize {
        self.faults.values().sum()
    }

    /// What was sent of the body with this digest.
    pub fn sent(&self, digest: Digest) -> Sent {
        self.bodies.get(&digest).map(|(_, sent)| *sent).unwrap_or_default()
    }

    /// Body bytes sent of blobs, in all.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs_sent().map(|(_, sent)| sent.bytes).sum()
    }

    /// Blobs of which more was sent than their size and what faults cost, with these bytes; in order.
    pub fn surplus(&self) -> Vec<(Digest, u64)> {
        let over = |sent: &Sent| (sent.bytes - sent.spoiled).saturating_sub(sent.size);
        let mut surplus: Vec<_> = self.blobs_sent().map(|(digest, sent)| (*digest, over(sent))).collect();
        surplus.retain(|(_, bytes)| *bytes > 0);
        surplus.sort();
        surplus
    }

    /// The most requests that were being answered at once. Those whose client has hung up
    /// count until that is seen.
    pub fn most_requests(&self) -> usize {
        self.requests.most
    }

    /// The most blobs that were being sent at once.
    pub fn most_blobs(&self) -> usize {
        self.blobs.most
    }

    /// How many layers are being sent.
    pub fn layers_now(&self) -> usize {
        self.layers.now
    }

    /// The most layers that were being sent at once.
    pub fn most_layers(&self) -> usize {
        self.layers.most
    }

    /// For each request for a layer, in order, how many layers were being sent when it
    /// came, itself among them.
    pub fn layers_met(&self) -> &[usize] {
        &self.layers_met
    }

    fn blobs_sent(&self) -> impl Iterator<Item = (&Digest, &Sent)> {
        self.bodies.iter().filter(|(_, (kind, _))| kind.is_blob()).map(|(digest, (_, sent))| (digest, sent))
    }
}

/// What the server tells.
impl Counts {
    pub(super) fn begin(&mut self, kind: Kind, path: &str, has_fault: bool) {
        *self.kinds.entry(kind).or_default() += 1;
        *self.paths.entry(path.to_owned()).or_default() += 1;
        if has_fault {
            *self.faults.entry(kind).or_default() += 1;
        }
        self.requests.up();
        if kind.is_blob() {
            self.blobs.up();
        }
        if kind == Kind::Layer {
            self.layers.up();
            self.layers_met.push(self.layers.now);
        }
    }

    pub(super) fn end(&mut self, kind: Kind) {
        self.requests.now -= 1;
        if kind.is_blob() {
            self.blobs.now -= 1;
        }
        if kind == Kind::Layer {
            self.layers.now -= 1;
        }
    }

    pub(super) fn body(&mut self, kind: Kind, digest: Digest) -> &mut Sent {
        &mut self.bodies.entry(digest).or_insert((kind, Sent::default())).1
    }

    pub(super) fn forget(&mut self) {
        let afresh = |gauge: Gauge| Gauge { now: gauge.now, most: gauge.now };
        *self = Self {
            requests: afresh(self.requests),
            blobs: afresh(self.blobs),
            layers: afresh(self.layers),
            // Who is sending still takes back what it could not send.
            bodies: HashMap::new(),
            ..Self::default()
        };
    }
}
