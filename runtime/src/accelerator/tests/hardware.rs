//! The memory-mapped bus with real pointers: a device that is only known by a window of words and by
//! addresses, as an FPGA is. Miri runs it.

#![allow(unsafe_code)] // It stands in for hardware; see the SAFETY comments.

use std::cell::Cell;

use super::*;

/// What the platform did, for the test to see.
#[derive(Default)]
struct Trace {
    cleaned: Cell<usize>,
    discarded: Cell<usize>,
}

/// The device behind a window, with a look at what the driver asks of the platform.
struct Board<'w> {
    device: Windowed<'w>,
    trace: &'w Trace,
    /// Memory that is out of the device's reach from here on.
    limit: u64,
}

// SAFETY: it only counts, and refuses addresses.
unsafe impl Platform for Board<'_> {
    fn address(&mut self, start: *const u8, length: usize) -> Option<u64> {
        self.device.address(start, length).filter(|address| *address < self.limit)
    }

    fn clean(&mut self, _start: *const u8, length: usize) {
        self.trace.cleaned.set(self.trace.cleaned.get() + length);
    }

    fn discard(&mut self, _start: *const u8, length: usize) {
        self.trace.discarded.set(self.trace.discarded.get() + length);
    }

    fn pause(&mut self) {
        self.device.pause();
    }

    fn isolate(&mut self) {
        self.device.isolate();
    }
}

fn open<'w>(window: &'w Window, trace: &'w Trace, limit: u64) -> Driver<Mmio<Board<'w>>> {
    let capability = Capability { address_bits: 64, max_tokens: 3, ..Model::CAPABILITY };
    // SAFETY: the driver made here is the only one that writes to the window.
    let device = unsafe { Windowed::new(window, capability, None, 0) };
    let board = Board { device, trace, limit };
    // SAFETY: the window outlives the driver, no one else uses it while the driver does (the device
    // looks at it only inside `pause`), and the device keeps to the protocol.
    let bus = unsafe { Mmio::new(window.base(), board, "board") };
    Driver::open(bus, LIMITS).expect("the device answers")
}

#[test]
fn jobs_through_real_registers_and_addresses_are_exact() {
    let (window, trace) = (Window::filled(0), Trace::default());
    let mut driver = open(&window, &trace, u64::MAX);
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
    let (window, trace) = (Window::filled(0), Trace::default());
    let mut driver = open(&window, &trace, u64::MAX);
    let mut case = Case::ragged();
    case.run(|job, sums| driver.group_matmul(job, sums)).unwrap();
    // The bitstream is gone in the middle of work.
    driver.bus_mut().platform_mut().device.inject(Injected::Deaf);
    let result = case.run(|job, sums| driver.group_matmul(job, sums));
    assert_eq!(result, Err(Fault::Stuck { polls: 64 }));
    assert!(driver.bus_mut().platform_mut().device.is_isolated());
}

#[test]
fn memory_out_of_reach_is_refused() {
    let (window, trace) = (Window::filled(0), Trace::default());
    let mut driver = open(&window, &trace, 0);
    let result = Case::ragged().run(|job, sums| driver.group_matmul(job, sums));
    assert_eq!(result, Err(Fault::Unreachable { region: Region::Weights }));
}

#[test]
fn no_device_in_the_window_is_a_fault() {
    for (word, found) in [(0, 0), (u32::MAX, u32::MAX)] {
        let window = Window::filled(word);
        // SAFETY: no device runs, so nothing has to be cut off; the window outlives the bus.
        let bus = unsafe { Mmio::new(window.base(), Flat::new(|| {}), "nothing") };
        assert_eq!(Driver::open(bus, LIMITS).map(|_| ()), Err(Fault::NoDevice { found }));
    }
}

/// The same fault by the model's own bus and through a window.
#[test]
fn every_fault_is_the_models() {
    let capability = Capability { address_bits: 64, ..Model::CAPABILITY };
    for (name, injected) in Injected::NAMED {
        let mut case = Case::ragged();
        let mut by_model = Driver::open(Faulty::new(Model::default(), injected), LIMITS);
        let want = match &mut by_model {
            Ok(driver) => case.run(|job, sums| driver.group_matmul(job, sums)),
            Err(fault) => Err(*fault),
        };
        let window = Window::filled(0);
        // SAFETY: the driver made here is the only one that writes to the window.
        let device = unsafe { Windowed::new(&window, capability, Some(injected), 0) };
        // SAFETY: as in `open`.
        let bus = unsafe { Mmio::new(window.base(), device, "window") };
        let mut by_window = Driver::open(bus, LIMITS);
        let found = match &mut by_window {
            Ok(driver) => case.run(|job, sums| driver.group_matmul(job, sums)),
            Err(fault) => Err(*fault),
        };
        let kind = |result: Result<(), Fault>| result.err().map(|fault| fault.kind());
        assert!(want.is_err(), "{name}");
        assert_eq!(kind(found), kind(want), "{name}: {found:?}, {want:?}");
    }
}
