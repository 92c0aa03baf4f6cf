//! Why a node is in its state. Knows the closed list of reasons and their words; ignores who finds out.

use std::fmt;

use super::{ImageIx, Node, NodeId, Part, Plan, State};

/// Why a node is in its state. The list is closed; `shared with IMAGE` comes on top, see [`Plan::why`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// What it makes is in the repository, or nobody will ask for it.
    Stored,
    /// The repository has nothing of it.
    NotStored,
    /// The name points to another image, and moves.
    TagMoved,
    /// It was made before, but what it made is not there any more, or not all of it.
    OutputsMissing,
    /// Something that it made has another size than it should.
    SizeWrong,
    /// The user asked for it to be made again.
    Forced,
    /// When this name was pulled last, this part of the key was another.
    KeyChanged(Part),
}

impl Reason {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let plain = [
            Self::Stored,
            Self::NotStored,
            Self::TagMoved,
            Self::OutputsMissing,
            Self::SizeWrong,
            Self::Forced,
        ];
        plain.into_iter().chain(Part::CHANGES.into_iter().map(Self::KeyChanged))
    }

    /// The reason that these words mean.
    pub fn parse(text: &str) -> Option<Self> {
        Self::all().find(|reason| reason.to_string() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored",
            Self::NotStored => "not stored",
            Self::TagMoved => "tag moved",
            Self::OutputsMissing => "outputs missing",
            Self::SizeWrong => "size wrong",
            Self::Forced => "forced",
            Self::KeyChanged(part) => return write!(f, "key changed ({})", part.name()),
        })
    }
}

impl Node {
    /// The node's state as `image` sees it: work that an earlier image wants is `Shared`.
    pub fn state_for(&self, image: ImageIx) -> State {
        match self.state {
            State::Needed if self.wanted_by.first().is_some_and(|&first| first != image) => State::Shared,
            state => state,
        }
    }
}

impl Plan {
    /// Why `node` is in the state in which `image` sees it: its reason, or `shared with IMAGE`.
    pub fn why(&self, node: NodeId, image: ImageIx) -> String {
        let node = &self.graph[node];
        match (node.state_for(image), node.wanted_by.first()) {
            (State::Shared, Some(first)) if *first != image => {
                format!("shared with {}", self.images[first.0].name)
            }
            _ => node.reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_can_be_read_back() {
        for reason in Reason::all() {
            assert_eq!(Reason::parse(&reason.to_string()), Some(reason));
        }
        assert_eq!(Reason::parse("layer is new"), None);
    }

    #[test]
    fn work_that_an_earlier_image_wants_is_shared_with_it() {
        let plan = crate::graph::sample::two_images();
        let [base, libs] = plan.images[0].layers[..] else { panic!("two layers") };
        let [first, second] = [0, 1].map(ImageIx);
        assert_eq!(
            (plan.graph[libs].state_for(first), &*plan.why(libs, first)),
            (State::Needed, "not stored")
        );
        let shared = "shared with webapp:latest";
        assert_eq!((plan.graph[libs].state_for(second), &*plan.why(libs, second)), (State::Shared, shared));
        assert_eq!((plan.graph[base].state_for(second), &*plan.why(base, second)), (State::Stored, "stored"));
    }
}
