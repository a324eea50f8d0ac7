//! The memory-mapped bus with real pointers: a device that is only known by a window of words and by
//! addresses, as an FPGA is. Miri runs it.

#![allow(unsafe_code)] // It stands in for hardware; see the SAFETY comments.

use std::cell::{Cell, UnsafeCell};
use std::ptr::{NonNull, with_exposed_provenance, with_exposed_provenance_mut};
use std::rc::Rc;

use super::*;

/// A register window in ordinary memory.
#[repr(C, align(4096))]
struct Window(UnsafeCell<[u32; WINDOW_BYTES / 4]>);

impl Window {
    fn base(&self) -> NonNull<u32> {
        NonNull::new(self.0.get().cast()).expect("it is a place in memory")
    }

    fn get(&self, register: Register) -> u32 {
        // SAFETY: the offset is inside the window, and the test has one thread.
        unsafe { self.base().byte_add(register.offset() as usize).read_volatile() }
    }

    fn set(&self, register: Register, value: u32) {
        // SAFETY: as above.
        unsafe { self.base().byte_add(register.offset() as usize).write_volatile(value) }
    }
}

/// What the platform did, for the test to see.
#[derive(Default)]
struct Trace {
    cleaned: Cell<usize>,
    discarded: Cell<usize>,
    isolated: Cell<bool>,
}

/// The model's device behind a window: whenever time passes, it looks at what was written there.
struct Board {
    window: Rc<Window>,
    device: Device,
    trace: Rc<Trace>,
    /// Memory that is out of the device's reach from here on.
    limit: u64,
    deaf: bool,
}

impl Board {
    fn publish(&self) {
        for (register, _) in Register::ALL {
            self.window.set(register, self.device.read(register));
        }
    }
}

// SAFETY: the device is a part of this process and thread, so addresses and contents are the same;
// a device that is cut off is not stepped any more.
unsafe impl Platform for Board {
    fn address(&mut self, start: *const u8, _length: usize) -> Option<u64> {
        let address = start.expose_provenance() as u64;
        (address < self.limit).then_some(address)
    }

    fn clean(&mut self, _start: *const u8, length: usize) {
        self.trace.cleaned.set(self.trace.cleaned.get() + length);
    }

    fn discard(&mut self, _start: *const u8, length: usize) {
        self.trace.discarded.set(self.trace.discarded.get() + length);
    }

    fn pause(&mut self) {
        if self.deaf {
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
                self.device.write(register, value);
            }
        }
        self.device.step(&mut RealMemory);
        self.publish();
    }

    fn isolate(&mut self) {
        self.trace.isolated.set(true);
        self.deaf = true;
    }
}

/// The process's own memory, by address.
struct RealMemory;

impl Memory for RealMemory {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), BusError> {
        let from = with_exposed_provenance::<u8>(address as usize);
        // SAFETY: the driver exposed the memory that the descriptor names and lends it meanwhile.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) }
        Ok(())
    }

    fn write(&mut self, address: u64, word: u32) -> Result<(), BusError> {
        // SAFETY: as above; the sums are lent for writing and aligned.
        unsafe { with_exposed_provenance_mut::<u32>(address as usize).write(word) }
        Ok(())
    }
}

fn board(limit: u64) -> (Board, Rc<Window>, Rc<Trace>) {
    let window = Rc::new(Window(UnsafeCell::new([0; WINDOW_BYTES / 4])));
    let trace = Rc::new(Trace::default());
    let capability = Capability { address_bits: 64, max_tokens: 3, ..Model::CAPABILITY };
    let device = Device::new(capability);
    let board = Board { window: window.clone(), device, trace: trace.clone(), limit, deaf: false };
    board.publish();
    (board, window, trace)
}

fn open(board: Board, window: &Window) -> Driver<Mmio<Board>> {
    // SAFETY: the window outlives the driver in every test, no one else uses it while the driver
    // does (the device looks at it only inside `pause`), and the device keeps to the protocol.
    let bus = unsafe { Mmio::new(window.base(), board, "board") };
    Driver::open(bus, LIMITS).expect("the device answers")
}

#[test]
fn jobs_through_real_registers_and_addresses_are_exact() {
    let (board, window, trace) = board(u64::MAX);
    let mut driver = open(board, &window);
    assert_eq!(driver.name(), "board");
    let mut case = Case::ragged();
    for jobs in [2, 4] {
        case.run(|job, sums| driver.group_matmul(job, sums)).unwrap();
        assert_eq!(case.sums(), case.expected);
        assert_eq!(window.get(Register::Completions), jobs, "five tokens, three at once");
    }
    let (weights, panel, sums) = (16 * 80, 5 * 80, 5 * 16 * 4);
    assert_eq!(trace.cleaned.get(), 2 * (2 * (64 + weights) + panel + sums));
    assert_eq!(trace.discarded.get(), 2 * sums);
    assert_eq!(self_test(&mut driver), Ok(SelfTest { jobs: 8, sums: 236 }));
}

#[test]
fn a_dead_window_is_cut_off() {
    let (board, window, trace) = board(u64::MAX);
    let mut driver = open(board, &window);
    let mut case = Case::ragged();
    case.run(|job, sums| driver.group_matmul(job, sums)).unwrap();
    // The bitstream is gone in the middle of work: nobody changes the window any more.
    driver.bus_mut().platform_mut().deaf = true;
    let result = case.run(|job, sums| driver.group_matmul(job, sums));
    assert_eq!(result, Err(Fault::Stuck { polls: 64 }));
    assert!(trace.isolated.get());
}

#[test]
fn memory_out_of_reach_is_refused() {
    let (board, window, _) = board(0);
    let mut driver = open(board, &window);
    let result = Case::ragged().run(|job, sums| driver.group_matmul(job, sums));
    assert_eq!(result, Err(Fault::Unreachable { region: Region::Weights }));
}

#[test]
fn no_device_in_the_window_is_a_fault() {
    for (word, found) in [(0, 0), (u32::MAX, u32::MAX)] {
        let window = Window(UnsafeCell::new([word; WINDOW_BYTES / 4]));
        // SAFETY: no device runs, so nothing has to be cut off; the window outlives the bus.
        let bus = unsafe { Mmio::new(window.base(), Flat::new(|| {}), "nothing") };
        assert_eq!(Driver::open(bus, LIMITS).map(|_| ()), Err(Fault::NoDevice { found }));
    }
}
