//! cfs-dag: a build system for container image pulls. This page is the tour: what a pull is, and where to read on.
//!
//! A pull compiles the images of a request into one graph of steps, runs it on a work-stealing scheduler, and
//! leaves a composefs repository as upstream's own pull would have left it. Everyone else pulls images one after
//! another and layers as opaque jobs; here each blob, layer and filesystem appears once, runs once, and is
//! remembered, however many images want it.
//!
//! # A pull, from left to right
//!
//! 1. [`source`]: references become manifests and configs, fetched side by side and verified.
//! 2. [`pull::look`]: the repository is asked what it has of them. Nothing is written so far.
//! 3. [`graph::plan`]: pure data in, a [`graph::Plan`] out, each node once. `--dry-run` ends here, in [`render`].
//! 4. [`exec`]: the plan runs. It tells one stream of events, which [`report`] shows, sums up and keeps: all views of a
//!    run are made of the plan and these events, and none asks the engine. A layer's steps run together, over bounded flows:
//!
//! ```text
//! fetch blob ⇢ split layer ⇢ encode stream ─┐
//!                    ⇣            ⇡ ids     ├→ finalize stream → filesystem image → config → manifest → tag
//!               write objects ──────────────┘
//! ```
//!
//! `→` starts after, `⇢` runs together. [`pull`] is the one room that knows all others: its `work.rs` says which
//! file does which kind of node.
//!
//! # The way of a byte
//!
//! ```text
//! source ─ blob ─▶ inflate ─▶ split, no copies
//!            │        │           ├─ headers, padding, files ≤ 64 B ─▶ encoder
//!            ▼        ▼           └─ other files ─▶ fs-verity ─▶ there already? ─▶ write
//!        sha256    sha256 (diff_id)                    └─ id ─▶ encoder
//! ```
//!
//! Inflating is the longest chain of a large layer, so everything else runs beside it, on whatever worker is free.
//! A file's name is its fs-verity digest, and it is computed in memory before anything is written: a file that the
//! repository has costs a `stat`. Only what is hardly there (large files of a first pull) or does not fit into memory
//! is written while it is hashed. Blocks of many files share the SIMD lanes of the hash ([`layer::verity`]). What is
//! new becomes an anonymous file that gets its name when it is complete and cannot be lost any more ([`store`]).
//!
//! # A mirror, before and around that
//!
//! [`list`] turns a file into rules; registries are asked for the tags that rules choose from; what comes of it is a
//! request like any other, or a few, one after the other: images whose registries do not answer are left to a later
//! graph. Networks fail, so [`source`] tells by skopeo's words what may pass, and what may is tried again: a resolve by
//! itself, a blob by the fetch step, which knows the other places that have it. A registry in trouble gets fewer
//! requests at once. A layer is claimed before it is fetched, so that two programs do not fetch it both. An interrupted
//! run is drained first: what is nearly whole may end, nothing new begins.
//!
//! # What holds always
//!
//! - **Nothing gets a name before its bytes are verified.** Blob digest and size, `diff_id`, manifest, config. The
//!   stream of a layer is complete only when its split has checked both ends; only a complete stream is finalized.
//! - **Nothing is visible before it is durable.** An object with fs-verity, which vouches for itself, gets its name
//!   at once, another one behind a `syncfs` that began when it was complete. Links are made by one thread, behind a
//!   `syncfs` that began when everything they reach had its name; one such barrier serves all that is ready. In the
//!   store, making a link takes a `Durable` proof that only a finished barrier gives.
//! - **A layer link is never replaced**, unless what it names is broken. Upstream's gc follows a stream only while
//!   some link points to that very object.
//! - **Bytes do not depend on scheduling.** Ids are handed to the encoder in tar order; references are written in
//!   `diff_id` order. One worker or sixteen: the same repository.
//! - **Memory is a budget** ([`types::Budget`]). Every active layer owns a reserve, so a full budget slows everyone
//!   down and stops no one; and has a limit, so that inflating does not run far ahead of what comes after it.
//! - **A worker never waits.** Work that runs dry returns to the pool and is woken; the barrier and the network
//!   have threads of their own. Only where the disk cannot keep up does it wait for the disk.
//! - **A run always ends.** A dropped ticket fails its node; if nothing is going on and nodes are left, the run
//!   says which, instead of hanging.
//!
//! - **Nothing outside the repository is touched.** Whatever links somebody puts into it, our paths are walked by
//!   openat2 without following any (`store/beneath.rs`).
//! - **What an image may cost is limited** ([`types::Limits`]), also where memory is not counted.
//!
//! # Failure
//!
//! Every node knows the images that want it. When it fails, they fail, and what only they wanted is cancelled. A
//! layer that images reach through different blobs has candidates, tried in plan order: a blob that lies about
//! its `diff_id` fails the images that named it, the next candidate starts over, and nothing names objects that
//! the liar left behind.
//!
//! What the system refuses is told in one line, and the next run goes on from there; a call that a signal cut short is made
//! again. A disk that has changed bytes is found by `fsck` alone; what it has found is doubted, and so made anew, until a
//! check finds nothing (`store/doubt.rs`).
//!
//! A run that is interrupted drains: nothing new begins, and what runs has five seconds, with what follows from nothing
//! else; a fetch with more left than that gives up at once. Then the rest is cut.
//!
//! # The rooms
//!
//! Dependencies point downwards only. `graph`, `exec`, `source`, `layer` and `store` do not know one another; what
//! they share is in `types`.
//!
//! ```text
//! cli ─▶ pull ─▶ graph   exec   source   layer   store ─▶ types
//! cli ─▶ list ─▶ references of source
//! render, report ─▶ graph and the events of exec
//! ```
//!
//! # What we chose not to do
//!
//! Merging nodes while they run (as some solvers do) brought others years of deadlocks: nodes are named when the
//! plan is made and never merge later. The pieces inside a layer are work items, not nodes: their number is not
//! known before the layer is read. Building EROFS and hashing trees of entries are upstream's, and fast enough.

pub mod cli;
pub mod exec;
pub mod graph;
pub mod layer;
pub mod list;
pub mod pull;
pub mod render;
pub mod report;
pub mod source;
pub mod store;
pub mod types;

// Unit tests share files with the tests of whole commands, which know this crate by its name.
#[cfg(test)]
extern crate self as cfs_dag;
