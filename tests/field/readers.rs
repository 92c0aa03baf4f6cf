//! Tars compared entry by entry with the readings of other programs.
