//! The model behind a window of words and real addresses: known to the driver by nothing else, as
//! hardware is. For boards without a device, and for tests of [`super::Mmio`].

#![allow(unsafe_code)] // It stands in for hardware; see the SAFETY comments.

use core::cell::UnsafeCell;
use core::ptr::{NonNull, with_exposed_provenance, with_exposed_provenance_mut};

use super::faults::{FaultyMemory, Regions};
use super::{
    BusError, Capability, Descriptor, Device, Injected, Memory, Platform, Region, Register,
    WINDOW_BYTES,
};

/// A register window in ordinary memory.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Window(UnsafeCell<[u32; WINDOW_BYTES / 4]>);

impl Window {
    /// A window in which there is nothing but `word`.
    pub const fn filled(word: u32) -> Self {
        Self(UnsafeCell::new([word; WINDOW_BYTES / 4]))
    }

    /// Where it begins.
    pub const fn base(&self) -> NonNull<u32> {
        match NonNull::new(self.0.get().cast()) {
            Some(base) => base,
            None => NonNull::dangling(),
        }
    }

    /// What the register reads now.
    pub fn get(&self, register: Register) -> u32 {
        // SAFETY: the offset is inside the window; the window is not `Sync`, so no other thread
        // uses it.
        unsafe { self.base().byte_add(register.offset() as usize).read_volatile() }
    }

    fn set(&self, register: Register, value: u32) {
        // SAFETY: as above.
        unsafe { self.base().byte_add(register.offset() as usize).write_volatile(value) }
    }
}

/// A device behind a [`Window`]: whenever time passes, it looks at what was written there.
#[derive(Debug)]
pub struct Windowed<'w> {
    window: &'w Window,
    device: Device,
    fault: Option<Injected>,
    memory: RealMemory,
    /// Jobs that the fault spares, still.
    spared: u32,
    /// The fault strikes from here on.
    is_struck: bool,
    is_isolated: bool,
}

impl<'w> Windowed<'w> {
    /// The device in `window`, whose jobs after the first `spared` meet `fault`.
    ///
    /// # Safety
    /// It uses the memory that descriptors name, as a device does: nobody but the driver of this
    /// window may write to the window, and what that driver lends is at the addresses that
    /// [`Platform::address`] gave.
    pub unsafe fn new(
        window: &'w Window,
        capability: Capability,
        fault: Option<Injected>,
        spared: u32,
    ) -> Self {
        let memory = RealMemory { descriptor: 0, regions: [(0, 0); 3] };
        let (device, is_struck, is_isolated) = (Device::new(capability), false, false);
        let this = Self { window, device, fault, memory, spared, is_struck, is_isolated };
        this.publish();
        this
    }

    /// Whether the driver had to cut the device off.
    pub fn is_isolated(&self) -> bool {
        self.is_isolated
    }

    /// From now on every job meets `fault`.
    pub fn inject(&mut self, fault: Injected) {
        (self.fault, self.is_struck, self.spared) = (Some(fault), true, 0);
    }

    fn publish(&self) {
        for (register, _) in Register::ALL {
            let value = self.device.read(register);
            let fault = |fault: Injected| fault.distort(self.is_struck, register, value);
            self.window.set(register, self.fault.map_or(value, fault));
        }
    }

    /// A value that was written to a register.
    #[inline(never)]
    fn written(&mut self, register: Register, value: u32) {
        if register == Register::Doorbell {
            self.is_struck = self.fault.is_some() && self.spared == 0;
            self.spared = self.spared.saturating_sub(1);
            if self.is_struck && self.fault == Some(Injected::LostDoorbell) {
                return;
            }
        }
        self.device.write(register, value);
    }
}

// SAFETY: the device is a part of this program and thread, so addresses and contents are the same;
// a device that is cut off is not stepped any more.
unsafe impl Platform for Windowed<'_> {
    fn address(&mut self, start: *const u8, _length: usize) -> Option<u64> {
        Some(start.expose_provenance() as u64)
    }

    fn clean(&mut self, _start: *const u8, _length: usize) {}

    fn discard(&mut self, _start: *const u8, _length: usize) {}

    fn pause(&mut self) {
        // What is written to a device that is gone has no effect.
        let is_gone = self.is_struck && self.fault == Some(Injected::Vanished);
        if self.is_isolated || is_gone {
            return;
        }
        for register in [
            Register::Control,
            Register::DescriptorLow,
            Register::DescriptorHigh,
            // The driver acknowledges a job before it starts the next one.
            Register::Acknowledge,
            Register::Doorbell,
        ] {
            let value = self.window.get(register);
            if value != self.device.read(register) {
                self.written(register, value);
            }
        }
        let fault = self.fault.filter(|_| self.is_struck);
        let control = self.device.read(Register::Control);
        if !fault.is_some_and(|fault| fault.halts(control)) {
            self.memory.descriptor = u64::from(self.device.read(Register::DescriptorLow))
                | u64::from(self.device.read(Register::DescriptorHigh)) << 32;
            self.device.step(&mut FaultyMemory { memory: &mut self.memory, fault });
        }
        self.publish();
    }

    fn isolate(&mut self) {
        self.is_isolated = true;
    }
}

/// The program's own memory, by address.
#[derive(Debug)]
struct RealMemory {
    descriptor: u64,
    /// Start and bytes of weights, panel and sums, as the descriptor last read says.
    regions: [(u64, u64); 3],
}

impl Memory for &mut RealMemory {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), BusError> {
        let from = with_exposed_provenance::<u8>(address as usize);
        // SAFETY: the driver exposed the memory that the descriptor names and lends it meanwhile,
        // as the caller of `Windowed::new` promised.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) }
        if address == self.descriptor
            && let Ok(bytes) = <&[u8; Descriptor::BYTES]>::try_from(&*bytes)
            && let Ok(job) = Descriptor::from_bytes(bytes)
        {
            let [rows, depth, tokens] = [job.rows, job.depth, job.tokens].map(u64::from);
            self.regions = [
                (job.weights, rows.saturating_mul(depth)),
                (job.panel, tokens.saturating_mul(depth)),
                (job.sums, tokens.saturating_mul(rows).saturating_mul(4)),
            ];
        }
        Ok(())
    }

    fn write(&mut self, address: u64, word: u32) -> Result<(), BusError> {
        // SAFETY: as above; the sums are lent for writing and aligned.
        unsafe { with_exposed_provenance_mut::<u32>(address as usize).write(word) }
        Ok(())
    }
}

impl Regions for &mut RealMemory {
    fn find(&self, address: u64) -> Option<(Region, usize, usize)> {
        let [weights, panel, sums] = self.regions;
        let descriptor = (self.descriptor, Descriptor::BYTES as u64);
        let regions = Region::ALL.into_iter().zip([descriptor, weights, panel, sums]);
        regions.into_iter().find_map(|(region, (start, bytes))| {
            let offset = address.checked_sub(start).filter(|offset| *offset < bytes)?;
            Some((region, offset as usize, bytes as usize))
        })
    }
}
