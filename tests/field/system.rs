//! What filesystems, limits and signals do to a run.
