//! A serial port over the RP2350's USB, by usb-device and usbd-serial.
//!
//! An interrupt serves it, too: a host must not wait until a text is done.

use core::cell::RefCell;

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

/// Offers the port to whoever is at the other end of the cable.
pub fn start(bus: UsbBus) {
    static BUS: StaticCell<UsbBusAllocator<UsbBus>> = StaticCell::new();
    let bus = BUS.init(UsbBusAllocator::new(bus));
    let serial = SerialPort::new_with_store(bus, [0; BUFFER], [0; BUFFER]);
    let names = StringDescriptors::default().manufacturer("Grouse").product("Grouse on Pico 2");
    let device = UsbDeviceBuilder::new(bus, IDS).device_class(USB_CLASS_CDC).strings(&[names]);
    // More than one set of names would be refused, and nothing else.
    let Ok(device) = device.map(UsbDeviceBuilder::build) else { return };
    free(|section| USB.borrow(section).replace(Some(Usb { device, serial })));
    resume();
}

/// A byte, if one has come.
pub fn take() -> Option<u8> {
    let mut byte = [0];
    let came = with(|usb| usb.serial.read(&mut byte).ok().filter(|bytes| *bytes > 0)).flatten();
    resume();
    came.and_then(|_| byte.first().copied())
}

/// Takes over some of `bytes` and says how many; `None` when no program has the port open.
pub fn give(bytes: &[u8]) -> Option<usize> {
    with(|usb| usb.serial.dtr().then(|| usb.serial.write(bytes).unwrap_or(0))).flatten()
}

/// Whether bytes wait for a program that has the port open.
pub fn is_full() -> bool {
    with(|usb| usb.serial.dtr() && usb.serial.flush().is_err()).unwrap_or(false)
}

/// What is done with the device while its interrupt waits; `None` when no host has set it up, or a
/// fault struck in there.
fn with<T>(work: impl FnOnce(&mut Usb) -> T) -> Option<T> {
    free(|section| {
        let mut usb = USB.borrow(section).try_borrow_mut().ok()?;
        let usb = usb.as_mut()?;
        usb.poll();
        (usb.device.state() == UsbDeviceState::Configured).then(|| work(usb))
    })
}

/// Lets the interrupt come (again).
fn resume() {
    // SAFETY: its handler takes the device in a critical section and touches nothing else.
    unsafe { NVIC::unmask(pac::Interrupt::USBCTRL_IRQ) }
}

#[interrupt]
fn USBCTRL_IRQ() {
    with(|_| ());
    // SAFETY: reads what the controller still wants.
    let wants = unsafe { (*pac::USB::PTR).ints().read().bits() };
    if wants != 0 {
        // The buffer is full: it would come for ever.
        NVIC::mask(pac::Interrupt::USBCTRL_IRQ);
    }
}
