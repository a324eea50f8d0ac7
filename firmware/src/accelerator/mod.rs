//! An accelerator for boards that have none: its software model, in builds with the feature
//! `accelerator-model`; nothing in others, so that it takes no flash.

#[cfg(feature = "accelerator-model")]
mod model;
#[cfg(not(feature = "accelerator-model"))]
mod none;

#[cfg(feature = "accelerator-model")]
pub use model::{Attached, Choice, Device, Place, by_name, open};
#[cfg(not(feature = "accelerator-model"))]
pub use none::{Attached, Choice, Device, Place, by_name, open};
