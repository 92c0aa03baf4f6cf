//! Why a list or a lock cannot be read. Knows where; ignores which file it was: the
//! caller puts its name in front.

/// What is wrong at one place of a list or a lock, on one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {text}")]
pub struct ListError {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl ListError {
    pub(super) fn new(line: usize, column: usize, text: impl ToString) -> Self {
        Self { line, column, text: text.to_string() }
    }
}
