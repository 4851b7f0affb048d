//! The memory and the registers of a probe guest: 64-bit mode, one identity-mapped 2 MiB page that
//! both privilege levels may use, an IDT whose handlers say which vector came.

use kvm_bindings::{kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::errno;

/// Bytes of guest memory: the one page.
pub(super) const MEMORY: u64 = 0x20_0000;
/// Where the probed code goes.
pub(super) const CODE: u64 = 0x8000;
/// Where SYSCALL goes: to a HLT.
pub(super) const LSTAR_CODE: u64 = 0x9000;
/// The exception handlers write their vector here.
pub(super) const VECTOR_PORT: u16 = 0x10;
/// Top of the stack in CPL 0 and, from the TSS, of exceptions from CPL 3.
pub(super) const RING0_STACK: u64 = 0xf000;

const RING3_STACK: u64 = 0xe000;
const GDT: u64 = 0x1000;
const TSS_AT: u64 = 0x1800;
/// Bytes of a 64-bit TSS, and of its map of ports.
const TSS_BYTES: u32 = 0x68;
const PORTS_BYTES: u32 = 0x18;
/// The types of a 64-bit TSS that is loaded, and of one that is not (SDM vol. 3, table 3-2).
pub(crate) const TSS: u8 = 11;
pub(crate) const IDLE_TSS: u8 = 9;
const IDT: u64 = 0x2000;
const HANDLERS: u64 = 0x3000;
const PML4: u64 = 0x4000;
const PDPT: u64 = 0x5000;
const PD: u64 = 0x6000;
const VECTORS: u64 = 32;

/// Selectors, laid out as SYSCALL and SYSRET want them (SDM vol. 2).
pub(super) const KERNEL_CS: u16 = 0x10;
const KERNEL_DS: u16 = 0x18;
const USER_DS: u16 = 0x20 | 3;
pub(super) const USER_CS: u16 = 0x28 | 3;
const TSS_SELECTOR: u16 = 0x30;

/// Bytes of a handler up to the end of the OUT that tells its vector; a NOP comes next.
pub(super) const HANDLER_AFTER_OUT: u64 = 4;

/// The handler of `vector`, which is below [`VECTORS`].
pub(super) fn handler(vector: u8) -> u64 {
    HANDLERS + 16 * u64::from(vector)
}

/// Writes the tables, the handlers and `code` followed by HLT. All of it fits by construction.
pub(super) fn write(memory: &GuestMemoryMmap, code: &[u8]) {
    const HLT: u8 = 0xf4;
    const NOP: u8 = 0x90;
    let put = |address: u64, bytes: &[u8]| {
        // In range: every address here is far below `MEMORY`.
        let _ = memory.write_slice(bytes, GuestAddress(address));
    };
    // Present, writable, user; PS on the last level (SDM vol. 3, 4.5.4).
    put(PML4, &(PDPT | 7).to_le_bytes());
    put(PDPT, &(PD | 7).to_le_bytes());
    put(PD, &0x87_u64.to_le_bytes());
    for (index, descriptor) in [
        0,
        0,
        0x00af_9b00_0000_ffff, // kernel code
        0x00cf_9300_0000_ffff, // kernel data
        0x00cf_f300_0000_ffff, // user data
        0x00af_fb00_0000_ffff, // user code
        0x0000_8b00_0000_0067 | TSS_AT << 16,
        0,
    ]
    .into_iter()
    .enumerate()
    {
        put(GDT + 8 * index as u64, &u64::to_le_bytes(descriptor));
    }
    // RSP0 of the 64-bit TSS (SDM vol. 3, figure 8-11), and where its map of ports begins, which is right after it, all
    // zero: CPL 3 may use what it has a bit for.
    put(TSS_AT + 4, &RING0_STACK.to_le_bytes());
    put(TSS_AT + 0x66, &(TSS_BYTES as u16).to_le_bytes());
    for vector in 0..VECTORS {
        let handler = HANDLERS + 16 * vector;
        // mov al, vector; out VECTOR_PORT, al; nop; hlt
        let code = [0xb0, vector as u8, 0xe6, VECTOR_PORT as u8, NOP, HLT];
        put(handler, &code);
        // A present 64-bit interrupt gate that CPL 3 may use (SDM vol. 3, figure 6-8).
        let gate = handler | u64::from(KERNEL_CS) << 16 | 0xee00 << 32;
        put(IDT + 16 * vector, &gate.to_le_bytes());
    }
    put(CODE, code);
    put(CODE + code.len() as u64, &[HLT]);
    put(LSTAR_CODE, &[HLT]);
}

fn segment(selector: u16, type_: u8, dpl: u8, code: bool) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl,
        s: 1,
        l: u8::from(code),
        db: u8::from(!code),
        g: 1,
        ..kvm_segment::default()
    }
}

fn long_mode(sregs: &mut kvm_sregs) {
    sregs.cr0 = 0x8000_0033; // PG, NE, ET, MP, PE
    sregs.cr3 = PML4;
    sregs.cr4 = 0x620; // PAE, OSFXSR, OSXMMEXCPT
    sregs.efer = 0x501; // LMA, LME, SCE
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 0x3f;
    sregs.idt.base = IDT;
    sregs.idt.limit = (VECTORS * 16 - 1) as u16;
    sregs.tr = kvm_segment {
        base: TSS_AT,
        limit: TSS_BYTES + PORTS_BYTES - 1,
        selector: TSS_SELECTOR,
        type_: TSS,
        present: 1,
        ..kvm_segment::default()
    };
}

/// Has the TSS be of another type.
pub(super) fn set_tss(vcpu: &VcpuFd, type_: u8) -> Result<(), errno::Error> {
    let mut sregs = vcpu.get_sregs()?;
    sregs.tr.type_ = type_;
    vcpu.set_sregs(&sregs)
}

pub(super) fn enter_ring0(vcpu: &VcpuFd) -> Result<(), errno::Error> {
    let mut sregs = vcpu.get_sregs()?;
    long_mode(&mut sregs);
    sregs.cs = segment(KERNEL_CS, 11, 0, true);
    let data = segment(KERNEL_DS, 3, 0, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&sregs)
}

pub(super) fn enter_ring3(vcpu: &VcpuFd) -> Result<(), errno::Error> {
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs = segment(USER_CS, 11, 3, true);
    let data = segment(USER_DS, 3, 3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rsp = RING3_STACK;
    vcpu.set_regs(&regs)
}
