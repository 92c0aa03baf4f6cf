//! Arguments in, library, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    cfs_dag::cli::main()
}
