//! Tests of the scheduler, one file for each event, each in a small world of its own.

mod cancel;
mod fetch;
mod happy;
mod lease;
mod next_task;
mod register;
mod report;
mod simulation;
mod submit;
mod world;
