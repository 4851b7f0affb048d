//! A small kernel, and ways through it.
