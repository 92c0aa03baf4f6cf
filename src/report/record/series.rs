//! Amounts over time in a bounded number of steps. Knows sums and steps; ignores what is counted.

use serde::{Deserialize, Serialize};

/// The length of the first steps, in microseconds; a power of two, so that doubling keeps bounds.
const STEP_US: u64 = 1 << 14;
/// More steps are merged in pairs.
const STEPS: usize = 512;

/// Sums by step of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// The length of a step in microseconds.
    pub step_us: u64,
    /// The sum of each step, from the beginning of the run on; what is missing at the end is 0.
    pub sums: Vec<u64>,
}

impl Default for Series {
    fn default() -> Self {
        Self { step_us: STEP_US, sums: Vec::new() }
    }
}

impl Series {
    /// Adds an amount at a time.
    pub fn add(&mut self, at_us: u64, amount: u64) {
        while at_us / self.step_us >= STEPS as u64 {
            self.step_us *= 2;
            self.sums = self.sums.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
        let step = (at_us / self.step_us) as usize;
        if self.sums.len() <= step {
            self.sums.resize(step + 1, 0);
        }
        self.sums[step] = self.sums[step].saturating_add(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_longer_steps_and_the_same_sum() {
        let mut series = Series::default();
        for second in 0..3600 {
            series.add(second * 1_000_000, 7);
        }
        assert_eq!(series.sums.iter().sum::<u64>(), 7 * 3600);
        assert!((STEPS / 2..=STEPS).contains(&series.sums.len()), "{}", series.sums.len());
        assert_eq!(series.step_us.count_ones(), 1);
    }
}
