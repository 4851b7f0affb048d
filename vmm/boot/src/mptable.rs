//! The MP table (Intel MultiProcessor Specification 1.4), for kernels built without ACPI.
//!
//! It lists processors and nothing else: no bus, no I/O APIC, no interrupts. Linux then has no
//! legacy interrupt controller to set up ("Using NULL legacy PIC").

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

/// Length of the floating pointer structure, in bytes.
const FLOATING_POINTER_LEN: usize = 16;
/// Length of the configuration table's header, in bytes.
const HEADER_LEN: usize = 44;
/// Length of a processor entry, in bytes.
const PROCESSOR_LEN: usize = 20;
/// The specification's minor version, 1.4.
const SPEC_REVISION: u8 = 4;
/// Version register of a local APIC that is part of the processor.
const APIC_VERSION: u8 = 0x14;
/// Processor entry: usable.
const ENABLED: u8 = 1 << 0;
/// Processor entry: the one that boots.
const BOOTSTRAP: u8 = 1 << 1;
/// Family 6. Linux prints it and goes by CPUID.
const CPU_SIGNATURE: u32 = 0x600;
/// CPUID leaf 1 EDX: FPU and APIC. Linux goes by CPUID here too.
const CPU_FEATURES: u32 = 0x201;

/// Writes the floating pointer and the configuration table for CPUs 0 to `cpus` - 1, whose APIC ids
/// are their numbers.
pub(crate) fn write(memory: &GuestMemoryMmap, cpus: u8) -> Result<(), GuestMemoryError> {
    memory.write_slice(
        &floating_pointer(),
        GuestAddress(layout::MP_FLOATING_POINTER),
    )?;
    memory.write_slice(
        &configuration_table(cpus),
        GuestAddress(layout::MP_TABLE.start),
    )
}

/// MP 1.4, 4.1.
fn floating_pointer() -> [u8; FLOATING_POINTER_LEN] {
    let mut pointer = [0; FLOATING_POINTER_LEN];
    pointer[0..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&TABLE_ADDRESS.to_le_bytes());
    // Length in units of 16 bytes.
    pointer[8] = 1;
    pointer[9] = SPEC_REVISION;
    // Feature bytes stay zero: a configuration table is present, the PIC mode is not implemented.
    pointer[10] = checksum(&pointer);
    pointer
}

const TABLE_ADDRESS: u32 = {
    assert!(layout::MP_TABLE.start <= u32::MAX as u64);
    layout::MP_TABLE.start as u32
};

/// MP 1.4, 4.2 and 4.3.1.
fn configuration_table(cpus: u8) -> Vec<u8> {
    let len = table_len(cpus);
    let mut table = Vec::with_capacity(usize::from(len));
    table.extend(b"PCMP");
    table.extend(len.to_le_bytes());
    table.push(SPEC_REVISION);
    table.push(0); // checksum, below
    table.extend(b"IPIRIG  ");
    table.extend(b"TEST RIG    ");
    table.extend(0_u32.to_le_bytes()); // no OEM table
    table.extend(0_u16.to_le_bytes());
    table.extend(u16::from(cpus).to_le_bytes());
    table.extend(layout::LOCAL_APIC.to_le_bytes());
    table.extend(0_u32.to_le_bytes()); // no extended entries
    for id in 0..cpus {
        table.push(0); // a processor
        table.push(id);
        table.push(APIC_VERSION);
        table.push(if id == 0 {
            ENABLED | BOOTSTRAP
        } else {
            ENABLED
        });
        table.extend(CPU_SIGNATURE.to_le_bytes());
        table.extend(CPU_FEATURES.to_le_bytes());
        table.extend([0; 8]);
    }
    table[7] = checksum(&table);
    table
}

const fn table_len(cpus: u8) -> u16 {
    HEADER_LEN as u16 + PROCESSOR_LEN as u16 * cpus as u16
}

const _: () =
    assert!(table_len(layout::MAX_CPUS_U8) as u64 <= layout::MP_TABLE.end - layout::MP_TABLE.start);

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_sub(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floating_pointer_leads_to_the_table() {
        assert_eq!(
            floating_pointer(),
            *b"_MP_\x00\x00\x0f\x00\x01\x04\x91\x00\x00\x00\x00\x00"
        );
    }

    #[test]
    fn the_table_lists_each_cpu_once_and_nothing_else() {
        let mut expected = b"PCMP\x54\x00\x04\x93IPIRIG  TEST RIG    ".to_vec();
        expected.extend(b"\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\xe0\xfe\x00\x00\x00\x00");
        expected.extend(b"\x00\x00\x14\x03\x00\x06\x00\x00\x01\x02\x00\x00\0\0\0\0\0\0\0\0");
        expected.extend(b"\x00\x01\x14\x01\x00\x06\x00\x00\x01\x02\x00\x00\0\0\0\0\0\0\0\0");
        assert_eq!(configuration_table(2), expected);
    }

    #[test]
    fn the_bytes_of_each_structure_sum_to_zero() {
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        assert_eq!(sum(&floating_pointer()), 0);
        for cpus in 1..=layout::MAX_CPUS_U8 {
            assert_eq!(sum(&configuration_table(cpus)), 0, "{cpus} CPUs");
        }
    }

    #[test]
    fn both_structures_land_where_linux_looks() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        write(&memory, 64).unwrap();
        let mut pointer = [0; FLOATING_POINTER_LEN];
        memory
            .read_slice(&mut pointer, GuestAddress(0x9_fc00))
            .unwrap();
        assert_eq!(pointer, floating_pointer());
        let mut table = vec![0; 44 + 64 * 20];
        memory
            .read_slice(&mut table, GuestAddress(0xf_0000))
            .unwrap();
        assert_eq!(table, configuration_table(64));
    }
}
