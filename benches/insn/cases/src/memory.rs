//! A guest's memory, cut into the buffers of a case.

use bytemuck::Pod;

use crate::Failure;

/// Every buffer starts at a multiple of this many bytes.
const ALIGN: usize = 64;

/// Cuts buffers off a region that starts at a multiple of [`ALIGN`] bytes.
pub(crate) struct Cut<'a> {
    rest: &'a mut [u8],
}

impl<'a> Cut<'a> {
    pub(crate) fn new(memory: &'a mut [u8]) -> Self {
        Self { rest: memory }
    }

    /// The next `count` values.
    pub(crate) fn take<T: Pod>(&mut self, count: usize) -> Result<&'a mut [T], Failure> {
        let bytes = count * size_of::<T>();
        let rest = core::mem::take(&mut self.rest);
        let failure = Failure::Memory { needed: bytes, available: rest.len() };
        let (buffer, rest) =
            rest.split_at_mut_checked(bytes.next_multiple_of(ALIGN)).ok_or(failure)?;
        self.rest = rest;
        let buffer = buffer.get_mut(..bytes).ok_or(failure)?;
        bytemuck::try_cast_slice_mut(buffer).map_err(|_| failure)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a mut [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_apart_and_aligned() {
        let mut lines = [[0_u128; 4]; 8];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
        let start = bytes.as_ptr().addr();
        let mut cut = Cut::new(bytes);
        let bytes = cut.take::<u8>(3).unwrap();
        let floats = cut.take::<f32>(17).unwrap();
        assert_eq!((bytes.len(), floats.len()), (3, 17));
        assert_eq!(floats.as_ptr().addr() - start, ALIGN);
        assert!(matches!(
            cut.take::<u8>(6 * ALIGN),
            Err(Failure::Memory { needed: 384, available: 320 })
        ));
    }
}
