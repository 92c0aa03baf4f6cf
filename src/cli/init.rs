//! `cfs-dag init`. Knows how to say what was created.

use super::{Exit, InitArgs, Problem, RepoArgs};
use crate::store;

pub(super) fn run(args: &InitArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    let path = repo.path()?;
    let mut options = args.options(repo)?;
    // Who does not say otherwise asks for a protected one.
    options.require_verity = !options.insecure;
    store::probe(&path, &options)?;
    let (store, created) = store::init(&path, &options)?;
    super::keep_lock(&store);
    let what = match (created, options.insecure && store.require_verity().is_ok()) {
        (true, _) => "created",
        (false, false) => "was there already, with the same options",
        (false, true) => "was there already, protected by fs-verity",
    };
    super::print(&format!("{}: {what}\n", path.display()))?;
    Ok(Exit::Done)
}
