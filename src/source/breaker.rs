//! When a registry is given up for the rest of a run: several images in a row got nothing but throttling or
//! silence. Knows names of images and how they ended; ignores requests and slots.

use super::{ErrorKind, SourceError};

/// So many images in a row that failed in this way, after all their tries, end it. One may be a single
/// image's fault, two may be chance; each costs minutes of patience.
const IN_A_ROW: usize = 3;

/// What one registry has let down.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Whether a request met throttling or silence since the registry last answered.
    is_troubled: bool,
    /// Images that met it and have tries left.
    probing: usize,
    /// Images that failed since the registry last answered, each once.
    failed: Vec<String>,
    /// How the last of them failed.
    last: String,
}

impl Breaker {
    /// The registry has answered, whatever it said.
    pub(super) fn answered(&mut self) {
        self.failed.clear();
        self.is_troubled = false;
    }

    /// A request of an image has met throttling or silence, for the first time if it `is_first` of its image.
    pub(super) fn met_trouble(&mut self, is_first: bool) {
        self.is_troubled = true;
        self.probing += usize::from(is_first);
    }

    /// An image that met trouble has come to its end, one way or the other.
    pub(super) fn ended(&mut self) {
        self.probing -= 1;
    }

    /// Whether images that were not asked for yet have to wait: enough of those that met trouble try again or
    /// have failed, and as these end, so would all others, after as many tries each.
    pub(super) fn holds_back_new(&self) -> bool {
        self.is_troubled && self.probing + self.failed.len() >= IN_A_ROW
    }

    /// `image` has failed with `error`, after all its tries. Whether the registry is
    /// given up because of that.
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
            "not asked for: {name} has failed {IN_A_ROW} images in a row, and skopeo was waiting for all \
             that time: it \
             may be throttling: run this again later, or with a lower --downloads-per-host (the last one: \
             {})",
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
    fn new_images_wait_while_three_that_met_trouble_try_again() {
        let mut breaker = Breaker::default();
        [true, false, true, false].into_iter().for_each(|is_first| breaker.met_trouble(is_first));
        assert!(!breaker.holds_back_new(), "there are two");
        breaker.met_trouble(true);
        assert!(breaker.holds_back_new());
        breaker.answered();
        assert!(!breaker.holds_back_new());
        breaker.met_trouble(false);
        breaker.gave_up("a", &silent());
        breaker.ended();
        assert!(breaker.holds_back_new(), "one has failed, two try again");
        breaker.ended();
        assert!(!breaker.holds_back_new(), "one has ended in another way");
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
