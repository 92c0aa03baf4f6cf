//! Images, layouts and repositories that somebody made to do harm: what they cost has limits, and nothing is
//! read or written outside of the repository. By whole commands.

mod bombs;
mod documents;
mod links;
mod paths;
