//! Tests of the scheduler, one file for each event, each in a small world of its own.

mod cancel;
mod happy;
mod simulation;
mod world;
