//! The bus of a real device: volatile registers in a mapped window, memory by its real addresses.

#![allow(unsafe_code)] // Registers and DMA lie outside the language; see the SAFETY comments.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use super::{Bus, Lent, Region, Register, WINDOW_BYTES};

/// What depends on the machine: addresses, caches, time, and the switch that cuts a device off.
///
/// # Safety
/// While a device owns memory, the CPU's view of it is only as good as these functions. An
/// implementation promises:
/// - `address` gives the bus address of exactly that memory, or `None`;
/// - after `clean` (and [`barrier`](Platform::barrier)) the device reads what the CPU wrote, and no
///   cached data of the CPU will later be written over what the device writes there;
/// - after `discard` the CPU reads what the device wrote;
/// - `isolate` returns only when the device can no longer write to memory. A machine without such a
///   switch must not return (it resets itself instead).
pub unsafe trait Platform {
    /// The device's address of `length` bytes at `start`; `None` when it cannot reach them all.
    fn address(&mut self, start: *const u8, length: usize) -> Option<u64>;

    /// Writes dirty cache lines of this memory back (clean and invalidate, where it will be
    /// written by the device).
    fn clean(&mut self, start: *const u8, length: usize);

    /// Drops cache lines of this memory, which the device has written.
    fn discard(&mut self, start: *const u8, length: usize);

    /// Lets some time pass: a spin hint, a timer, or waiting for the device's interrupt.
    fn pause(&mut self);

    /// Cuts the device off from memory: its clock, its bus port or its IOMMU entry.
    fn isolate(&mut self);

    /// Orders all accesses to memory before it against all accesses to registers after it, and the
    /// other way round.
    fn barrier(&mut self) {
        full_barrier();
    }
}

/// A platform whose device sees memory at the CPU's own addresses, coherently.
///
/// This holds for microcontrollers without a data cache (or with the memory in question not
/// cached) and without an MPU-remapped bus.
#[derive(Debug)]
pub struct Flat<F> {
    isolate: F,
}

impl<F: FnMut()> Flat<F> {
    /// The platform with a function that cuts the device off.
    ///
    /// # Safety
    /// All memory given to the driver has one address for CPU and device and is coherent between
    /// them, and `isolate` returns only when the device can no longer write to memory.
    pub unsafe fn new(isolate: F) -> Self {
        Self { isolate }
    }
}

// SAFETY: the caller of `Flat::new` promised equal addresses, coherence and the switch.
unsafe impl<F: FnMut()> Platform for Flat<F> {
    fn address(&mut self, start: *const u8, _length: usize) -> Option<u64> {
        // Exposed, so that the compiler knows that someone else may use the pointer.
        u64::try_from(start.expose_provenance()).ok()
    }

    fn clean(&mut self, _start: *const u8, _length: usize) {}

    fn discard(&mut self, _start: *const u8, _length: usize) {}

    fn pause(&mut self) {
        core::hint::spin_loop();
    }

    fn isolate(&mut self) {
        (self.isolate)();
    }
}

/// A device's registers in the CPU's address space, and its access to memory.
#[derive(Debug)]
pub struct Mmio<P> {
    base: NonNull<u32>,
    platform: P,
    name: &'static str,
}

impl<P: Platform> Mmio<P> {
    /// The device `name` whose register window starts at `base`.
    ///
    /// # Safety
    /// - `base` is the start of [`WINDOW_BYTES`] of device memory (uncached, not reordered, not
    ///   merged), mapped for reading and writing as long as this value lives;
    /// - nobody else uses these registers;
    /// - the device keeps to `docs/accelerator.md`: it reads and writes no memory but what a
    ///   descriptor names, between the doorbell and the end of that job or of a reset.
    pub unsafe fn new(base: NonNull<u32>, platform: P, name: &'static str) -> Self {
        Self { base, platform, name }
    }

    /// The machine's side of the bus.
    pub fn platform_mut(&mut self) -> &mut P {
        &mut self.platform
    }

    /// The register's address.
    fn register(&self, register: Register) -> NonNull<u32> {
        const { assert!(Register::SumsChecksum.offset() as usize + 4 <= WINDOW_BYTES) };
        // SAFETY: every offset is a multiple of 4 inside the window, as the assertion on the last
        // one and the test of the map show; the caller of `new` promised the window.
        unsafe { self.base.byte_add(register.offset() as usize) }
    }
}

impl<P: Platform> Bus for Mmio<P> {
    fn name(&self) -> &str {
        self.name
    }

    fn read(&mut self, register: Register) -> u32 {
        // SAFETY: the address is one of the window's registers, mapped for reading and ours alone.
        unsafe { self.register(register).read_volatile() }
    }

    fn write(&mut self, register: Register, value: u32) {
        // SAFETY: the address is one of the window's registers, mapped for writing and ours alone.
        unsafe { self.register(register).write_volatile(value) }
    }

    fn address(&mut self, region: Region, lent: &Lent<'_>) -> Option<u64> {
        let (start, length) = (start(region, lent), lent.bytes(region));
        self.platform.address(start, length)
    }

    fn hand_over(&mut self, lent: &Lent<'_>) {
        for region in Region::ALL {
            let (start, length) = (start(region, lent), lent.bytes(region));
            self.platform.clean(start, length);
        }
        self.platform.barrier();
    }

    fn take_back(&mut self, lent: &Lent<'_>) {
        self.platform.barrier();
        let length = lent.bytes(Region::Sums);
        self.platform.discard(start(Region::Sums, lent), length);
    }

    fn pause(&mut self, _lent: &Lent<'_>) {
        self.platform.pause();
    }

    fn isolate(&mut self) {
        self.platform.isolate();
    }
}

/// Where a region starts. The sums' pointer may be written through: they are cells.
fn start(region: Region, lent: &Lent<'_>) -> *const u8 {
    match region {
        Region::Descriptor => lent.descriptor.0.as_ptr(),
        Region::Weights => lent.weights.as_ptr().cast(),
        Region::Panel => lent.panel.as_ptr().cast(),
        Region::Sums => lent.sums.as_ptr().cast(),
    }
}

/// Completes all accesses to memory, for the compiler and for the machine, before the next one.
///
/// A fence orders atomics between CPUs, and a device is none. Where stable Rust has inline
/// assembly for the target, the block below also makes the compiler assume that all exposed memory
/// was read and written; Arm and RISC-V have an instruction that includes other masters.
fn full_barrier() {
    fence(Ordering::SeqCst);
    #[cfg(all(
        not(miri),
        any(
            target_arch = "aarch64",
            all(target_arch = "arm", target_os = "none"),
            target_arch = "riscv32",
            target_arch = "riscv64",
            target_arch = "x86_64"
        )
    ))]
    // SAFETY: the instructions only wait; they have no operands.
    unsafe {
        #[cfg(any(target_arch = "aarch64", all(target_arch = "arm", target_os = "none")))]
        core::arch::asm!("dsb sy", options(nostack, preserves_flags));
        #[cfg(any(target_arch = "riscv32", target_arch = "riscv64"))]
        core::arch::asm!("fence iorw, iorw", options(nostack, preserves_flags));
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("mfence", options(nostack, preserves_flags));
    }
}
