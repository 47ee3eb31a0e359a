//! Events: libraries tell, the caller decides what to show and whether to go on.

use std::fmt::Debug;

/// What a job tells its caller.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A part of the job begins that will handle `total` bytes.
    Phase {
        /// What the part does, as a word or two: `survey`, `merge`.
        name: &'a str,
        /// Bytes it will handle.
        total: u64,
    },
    /// `bytes` more were handled in the current phase.
    Progress {
        /// Bytes since the last event of this kind.
        bytes: u64,
    },
    /// A part of the job begins that is counted in steps.
    Steps {
        /// What the part does.
        name: &'a str,
        /// Steps that were made before, by an interrupted run.
        done: u64,
        /// Steps in all.
        total: u64,
    },
    /// A step was made.
    Step {
        /// How it goes, in a few words.
        status: &'a str,
    },
    /// Figures for a log.
    Figures {
        /// A JSON object on one line.
        json: &'a str,
        /// The same for people; empty if there is nothing to be said.
        text: &'a str,
    },
    /// Something the user should know though the job goes on.
    Warning {
        /// One sentence.
        message: &'a str,
    },
    /// A fact worth a line in a log.
    Note {
        /// One sentence.
        message: &'a str,
    },
}

/// The caller's answer to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// End as soon as what is finished is safe.
    Cancel,
}

/// Receives events, from any thread.
pub trait Observer: Sync {
    /// Called for every event; long loops stop when the answer is [`Control::Cancel`].
    fn event(&self, event: &Event<'_>) -> Control;
}

/// Ignores everything.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event<'_>) -> Control {
        Control::Continue
    }
}
