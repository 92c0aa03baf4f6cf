//! Entries that need parents, images without /usr, and how contradictions are told.
