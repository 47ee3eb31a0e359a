//! How a job runs, whatever the job: what it tells its caller ([`events`]) and its random numbers ([`random`]).

pub mod events;
pub mod random;

pub use events::{Control, Event, Observer};
pub use random::Stream;
