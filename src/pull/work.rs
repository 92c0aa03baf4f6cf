//! Which code does which kind of node. Knows every step by name; ignores how any of them works.

use std::sync::Arc;

use composefs::fsverity::FsVerityHashValue;

use super::{
    context::Context,
    documents::{Config, Manifest},
    encode::EncodeTask,
    fetch::Fetch,
    finalize,
    image::{BuildTask, FsBuild},
    layer::Layer,
    split::SplitTask,
    tag::Name,
};
use crate::{
    exec::{Actor, Failure, Ticket, Work},
    graph::Key,
    types::NodeId,
};

/// One node's work.
pub(super) enum Job<H: FsVerityHashValue> {
    Fetch(Arc<Fetch<H>>),
    Split(Arc<Layer<H>>),
    Write(Arc<Layer<H>>),
    Encode(Arc<Layer<H>>),
    Finalize(Arc<Layer<H>>, Key),
    Image(Arc<FsBuild<H>>),
    Config(Arc<Config<H>>),
    Manifest(Arc<Manifest<H>>),
    Tag(Arc<Name<H>>),
    /// Done before the run.
    Stored,
}

/// The work of a plan, by node.
pub(super) struct Jobs<H: FsVerityHashValue> {
    pub(super) context: Arc<Context<H>>,
    pub(super) jobs: Vec<Job<H>>,
}

impl<H: FsVerityHashValue> Work for Jobs<H> {
    fn start(&self, ticket: Ticket) {
        let context = self.context.clone();
        if self.is_adopted(ticket.node()) {
            ticket.begin();
            return ticket.finish(Ok(()));
        }
        match &self.jobs[ticket.node().index()] {
            Job::Fetch(fetch) => {
                let (fetch, pool) = (fetch.clone(), ticket.pool().clone());
                pool.spawn_async(fetch.run(context, ticket));
            }
            Job::Split(layer) => {
                let actor = layer.split.get_or_init(|| Actor::new(ticket.pool(), ticket.priority()));
                ticket.cancel().on_raise(actor.waker());
                ticket.begin();
                actor.start(SplitTask::new(context, layer.clone(), ticket, actor.waker()));
            }
            Job::Write(layer) => {
                let cancelled = layer.clone();
                let cancel = ticket.cancel().clone();
                ticket.begin();
                layer.set_write(ticket);
                cancel.on_raise(Arc::new(move || cancelled.end_write(Ok(()))));
            }
            Job::Encode(layer) => {
                let actor =
                    layer.encode.get_or_init(|| Actor::new(ticket.pool(), ticket.priority().frees_memory()));
                ticket.cancel().on_raise(actor.waker());
                ticket.begin();
                actor.start(EncodeTask::new(context, layer.clone(), ticket));
            }
            Job::Finalize(layer, key) => {
                let (layer, key, released) = (layer.clone(), *key, layer.released_at_end());
                self.at_once(ticket, move || {
                    let _released = released;
                    finalize::finalize(&context, &layer, key)
                });
            }
            Job::Image(tree) => {
                let actor = tree.actor.get_or_init(|| Actor::new(ticket.pool(), ticket.priority()));
                ticket.cancel().on_raise(actor.waker());
                actor.start(BuildTask::new(context, tree, ticket, actor.waker()));
            }
            Job::Config(config) => {
                let config = config.clone();
                self.at_once(ticket, move || config.write(&context));
            }
            Job::Manifest(manifest) => {
                let manifest = manifest.clone();
                self.at_once(ticket, move || manifest.write(&context));
            }
            Job::Tag(name) => {
                let (name, pool) = (name.clone(), ticket.pool().clone());
                pool.spawn_async(name.publish(context, ticket));
            }
            Job::Stored => ticket.finish(Ok(())),
        }
    }

    /// What waits for a step that will not come must not keep memory from others.
    fn never(&self, node: NodeId) {
        match &self.jobs[node.index()] {
            Job::Finalize(layer, _) => layer.release(),
            Job::Image(tree) => tree.release(),
            _ => {}
        }
    }
}

impl<H: FsVerityHashValue> Jobs<H> {
    /// Whether it is a step of a layer that another program has stored meanwhile.
    fn is_adopted(&self, node: NodeId) -> bool {
        match &self.jobs[node.index()] {
            Job::Split(layer) | Job::Write(layer) | Job::Encode(layer) | Job::Finalize(layer, _) => {
                layer.is_adopted()
            }
            _ => false,
        }
    }

    /// A node that is one piece of cpu work.
    fn at_once(&self, ticket: Ticket, work: impl FnOnce() -> Result<(), Failure> + Send + 'static) {
        let pool = ticket.pool().clone();
        pool.spawn(ticket.priority(), move || {
            if ticket.cancel().is_raised() {
                return ticket.cancelled();
            }
            ticket.begin();
            let result = work();
            ticket.finish(result);
        });
    }
}
