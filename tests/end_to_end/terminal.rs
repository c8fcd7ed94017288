//! What a person sees on a terminal: a bar for each phase, with bytes, rate, time left and what was spilled.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use shardmill_tests::text::distinct_words;
use shardmill_tests::{Place, program};

/// Both ends of a terminal.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 24, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `openpty` fills two descriptors, which nobody else has, and reads the size.
    unsafe {
        let opened = libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null(), &size);
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    }
}

#[test]
fn each_phase_has_a_bar_with_bytes_rate_time_left_and_spill() {
    let place = Place::new();
    let text: String = distinct_words(200_000).collect();
    let input = place.write("text.txt", text);
    let (mut ours, theirs) = terminal();
    let mut job = Command::new(program("word-count"));
    job.args(["run", "--threads", "2", "--tight-buffers", "12288,4096,2", "--output"]).arg(place.path("out"));
    let mut running = job.arg("--input").arg(input).env("TERM", "xterm").stderr(Stdio::from(theirs)).spawn().unwrap();
    // It holds the other end, too.
    drop(job);
    let mut seen = Vec::new();
    // The end of a terminal that nobody has open any more is an error on Linux.
    let _ = ours.read_to_end(&mut seen);
    assert!(running.wait().unwrap().success());
    let seen = String::from_utf8_lossy(&seen);
    for bar in ["map     ", "reduce  "] {
        let drawn = seen.split(bar).skip(1).any(|drawn| {
            let line = drawn.split(['\r', '\n']).next().unwrap_or_default();
            line.contains("B of ") && line.contains("B/s, ") && line.contains(" left")
        });
        assert!(drawn, "no bar {bar:?} in {seen:?}");
    }
    let mut reduce = seen.split("reduce  ").skip(1).map(|drawn| drawn.split(['\r', '\n']).next().unwrap_or_default());
    assert!(reduce.any(|line| line.contains("spilled")), "{seen:?}");
}
