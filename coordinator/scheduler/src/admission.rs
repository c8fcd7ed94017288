//! Admission: a worker that comes and goes has to wait before it is let in again, longer each time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::event::Tick;

const WINDOW: Duration = Duration::from_secs(60);

/// The registrations of a worker.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    recent: VecDeque<Tick>,
    refusals: u32,
    not_before: Tick,
}

impl Admission {
    /// Lets the worker in, or says how long it has to wait.
    pub(crate) fn ask(&mut self, config: &Config, now: Tick) -> Result<(), Duration> {
        if now < self.not_before {
            return Err(self.not_before.0 - now.0);
        }
        while self.recent.front().is_some_and(|at| at.0 + WINDOW <= now.0) {
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            self.refusals = 0;
        }
        self.recent.push_back(now);
        if self.recent.len() >= config.sessions_per_minute {
            let wait = config.readmission.saturating_mul(1 << self.refusals.min(16)).min(config.longest_readmission);
            self.refusals += 1;
            self.not_before = Tick(now.0 + wait);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_flaps_waits_longer_each_time_and_is_forgiven_after_a_quiet_minute() {
        let config = Config::default();
        let at = |millis| Tick(Duration::from_millis(millis));
        let mut admission = Admission::default();
        for session in 0..5 {
            assert_eq!(admission.ask(&config, at(session)), Ok(()));
        }
        assert_eq!(admission.ask(&config, at(5)), Err(Duration::from_millis(999)));
        assert_eq!(admission.ask(&config, at(1004)), Ok(()));
        assert_eq!(admission.ask(&config, at(1004)), Err(Duration::from_secs(2)));
        assert_eq!(admission.ask(&config, at(62_000)), Ok(()));
        assert_eq!(admission.ask(&config, at(62_000)), Ok(()));
    }
}
