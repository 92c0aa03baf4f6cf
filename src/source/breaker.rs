//! When a registry is given up for the rest of a run: several images in a row got nothing but throttling or silence.
//! Knows names of images and how they ended; ignores requests and slots.

use super::{ErrorKind, SourceError};

/// So many images in a row that failed in this way, after all their tries, end it. One may be a single image's fault, two
/// may be chance; each costs minutes of patience.
const IN_A_ROW: usize = 3;

/// What one registry has let down.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Images that failed since the registry last answered, each once.
    failed: Vec<String>,
    /// How the last of them failed.
    last: String,
}

impl Breaker {
    /// The registry has answered, whatever it said.
    pub(super) fn answered(&mut self) {
        self.failed.clear();
    }

    /// `image` has failed with `error`, after all its tries. Whether the registry is given up because of that.
    pub(super) fn gave_up(&mut self, image: &str, error: &SourceError) -> bool {
        if self.is_open() || !error.is_overload() || self.failed.iter().any(|failed| failed == image) {
            return false;
        }
        self.failed.push(image.to_owned());
        self.last = error.to_string();
        self.is_open()
    }

    /// # Errors
    /// The registry `name` has been given up.
    pub(super) fn check(&self, name: &str) -> Result<(), SourceError> {
        if !self.is_open() {
            return Ok(());
        }
        let text = format!(
            "not asked for: {name} has failed {IN_A_ROW} images in a row, and skopeo was waiting for all that time: it \
             may be throttling: run this again later, or with a lower --downloads-per-host (the last one: {})",
            self.last
        );
        // Not one that is tried again.
        Err(SourceError::new(ErrorKind::Other, text))
    }

    fn is_open(&self) -> bool {
        self.failed.len() >= IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> SourceError {
        SourceError::new(ErrorKind::Stalled, "nothing came")
    }

    fn throttled() -> SourceError {
        SourceError::new(ErrorKind::Transient, "toomanyrequests: slow down")
    }

    #[test]
    fn three_images_in_a_row_without_an_answer_end_it() {
        let mut breaker = Breaker::default();
        assert!(!breaker.gave_up("a", &silent()) && !breaker.gave_up("b", &throttled()));
        breaker.check("r").unwrap();
        assert!(breaker.gave_up("c", &silent()));
        let error = breaker.check("r.example").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("r.example") && text.contains("throttling") && text.contains("nothing came"));
        assert!(!error.is_retryable() && !error.is_throttled(), "{text}");
    }

    #[test]
    fn an_answer_in_between_resets_the_count() {
        let mut breaker = Breaker::default();
        for image in ["a", "b", "c", "d", "e", "f"] {
            breaker.gave_up(image, &silent());
            if image == "b" || image == "d" {
                breaker.answered();
            }
            breaker.check("r").unwrap();
        }
    }

    #[test]
    fn many_blobs_of_one_image_count_once() {
        let mut breaker = Breaker::default();
        (0..9).for_each(|_| assert!(!breaker.gave_up("a", &silent())));
        breaker.check("r").unwrap();
    }

    #[test]
    fn other_trouble_neither_counts_nor_resets() {
        let mut breaker = Breaker::default();
        let refused = SourceError::new(ErrorKind::Transient, "connection refused");
        for image in ["a", "b", "c", "d"] {
            assert!(!breaker.gave_up(image, &refused));
        }
        breaker.gave_up("a", &silent());
        breaker.gave_up("x", &refused);
        breaker.gave_up("b", &silent());
        assert!(breaker.gave_up("c", &silent()));
    }
}
