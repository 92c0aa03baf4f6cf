//! Work that is longer than a piece: stepped, put aside when it runs dry, woken when there is more. Knows one
//! state machine; unaware of what is done in a step.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, Ordering},
};

use super::{Pool, Priority};
use crate::types::Wake;

/// Sequential work in bounded steps.
pub trait CpuTask: Send {
    /// Does what can be done now without waiting, for about a millisecond.
    fn step(&mut self) -> Step;
}

/// What a step left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to do at once.
    Again,
    /// Nothing to do until someone wakes the actor.
    Idle,
    /// All is done; the task is dropped.
    Done,
}

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
/// Woken while running: whatever the step found may be out of date.
const WOKEN: u8 = 3;
const DONE: u8 = 4;

/// A task on the pool. It never runs on two workers at once, and no wake is lost.
#[derive(Clone)]
pub struct Actor(Arc<Inner>);

struct Inner {
    pool: Pool,
    priority: Priority,
    state: AtomicU8,
    task: Mutex<Option<Box<dyn CpuTask>>>,
}

impl Actor {
    /// An actor with nothing to do yet: give it a task, then wake it. Two steps, because a task often needs
    /// its own actor's wake.
    pub fn new(pool: &Pool, priority: Priority) -> Self {
        let state = AtomicU8::new(IDLE);
        Self(Arc::new(Inner { pool: pool.clone(), priority, state, task: Mutex::new(None) }))
    }

    /// Sets the task and wakes the actor.
    pub fn start(&self, task: impl CpuTask + 'static) {
        *self.0.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(task));
        self.wake();
    }

    /// Says that there may be something to do. Cheap, callable from anywhere.
    pub fn wake(&self) {
        let woken = self.0.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| match state {
            IDLE => Some(QUEUED),
            RUNNING => Some(WOKEN),
            _ => None,
        });
        if woken == Ok(IDLE) {
            self.queue();
        }
    }

    /// [`Actor::wake`] as a function. It does not keep the actor alive: whoever starts one
    /// keeps it until it is done.
    pub fn waker(&self) -> Wake {
        let actor = Arc::downgrade(&self.0);
        Arc::new(move || {
            if let Some(inner) = actor.upgrade() {
                Actor(inner).wake();
            }
        })
    }

    fn queue(&self) {
        let actor = self.clone();
        self.0.pool.spawn(self.0.priority, move || actor.run());
    }

    fn run(&self) {
        let mut task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(step) = task.as_mut() else {
            // Woken before there was a task: `start` wakes again.
            self.0.state.store(IDLE, Ordering::SeqCst);
            return;
        };
        self.0.state.store(RUNNING, Ordering::SeqCst);
        match step.step() {
            Step::Done => {
                self.0.state.store(DONE, Ordering::SeqCst);
                let finished = task.take();
                drop(task);
                drop(finished);
            }
            Step::Idle => {
                let rest = self.0.state.compare_exchange(RUNNING, IDLE, Ordering::SeqCst, Ordering::SeqCst);
                if rest.is_err() {
                    self.0.state.store(QUEUED, Ordering::SeqCst);
                    self.queue();
                }
            }
            Step::Again => {
                self.0.state.store(QUEUED, Ordering::SeqCst);
                self.queue();
            }
        }
    }
}
