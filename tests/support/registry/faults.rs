//! What goes wrong at a scripted registry, and when. Knows paths, kinds and chance;
//! ignores how a fault is played.

use std::{collections::HashMap, time::Duration};

use super::Kind;

/// What goes wrong with one answer. A count of bytes beyond a short body is taken as its last byte, so that a
/// fault is one for every body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status, an error body as registries write it, and perhaps a further header.
    Status(u16, Option<(String, String)>),
    /// Answers with this status, with these headers besides the length, and with this body.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Answers in full, after a while. A slow server for the client to bear, not a means to order events.
    DelayThen(Duration),
    /// Answers in full, at about so many bytes a second.
    Throttle(u64),
    /// Promises the whole body and closes the connection after so many bytes.
    CutAfter(usize),
    /// Promises the whole body and resets the connection after so many bytes, some of which may be lost.
    ResetAfter(usize),
    /// Promises the whole body, sends so many bytes and then nothing until
    /// [`super::Registry::release`] or the end.
    StallAfter(usize),
    /// Sends so many bytes and says that this is all.
    ShortHonest(usize),
    /// Flips a bit of the byte at this place.
    Corrupt(usize),
    /// Sends these bytes instead, honestly announced.
    Bytes(Vec<u8>),
    /// Sends the whole body and these bytes after it, announced together.
    Longer(Vec<u8>),
    /// Sends the body in chunks, its length not announced, and these bytes after it.
    ChunkedAndLonger(Vec<u8>),
    /// Sends the body under another media type.
    MediaType(String),
    /// Sends these bytes in place of HTTP and closes the connection.
    Raw(Vec<u8>),
    /// Resets the connection in place of an answer.
    Reset,
    /// Accepts the request and never answers, until [`super::Registry::release`] or the end.
    Silence,
}

impl Fault {
    /// A status with an error body and `Retry-After: 0`: skopeo, which waits and repeats by itself
    /// on 429, does so at once.
    pub fn at_once(status: u16) -> Self {
        Self::Status(status, Some(("Retry-After".into(), "0".into())))
    }
}

/// Faults by chance.
///
/// Whether a request meets one, and which, is told by the seed, its path and how often that was asked before,
/// so it does not depend on the order of threads.
#[derive(Debug, Clone)]
pub struct Mix {
    pub seed: u64,
    /// How many of a thousand requests go wrong.
    pub per_mille: u32,
    /// The kinds that go wrong.
    pub kinds: Vec<Kind>,
    /// What may happen to them.
    pub faults: Vec<Fault>,
    /// The most faults of one path, in all: who asks once more than this for one path must succeed, and who
    /// needs several paths at a time, after as many rounds as they have faults together. In all and not in a
    /// row, since many clients share a ping, and what follows it may fail in turns with it.
    pub at_most: usize,
}

impl Mix {
    /// One request in a hundred of all that a pull needs, at most three for each path.
    pub fn of(faults: impl IntoIterator<Item = Fault>) -> Self {
        let faults = faults.into_iter().collect();
        Self { seed: 0, per_mille: 10, kinds: Kind::PULL.into(), faults, at_most: 3 }
    }

    /// The fault of the request for `path` that comes after `before` others.
    fn draw(&self, path: &str, before: u64) -> Option<&Fault> {
        let hash = blake3::hash(format!("{} {before} {path}", self.seed).as_bytes());
        let (chance, rest) = hash.as_bytes().split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let is_hit = number(chance) % 1000 < u64::from(self.per_mille) && !self.faults.is_empty();
        is_hit.then(|| &self.faults[(number(rest) % self.faults.len() as u64) as usize])
    }
}

/// All faults of a registry that are still to come.
#[derive(Default)]
pub struct Faults {
    /// Used up in order; the last one stays if it is for ever.
    paths: HashMap<String, Vec<(Fault, bool)>>,
    /// With how many are left, where that is limited.
    kinds: HashMap<Kind, Vec<(Fault, Option<usize>)>>,
    mix: Option<Mix>,
    /// How often each path was asked under this mix, and how many faults it had.
    asked: HashMap<String, (u64, usize)>,
}

impl Faults {
    pub fn at_path(&mut self, path: &str, fault: Fault, for_ever: bool) {
        self.paths.entry(path.to_owned()).or_default().push((fault, for_ever));
    }

    pub fn at_kind(&mut self, kind: Kind, count: Option<usize>, fault: Fault) {
        self.kinds.entry(kind).or_default().push((fault, count));
    }

    pub fn mix(&mut self, mix: Mix) {
        self.mix = Some(mix);
        self.asked.clear();
    }

    /// The fault of a request that has come.
    pub fn next(&mut self, kind: Kind, path: &str) -> Option<Fault> {
        self.of_path(path).or_else(|| self.of_kind(kind)).or_else(|| self.of_mix(kind, path))
    }

    fn of_path(&mut self, path: &str) -> Option<Fault> {
        let faults = self.paths.get_mut(path)?;
        match faults.first()? {
            (fault, true) => Some(fault.clone()),
            (_, false) => Some(faults.remove(0).0),
        }
    }

    fn of_kind(&mut self, kind: Kind) -> Option<Fault> {
        let faults = self.kinds.get_mut(&kind)?;
        faults.retain(|(_, left)| *left != Some(0));
        let (fault, left) = faults.first_mut()?;
        *left = left.map(|left| left - 1);
        Some(fault.clone())
    }

    fn of_mix(&mut self, kind: Kind, path: &str) -> Option<Fault> {
        let mix = self.mix.as_ref().filter(|mix| mix.kinds.contains(&kind))?;
        let (asked, faults) = self.asked.entry(path.to_owned()).or_default();
        let drawn = mix.draw(path, *asked).filter(|_| *faults < mix.at_most);
        *asked += 1;
        *faults += usize::from(drawn.is_some());
        drawn.cloned()
    }
}
