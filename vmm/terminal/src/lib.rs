//! Both ways between this program and whoever sits at a terminal: [`text`] that may be shown there, whatever a guest
//! or a file has in it, and the signals by which everything is to end ([`interrupt`]), with the programs that were
//! started ([`children`]) and the files that were begun ([`tidy`]).
//!
//! What is shown, and what ends in an orderly way, is for those above to say.

pub mod children;
pub mod interrupt;
mod request;
pub mod text;
pub mod tidy;
