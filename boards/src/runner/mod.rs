//! The runner: builds a board's firmware, boots it in the emulator and talks to it.

mod answer;
mod emulator;
mod firmware;
pub mod fit;
pub mod flash;
pub mod image;
mod info;
mod link;
mod log;
pub mod picture;
mod port;
mod self_test;
mod session;
mod transfer;

pub use answer::{Answer, Offloaded, Stages};
pub use firmware::{Firmware, Variant};
pub use info::Info;
pub use link::Line;
pub use self_test::{Difference, FirstBoot, Tested};
pub use session::{Options, Session};

/// What the runner is doing, for people who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A new step.
    Step(&'a str),
    /// Something within the step, such as a crate that is being compiled.
    Detail(&'a str),
    /// A line of the firmware's log.
    Log(&'a str),
}

/// Hears of progress.
pub type Listener<'a> = &'a dyn Fn(Progress<'_>);
