//! Exponential backoff with full jitter.

use std::time::Duration;

/// The first step.
const BASE: Duration = Duration::from_millis(100);
/// The longest step.
const CAP: Duration = Duration::from_secs(5);

/// Returns the wait after failure number `failures` (from 1), drawn by `random` (0.0 to 1.0) between
/// nothing and the step, so that many clients spread out.
///
/// Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
pub fn backoff(failures: u32, random: f64) -> Duration {
    let step = BASE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    step.min(CAP).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        assert_eq!(backoff(1, 1.0), BASE);
        assert_eq!(backoff(3, 1.0), BASE * 4);
        assert_eq!(backoff(60, 1.0), CAP);
        assert_eq!(backoff(3, 0.0), Duration::ZERO);
    }
}
