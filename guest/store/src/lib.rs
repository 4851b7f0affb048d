//! The cache of what a guest is built from: a stage is found by a hash of all that goes into it, or is built in a
//! work directory and renamed into place when it is whole, under a lock that keeps two runs from building the same.
//! What is found is used only if it is what was built: each file has a hash, and nobody else may write to it.
//!
//! Beside it stands what every stage needs: where things are ([`Places`]), programs that run in a clean environment
//! with their output kept ([`Program`]), and whom a build tells how it gets on ([`Progress`]).
//!
//! This crate does not know what is built, or in which order: `ipirig-guest` does.

mod embedded;
mod error;
mod key;
mod places;
mod program;
mod progress;
mod stamp;
mod store;
mod sums;
mod trust;

pub use embedded::Embedded;
pub use error::{ErrorClass, StoreError};
pub use key::{Ingredients, Key};
pub use places::Places;
pub use program::{Program, is_step};
pub use progress::Progress;
pub use store::{
    Bench, FORMAT, MARKS, Slot, Store, Work, make_dir, remove_dir, remove_file, write_json,
};
pub use trust::{CACHE_OWNER, Distrust, Trust};
