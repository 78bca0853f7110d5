//! A small assembler for eBPF: just the instructions that the gate's program uses, and labels.
//!
//! It decides encoding and nothing else. Invariant: what [`Assembler::finish`] returns has every jump
//! resolved; a label that was never placed, or a jump too far, is a fault in our own program text and
//! stops the process at start, long before a packet could meet it.

use std::collections::HashMap;

/// One instruction as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insn {
    /// Operation code.
    pub(crate) code: u8,
    /// Destination and source register, four bits each, in the machine's own order.
    pub(crate) registers: u8,
    /// Jump distance in instructions, or offset from a base register in bytes.
    pub(crate) offset: i16,
    /// Immediate operand.
    pub(crate) immediate: i32,
}

/// A register. R0 holds results, R1 to R5 arguments (lost in calls), R6 to R9 survive calls, R10 is
/// the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reg {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R9 = 9,
    Frame = 10,
}

/// Width of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Width {
    /// One byte.
    Byte = 0x10,
    /// Two bytes.
    Half = 0x08,
    /// Four bytes.
    Word = 0x00,
    /// Eight bytes.
    Double = 0x18,
}

/// A place in the program that jumps can name.
pub(crate) type Label = String;

/// Builds a program instruction by instruction.
#[derive(Default)]
pub(crate) struct Assembler {
    insns: Vec<Insn>,
    labels: HashMap<Label, usize>,
    jumps: Vec<(usize, Label)>,
    fresh: usize,
}

const CLASS_LD: u8 = 0x00;
const CLASS_LDX: u8 = 0x01;
const CLASS_STX: u8 = 0x03;
const CLASS_ST: u8 = 0x02;
const CLASS_JMP: u8 = 0x05;
const CLASS_ALU64: u8 = 0x07;
const MODE_IMM: u8 = 0x00;
const MODE_MEM: u8 = 0x60;
const FROM_REGISTER: u8 = 0x08;
const OP_ADD: u8 = 0x00;
const OP_AND: u8 = 0x50;
const OP_LSH: u8 = 0x60;
const OP_MOV: u8 = 0xb0;
const JMP_ALWAYS: u8 = 0x00;
const JMP_EQ: u8 = 0x10;
const JMP_GT: u8 = 0x20;
const JMP_SET: u8 = 0x40;
const JMP_NE: u8 = 0x50;
const JMP_CALL: u8 = 0x80;
const JMP_EXIT: u8 = 0x90;
/// The source register of a 16-byte load that says "the immediate is a map's descriptor".
const PSEUDO_MAP_FD: u8 = 1;
/// Likewise, "the address of the map's value at the offset in the second half".
const PSEUDO_MAP_VALUE: u8 = 2;

impl Assembler {
    fn push(&mut self, code: u8, dst: u8, src: u8, offset: i16, immediate: i32) {
        let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        self.insns.push(Insn { code, registers, offset, immediate });
    }

    /// A label that nobody else uses, for code that is emitted more than once.
    pub(crate) fn fresh(&mut self, name: &str) -> Label {
        self.fresh += 1;
        format!("{name}#{}", self.fresh)
    }

    /// Names the next instruction.
    pub(crate) fn place(&mut self, label: impl Into<Label>) {
        let label = label.into();
        let earlier = self.labels.insert(label.clone(), self.insns.len());
        assert!(earlier.is_none(), "label {label} is placed twice");
    }

    /// `dst = src`
    pub(crate) fn mov(&mut self, dst: Reg, src: Reg) {
        self.push(CLASS_ALU64 | OP_MOV | FROM_REGISTER, dst as u8, src as u8, 0, 0);
    }

    /// `dst = value`, sign-extended.
    pub(crate) fn mov_imm(&mut self, dst: Reg, value: i32) {
        self.push(CLASS_ALU64 | OP_MOV, dst as u8, 0, 0, value);
    }

    /// `dst += value`
    pub(crate) fn add_imm(&mut self, dst: Reg, value: i32) {
        self.push(CLASS_ALU64 | OP_ADD, dst as u8, 0, 0, value);
    }

    /// `dst += src`
    pub(crate) fn add(&mut self, dst: Reg, src: Reg) {
        self.push(CLASS_ALU64 | OP_ADD | FROM_REGISTER, dst as u8, src as u8, 0, 0);
    }

    /// `dst &= value`
    pub(crate) fn and_imm(&mut self, dst: Reg, value: i32) {
        self.push(CLASS_ALU64 | OP_AND, dst as u8, 0, 0, value);
    }

    /// `dst <<= bits`
    pub(crate) fn shift_left(&mut self, dst: Reg, bits: i32) {
        self.push(CLASS_ALU64 | OP_LSH, dst as u8, 0, 0, bits);
    }

    /// `dst = *(base + offset)`
    pub(crate) fn load(&mut self, width: Width, dst: Reg, base: Reg, offset: i16) {
        self.push(CLASS_LDX | MODE_MEM | width as u8, dst as u8, base as u8, offset, 0);
    }

    /// `*(base + offset) = src`
    pub(crate) fn store(&mut self, width: Width, base: Reg, offset: i16, src: Reg) {
        self.push(CLASS_STX | MODE_MEM | width as u8, base as u8, src as u8, offset, 0);
    }

    /// `*(base + offset) = value`, sign-extended.
    pub(crate) fn store_imm(&mut self, width: Width, base: Reg, offset: i16, value: i32) {
        self.push(CLASS_ST | MODE_MEM | width as u8, base as u8, 0, offset, value);
    }

    /// `dst = the map behind this descriptor`
    pub(crate) fn map(&mut self, dst: Reg, map_fd: i32) {
        self.push(CLASS_LD | MODE_IMM | Width::Double as u8, dst as u8, PSEUDO_MAP_FD, 0, map_fd);
        self.push(0, 0, 0, 0, 0);
    }

    /// `dst = address of byte `byte` of the first value of the array map behind this descriptor`
    pub(crate) fn map_value(&mut self, dst: Reg, map_fd: i32, byte: i32) {
        self.push(CLASS_LD | MODE_IMM | Width::Double as u8, dst as u8, PSEUDO_MAP_VALUE, 0, map_fd);
        self.push(0, 0, 0, 0, byte);
    }

    /// `r0 = helper(r1, r2, ...)`
    pub(crate) fn call(&mut self, helper: i32) {
        self.push(CLASS_JMP | JMP_CALL, 0, 0, 0, helper);
    }

    fn jump_to(&mut self, code: u8, dst: u8, src: u8, value: i32, label: &str) {
        self.jumps.push((self.insns.len(), label.to_owned()));
        self.push(CLASS_JMP | code, dst, src, 0, value);
    }

    /// Goes to `label`.
    pub(crate) fn jump(&mut self, label: &str) {
        self.jump_to(JMP_ALWAYS, 0, 0, 0, label);
    }

    /// Goes to `label` if `reg == value`.
    pub(crate) fn jump_eq(&mut self, reg: Reg, value: i32, label: &str) {
        self.jump_to(JMP_EQ, reg as u8, 0, value, label);
    }

    /// Goes to `label` if `reg != value`.
    pub(crate) fn jump_ne(&mut self, reg: Reg, value: i32, label: &str) {
        self.jump_to(JMP_NE, reg as u8, 0, value, label);
    }

    /// Goes to `label` if `reg & mask` is not zero.
    pub(crate) fn jump_set(&mut self, reg: Reg, mask: i32, label: &str) {
        self.jump_to(JMP_SET, reg as u8, 0, mask, label);
    }

    /// Goes to `label` if `left > right`, both unsigned.
    pub(crate) fn jump_gt(&mut self, left: Reg, right: Reg, label: &str) {
        self.jump_to(JMP_GT | FROM_REGISTER, left as u8, right as u8, 0, label);
    }

    /// Returns r0 to the kernel.
    pub(crate) fn exit(&mut self) {
        self.push(CLASS_JMP | JMP_EXIT, 0, 0, 0, 0);
    }

    /// The program with its jumps resolved.
    pub(crate) fn finish(mut self) -> Vec<Insn> {
        for (at, label) in &self.jumps {
            let to = self.labels.get(label).unwrap_or_else(|| panic!("label {label} is never placed"));
            let distance = *to as i64 - *at as i64 - 1;
            self.insns[*at].offset = i16::try_from(distance).expect("a jump within 32767 instructions");
        }
        self.insns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes on a little-endian machine, as any eBPF disassembler would show them.
    fn bytes(insn: Insn) -> [u8; 8] {
        let (o, i) = (insn.offset.to_le_bytes(), insn.immediate.to_le_bytes());
        [insn.code, insn.registers, o[0], o[1], i[0], i[1], i[2], i[3]]
    }

    fn one(build: impl FnOnce(&mut Assembler)) -> [u8; 8] {
        let mut asm = Assembler::default();
        build(&mut asm);
        bytes(asm.finish()[0])
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_have_the_encoding_of_the_kernel() {
        assert_eq!(one(|a| a.mov(Reg::R6, Reg::R1)), [0xbf, 0x16, 0, 0, 0, 0, 0, 0]);
        assert_eq!(one(|a| a.mov_imm(Reg::R0, -1)), [0xb7, 0x00, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(one(|a| a.add_imm(Reg::R2, -16)), [0x07, 0x02, 0, 0, 0xf0, 0xff, 0xff, 0xff]);
        assert_eq!(one(|a| a.add(Reg::R8, Reg::R7)), [0x0f, 0x78, 0, 0, 0, 0, 0, 0]);
        assert_eq!(one(|a| a.and_imm(Reg::R8, 15)), [0x57, 0x08, 0, 0, 15, 0, 0, 0]);
        assert_eq!(one(|a| a.shift_left(Reg::R8, 2)), [0x67, 0x08, 0, 0, 2, 0, 0, 0]);
        assert_eq!(
            one(|a| a.load(Width::Half, Reg::R8, Reg::Frame, -8)),
            [0x69, 0xa8, 0xf8, 0xff, 0, 0, 0, 0]
        );
        assert_eq!(one(|a| a.load(Width::Double, Reg::R1, Reg::R1, 0)), [0x79, 0x11, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            one(|a| a.store(Width::Word, Reg::Frame, -4, Reg::R1)),
            [0x63, 0x1a, 0xfc, 0xff, 0, 0, 0, 0]
        );
        assert_eq!(
            one(|a| a.store_imm(Width::Double, Reg::Frame, -56, 0)),
            [0x7a, 0x0a, 0xc8, 0xff, 0, 0, 0, 0]
        );
        assert_eq!(one(|a| a.call(125)), [0x85, 0, 0, 0, 125, 0, 0, 0]);
        assert_eq!(one(Assembler::exit), [0x95, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn maps_are_named_by_two_slots() {
        let mut asm = Assembler::default();
        asm.map(Reg::R1, 7);
        asm.map_value(Reg::R2, 9, 8);
        let out: Vec<_> = asm.finish().into_iter().map(bytes).collect();
        assert_eq!(out[0], [0x18, 0x11, 0, 0, 7, 0, 0, 0]);
        assert_eq!(out[1], [0; 8]);
        assert_eq!(out[2], [0x18, 0x22, 0, 0, 9, 0, 0, 0]);
        assert_eq!(out[3], [0, 0, 0, 0, 8, 0, 0, 0]);
    }

    #[test]
    fn jumps_count_from_the_next_instruction() {
        let mut asm = Assembler::default();
        asm.place("top");
        asm.jump_eq(Reg::R0, 5, "end");
        asm.jump("top");
        asm.place("end");
        asm.exit();
        let out = asm.finish();
        assert_eq!(out[0].offset, 1);
        assert_eq!(out[1].offset, -2);
    }

    #[test]
    #[should_panic(expected = "never placed")]
    fn a_jump_to_nowhere_is_noticed() {
        let mut asm = Assembler::default();
        asm.jump("nowhere");
        asm.finish();
    }
}
