//! A cluster on several machines: namespaces of the kernel, each with an address and a disk of its own, joined by a switch.
//!
//! The machines share the place of a test, as they would share a file system, and nothing else. What crosses the switch is heard.
#![allow(clippy::unwrap_used)]

mod capture;
mod clear_text;
mod joining;
mod machines;
mod parted;
mod site;
mod unshared;
