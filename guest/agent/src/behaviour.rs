//! How an agent may differ from an honest one: for `ipirig-hostile`, which shows that nobody believes it.

use ipirig_abi::{Command, Mailbox};

/// What an agent does instead of what it is asked for.
pub trait Behaviour {
    /// Isolated tasks spin, and the rig has not been told yet.
    fn ready(&self, mailbox: &'static Mailbox);
    /// Before a command is obeyed.
    fn obey(&self, command: Command, args: [u64; 4]) -> Obedience;
    /// Before the answer to a command is out. `asked`: the arguments as the rig has put them.
    fn answer(&self, command: Command, asked: [u64; 4], results: &mut [u64; 4], text: &mut Vec<u8>);
}

/// How a command is obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obedience {
    /// With these arguments.
    With([u64; 4]),
    /// Not at all, and the answer is that all is well.
    Never,
}

/// Does what it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Honest;

impl Behaviour for Honest {
    fn ready(&self, _: &'static Mailbox) {}

    fn obey(&self, _: Command, args: [u64; 4]) -> Obedience {
        Obedience::With(args)
    }

    fn answer(&self, _: Command, _: [u64; 4], _: &mut [u64; 4], _: &mut Vec<u8>) {}
}
