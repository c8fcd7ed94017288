//! Whole-system tests: the harness they share.
