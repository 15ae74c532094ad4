//! Exponential backoff with full jitter.

use std::time::Duration;

/// The steps of a backoff.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first step.
    pub base: Duration,
    /// The longest step.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            max: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// Returns the wait after failure number `failures` (from 1), drawn by `random` (0.0 to 1.0)
    /// between nothing and the step, so that many clients spread out.
    ///
    /// Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    pub fn wait(self, failures: u32, random: f64) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
        let step = self.base.saturating_mul(factor).min(self.max);
        step.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_longest_step() {
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(1, 1.0), backoff.base);
        assert_eq!(backoff.wait(3, 1.0), backoff.base * 4);
        assert_eq!(backoff.wait(60, 1.0), backoff.max);
        assert_eq!(backoff.wait(3, 0.0), Duration::ZERO);
        let max = Duration::from_mins(1);
        assert_eq!(Backoff { max, ..backoff }.wait(60, 1.0), max);
    }
}
