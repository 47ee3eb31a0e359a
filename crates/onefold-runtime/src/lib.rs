//! How a job runs, whatever the job: what it tells its caller ([`events`]), its random numbers ([`random`]), and the memory of
//! its numbers ([`aligned`]).

pub mod aligned;
pub mod events;
pub mod random;

pub use aligned::Aligned;
pub use events::{Control, Event, Observer};
pub use random::Stream;
