//! One layer's bytes in, pieces out: inflate, split, digest, encode. Knows formats; ignores graphs,
//! repositories and where the bytes come from.

mod ambiguous;
pub mod entry;
pub mod inflate;
pub mod split;
pub mod verity;
