//! Arguments in, library, exit code out.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: cfs_dag::cli::Allocator = cfs_dag::cli::Allocator;

fn main() -> ExitCode {
    cfs_dag::cli::main()
}
