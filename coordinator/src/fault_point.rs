//! Fault points: places at which a test has the process killed, as `kill -9` would do it at that very instant, the driver panic, or
//! one thread stand still while the others go on.
//!
//! Armed by hidden flags, `--die-at PLACE:N` or `--stand-at PLACE:N:FIFO`; without them, passing a place costs one comparison.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where the process may be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Facts have been handed over, and nothing of them is written.
    BeforeCommit,
    /// Facts are on the disk, and nobody has been told.
    AfterCommit,
    /// An output is claimed, and the job that claimed it is not journaled.
    Claimed,
    /// The output is about to be put together.
    Assembling,
    /// A part is about to be linked into the output.
    Linking,
    /// The output is put together, and that is not known yet.
    Assembled,
    /// The output is about to become visible.
    Revealing,
    /// The output is visible, and that is not known yet.
    Revealed,
    /// Staging is gone, and that is not known yet.
    Swept,
    /// The driver is about to handle an event. It does not die there but panics, as a mistake of the scheduler's would make it.
    Event,
}

/// Every place, with its name in the flag.
const PLACES: [(&str, Place); 10] = [
    ("before-commit", Place::BeforeCommit),
    ("after-commit", Place::AfterCommit),
    ("claimed", Place::Claimed),
    ("assembling", Place::Assembling),
    ("linking", Place::Linking),
    ("assembled", Place::Assembled),
    ("revealing", Place::Revealing),
    ("revealed", Place::Revealed),
    ("swept", Place::Swept),
    ("event", Place::Event),
];

/// Does something when a place is reached for the nth time; most do nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultPoint(Option<Arc<Armed>>);

#[derive(Debug)]
struct Armed {
    place: Place,
    times_left: AtomicU64,
    then: Then,
}

/// What is done there.
#[derive(Debug)]
enum Then {
    Die,
    /// This FIFO is opened, and read until whoever has opened it to write has closed it.
    Stand(PathBuf),
}

impl FaultPoint {
    /// Passes a place, dies there, or passes it later.
    pub(crate) fn reach(&self, place: Place) {
        if let Some(armed) = &self.0
            && armed.place == place
            && armed.times_left.fetch_sub(1, Relaxed) == 1
        {
            match &armed.then {
                Then::Die if place == Place::Event => panic!("a test wants the driver to panic"),
                // Not an exit: nothing is flushed, dropped or unlocked on the way out but what the kernel does.
                Then::Die => drop(rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)),
                // A FIFO that is not there holds nobody up.
                Then::Stand(gate) => drop(File::open(gate).and_then(|mut gate| gate.read_to_end(&mut vec![]))),
            }
        }
    }

    /// Reads `linking:3:FIFO`.
    pub(crate) fn standing(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(place, rest)| Some((place, rest.split_once(':')?)));
        let (place, (times, gate)) = parts.ok_or("PLACE:N:FIFO wants all three")?;
        Self::armed(place, times, Then::Stand(gate.into()))
    }

    fn armed(place: &str, times: &str, then: Then) -> Result<Self, String> {
        let names = || PLACES.map(|(name, _)| name).join(", ");
        let (_, place) = PLACES.into_iter().find(|(known, _)| *known == place).ok_or_else(|| format!("the places are {}", names()))?;
        let times = times.parse().ok().filter(|times| *times > 0).ok_or("PLACE:N wants a number from 1 on")?;
        Ok(Self(Some(Arc::new(Armed { place, times_left: AtomicU64::new(times), then }))))
    }
}

impl FromStr for FaultPoint {
    type Err = String;

    /// Reads `after-commit:3`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (place, times) = text.split_once(':').unwrap_or((text, "1"));
        Self::armed(place, times, Then::Die)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_point_is_read_from_its_name_and_passes_every_place_but_its_own() {
        let point: FaultPoint = "after-commit:2".parse().unwrap();
        point.reach(Place::AfterCommit);
        point.reach(Place::BeforeCommit);
        FaultPoint::default().reach(Place::AfterCommit);
        assert_eq!(point.0.unwrap().times_left.load(Relaxed), 1);
        for wrong in ["", "nowhere:1", "swept:0", "swept:x"] {
            assert!(wrong.parse::<FaultPoint>().is_err(), "{wrong}");
        }
        for wrong in ["", "swept:1", "nowhere:1:fifo", "swept:0:fifo"] {
            assert!(FaultPoint::standing(wrong).is_err(), "{wrong}");
        }
        // Nobody stands before a gate that is not there.
        FaultPoint::standing("swept:1:/nowhere/gate:1").unwrap().reach(Place::Swept);
    }
}
