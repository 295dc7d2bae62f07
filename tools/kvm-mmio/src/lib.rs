pub mod device;
pub mod failure;
pub mod reading;
pub mod recording;
pub mod region;
