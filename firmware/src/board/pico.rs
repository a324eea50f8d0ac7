//! The Pico 2's lines: the protocol over USB and over UART 0, the log over UART 1.
//!
//! An answer goes where the last byte came from, so a plain USB cable is enough. USB is served by an
//! interrupt, too: a host must not wait until a text is done.

use core::cell::RefCell;
use core::convert::Infallible;
use core::sync::atomic::{AtomicBool, Ordering};

use cortex_m::interrupt::{Mutex, free};
use cortex_m::peripheral::NVIC;
use rp235x_hal::pac::{self, interrupt};
use rp235x_hal::usb::UsbBus;
use static_cell::StaticCell;
use usb_device::bus::UsbBusAllocator;
use usb_device::device::{
    StringDescriptors, UsbDevice, UsbDeviceBuilder, UsbDeviceState, UsbVidPid,
};
use usbd_serial::{SerialPort, USB_CLASS_CDC};

use super::polled;

/// Ids that obdev.at lets anyone use for serial ports, told apart by their names.
const IDS: UsbVidPid = UsbVidPid(0x16c0, 0x27dd);
/// Bytes that wait for the program, and for the host.
const BUFFER: usize = 256;

type Serial = SerialPort<'static, UsbBus, [u8; BUFFER], [u8; BUFFER]>;

/// The device and its port.
struct Usb {
    device: UsbDevice<'static, UsbBus>,
    serial: Serial,
}

impl Usb {
    fn poll(&mut self) {
        self.device.poll(&mut [&mut self.serial]);
    }
}

static USB: Mutex<RefCell<Option<Usb>>> = Mutex::new(RefCell::new(None));
/// The last byte came by USB.
static BY_USB: AtomicBool = AtomicBool::new(false);

/// Offers the port to whoever is at the other end of the cable.
pub fn start(bus: UsbBus) {
    static BUS: StaticCell<UsbBusAllocator<UsbBus>> = StaticCell::new();
    let bus = BUS.init(UsbBusAllocator::new(bus));
    let serial = SerialPort::new_with_store(bus, [0; BUFFER], [0; BUFFER]);
    let names = StringDescriptors::default().manufacturer("Grouse").product("Grouse on Pico 2");
    let device = UsbDeviceBuilder::new(bus, IDS).device_class(USB_CLASS_CDC).strings(&[names]);
    // More than one set of names would be refused, and nothing else.
    let Ok(device) = device.map(UsbDeviceBuilder::build) else { return };
    with(|usb| *usb = Some(Usb { device, serial }));
    resume();
}

/// What is done with the device while its interrupt waits; `None` when a fault struck in there.
fn with<T>(work: impl FnOnce(&mut Option<Usb>) -> T) -> Option<T> {
    free(|section| USB.borrow(section).try_borrow_mut().ok().map(|mut usb| work(&mut usb)))
}

/// Lets the interrupt come (again).
fn resume() {
    // SAFETY: its handler takes the device in a critical section and touches nothing else.
    unsafe { NVIC::unmask(pac::Interrupt::USBCTRL_IRQ) }
}

#[interrupt]
fn USBCTRL_IRQ() {
    with(|usb| usb.as_mut().map(Usb::poll));
    // SAFETY: reads what the controller still wants.
    let wants = unsafe { (*pac::USB::PTR).ints().read().bits() };
    if wants != 0 {
        // The buffer is full: it would come for ever.
        NVIC::mask(pac::Interrupt::USBCTRL_IRQ);
    }
}

/// A serial line.
#[derive(Clone, Copy)]
pub struct Uart {
    uart: polled::Uart,
    by_usb: bool,
}

impl Uart {
    /// The line that carries the protocol.
    pub const fn wire() -> Self {
        Self { uart: polled::Uart::wire(), by_usb: true }
    }

    /// The line that carries the log.
    pub const fn log() -> Self {
        Self { uart: polled::Uart::log(), by_usb: false }
    }

    /// Turns the line on.
    pub fn start(self) {
        self.uart.start();
    }

    fn is_usb(self) -> bool {
        self.by_usb && BY_USB.load(Ordering::Relaxed)
    }
}

impl embedded_io::ErrorType for Uart {
    type Error = Infallible;
}

impl embedded_io::Read for Uart {
    /// Waits until a byte has come, by either.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(first) = buffer.first_mut() else { return Ok(0) };
        loop {
            let mut byte = [0];
            let came = with(|usb| {
                let usb = usb.as_mut()?;
                usb.poll();
                usb.serial.read(&mut byte).ok().filter(|bytes| *bytes > 0)
            });
            let by_usb = came.flatten().is_some();
            resume();
            if let Some(byte) = if by_usb { byte.first().copied() } else { self.uart.take() } {
                BY_USB.store(by_usb, Ordering::Relaxed);
                *first = byte;
                return Ok(1);
            }
        }
    }
}

impl embedded_io::Write for Uart {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        if !self.is_usb() {
            return self.uart.write(buffer);
        }
        loop {
            let sent = with(|usb| {
                let usb =
                    usb.as_mut().filter(|usb| usb.device.state() == UsbDeviceState::Configured)?;
                usb.poll();
                Some(usb.serial.write(buffer).unwrap_or(0))
            });
            match sent.flatten() {
                Some(0) => {}
                Some(bytes) => return Ok(bytes),
                // Nobody is there: it is lost.
                None => return Ok(buffer.len()),
            }
        }
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        if !self.is_usb() {
            return self.uart.flush();
        }
        let left = || {
            with(|usb| {
                let usb =
                    usb.as_mut().filter(|usb| usb.device.state() == UsbDeviceState::Configured)?;
                usb.poll();
                usb.serial.flush().err()
            })
        };
        while left().flatten().is_some() {}
        Ok(())
    }
}
