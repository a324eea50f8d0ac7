//! The few functions of QEMU's plugin interface, version 1 (`qemu-plugin.h`), that are used here.
//! The QEMU program provides them when it loads the plugin.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// The interface's version that this plugin speaks.
pub const VERSION: c_int = 1;

/// Names the plugin in calls to QEMU.
pub type Id = u64;

/// A translated block of guest code; only QEMU looks inside.
#[repr(C)]
pub struct Block {
    _opaque: [u8; 0],
}

/// An instruction of a [`Block`]; only QEMU looks inside.
#[repr(C)]
pub struct Instruction {
    _opaque: [u8; 0],
}

/// `enum qemu_plugin_cb_flags`: what a callback does with the guest's registers.
#[repr(C)]
pub enum Registers {
    /// It neither reads nor writes them.
    Untouched = 0,
}

/// `enum qemu_plugin_op`: what inline code does.
#[repr(C)]
pub enum Operation {
    /// Adds a number to a u64.
    AddU64 = 0,
}

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, call: extern "C" fn(Id, *mut Block));
    pub fn qemu_plugin_register_atexit_cb(
        id: Id,
        call: extern "C" fn(Id, *mut c_void),
        data: *mut c_void,
    );
    pub fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    /// The name of the function around an instruction, or null; QEMU keeps the text.
    pub fn qemu_plugin_insn_symbol(instruction: *const Instruction) -> *const c_char;
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        call: extern "C" fn(c_uint, *mut c_void),
        registers: Registers,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_inline(
        instruction: *mut Instruction,
        operation: Operation,
        number: *mut u64,
        amount: u64,
    );
}
