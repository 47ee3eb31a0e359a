//! How a job runs, whatever the job: what it tells its caller ([`events`]), its random numbers ([`random`]), the memory of
//! its numbers ([`aligned`]), and what the settings of a method may be ([`params`]).

pub mod aligned;
pub mod events;
pub mod params;
pub mod random;

pub use aligned::Aligned;
pub use events::{Control, Event, Observer};
pub use random::Stream;
