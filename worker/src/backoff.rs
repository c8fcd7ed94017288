//! Pauses between tries: each at random up to a limit that doubles, so that those who failed together do not come again together.

use std::time::Duration;

/// The pauses of one series of tries.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    limit: Duration,
    longest: Duration,
}

impl Backoff {
    /// Begins with pauses of up to `first`, which grow to up to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { limit: first.min(longest), longest }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let limit = self.limit;
        self.limit = (limit * 2).min(self.longest);
        // Without randomness there is no jitter, and that is all.
        limit.mul_f64(getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX)))
    }

    /// Waits for the next pause.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_a_limit_that_doubles() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for limit in [100, 200, 350, 350] {
            assert_eq!(backoff.limit, Duration::from_millis(limit));
            assert!(backoff.next() <= Duration::from_millis(limit));
        }
    }
}
