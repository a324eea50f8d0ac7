//! No accelerator, in the same words.

use core::convert::Infallible;
use core::marker::PhantomData;

use grouse_runtime::Result;
use grouse_runtime::encoder::Encoder;
use grouse_runtime::view::Model;
use grouse_runtime::wire::Offloaded;

/// A device that a host may ask for: none.
#[derive(Clone, Copy)]
pub struct Choice;

/// There is no other name than the empty one.
pub fn by_name(name: &str) -> Option<Choice> {
    name.is_empty().then_some(Choice)
}

/// Where no registers are.
pub struct Place;

impl Place {
    /// Nowhere.
    pub fn new() -> Self {
        Self
    }
}

/// There is none.
pub struct Device<'w>(Infallible, PhantomData<&'w ()>);

/// No device.
pub fn open(_: &Place, _: Choice) -> Option<Device<'_>> {
    None
}

/// There is none.
pub struct Attached<'a>(Infallible, PhantomData<&'a ()>);

impl<'a> Attached<'a> {
    /// No memory.
    pub fn bytes(_: Choice, _: &Model<'_>) -> Result<usize> {
        Ok(0)
    }

    /// None.
    pub fn new(
        _: Choice,
        _: &Model<'_>,
        _: Option<&'a mut Device<'_>>,
        _: &'a mut [u8],
    ) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Cannot be called.
    pub fn embed(&mut self, _: &mut Encoder<'_, '_>, _: &[u32], _: &mut [f32]) -> Result<()> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn report(&self) -> Offloaded<'static> {
        match self.0 {}
    }
}
