//! ACPI tables: RSDP, XSDT, FADT, DSDT and MADT.
//!
//! The machine is hardware-reduced and has no legacy device: no PIC, no PM timer, no I/O APIC. The
//! MADT lists the CPUs' local APICs; the DSDT is empty, since nothing needs AML.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::madt::{EnabledStatus, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

const OEM_ID: [u8; 6] = *b"IPIRIG";
const OEM_TABLE_ID: [u8; 8] = *b"TEST RIG";
const OEM_REVISION: u32 = 1;

/// Length of a table's header, in bytes (ACPI 6.5, table 5.4).
const HEADER_LEN: u32 = 36;
/// Revision of a DSDT whose integers have 64 bits (ACPI 6.5, 5.2.11.1).
const DSDT_REVISION: u8 = 2;

/// FADT, IAPC_BOOT_ARCH: no VGA (ACPI 6.5, table 5.10).
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// FADT, IAPC_BOOT_ARCH: no CMOS clock; the kernel does not read its ports.
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// Each table starts at a multiple of this.
const ALIGN: u64 = 16;

/// Writes the tables for CPUs 0 to `cpus` - 1, whose APIC ids are their numbers. Returns the
/// address of the RSDP.
pub(crate) fn write(memory: &GuestMemoryMmap, cpus: u8) -> Result<u64, GuestMemoryError> {
    // The RSDP comes first: an old kernel finds it by looking through this area.
    let rsdp_address = layout::ACPI.start;
    let dsdt_address = rsdp_address + (Rsdp::len() as u64).next_multiple_of(ALIGN);
    let fadt_address = put(memory, dsdt_address, &dsdt())?;
    let madt_address = put(memory, fadt_address, &fadt(dsdt_address))?;
    let xsdt_address = put(memory, madt_address, &madt(cpus))?;
    put(memory, xsdt_address, &xsdt([fadt_address, madt_address]))?;
    put(memory, rsdp_address, &Rsdp::new(OEM_ID, xsdt_address))?;
    Ok(rsdp_address)
}

/// Writes one table and returns where the next one may start.
fn put(memory: &GuestMemoryMmap, address: u64, table: &dyn Aml) -> Result<u64, GuestMemoryError> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    memory.write_slice(&bytes, GuestAddress(address))?;
    Ok((address + bytes.len() as u64).next_multiple_of(ALIGN))
}

fn dsdt() -> Sdt {
    Sdt::new(
        *b"DSDT",
        HEADER_LEN,
        DSDT_REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    )
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // No fixed power or sleep button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT).into();
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let apic = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, apic);
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt
}

fn xsdt(tables: [u64; 2]) -> XSDT {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for address in tables {
        xsdt.add_entry(address);
    }
    xsdt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(cpus: u8) -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        assert_eq!(write(&memory, cpus).unwrap(), 0xe_0000);
        memory
    }

    fn bytes<const N: usize>(memory: &GuestMemoryMmap, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    fn u64_at(memory: &GuestMemoryMmap, address: u64) -> u64 {
        u64::from_le_bytes(bytes(memory, address))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
    }

    /// The table at `address`, by the length in its header; its bytes must sum to zero.
    fn table(memory: &GuestMemoryMmap, address: u64) -> Vec<u8> {
        let len = u32::from_le_bytes(bytes(memory, address + 4));
        let mut table = vec![0; len as usize];
        memory
            .read_slice(&mut table, GuestAddress(address))
            .unwrap();
        assert_eq!(sum(&table), 0, "{:?}", &table[..4]);
        table
    }

    /// FADT and MADT, found as a kernel finds them: RSDP, then XSDT.
    fn listed(memory: &GuestMemoryMmap) -> [Vec<u8>; 2] {
        let xsdt = u64_at(memory, 0xe_0000 + 24);
        assert_eq!(table(memory, xsdt).len(), 36 + 2 * 8);
        [
            table(memory, u64_at(memory, xsdt + 36)),
            table(memory, u64_at(memory, xsdt + 44)),
        ]
    }

    /// A table's header without its checksum.
    fn header(signature: &[u8; 4], len: u32, revision: u8, checksum: u8) -> Vec<u8> {
        let mut header = signature.to_vec();
        header.extend(len.to_le_bytes());
        header.extend([revision, checksum]);
        header.extend(b"IPIRIGTEST RIG\x01\x00\x00\x00");
        header.extend(acpi_tables::CREATOR_ID);
        header.extend(acpi_tables::CREATOR_REVISION);
        header
    }

    #[test]
    fn the_rsdp_is_valid_for_old_and_new_kernels() {
        let memory = written(2);
        let rsdp: [u8; 36] = bytes(&memory, 0xe_0000);
        assert_eq!(rsdp[..8], *b"RSD PTR ");
        assert_eq!(rsdp[9..24], *b"IPIRIG\x02\x00\x00\x00\x00\x24\x00\x00\x00");
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
    }

    #[test]
    fn the_madt_lists_each_cpu_once_and_no_io_apic() {
        let [_, madt] = listed(&written(2));
        let mut expected = header(b"APIC", 44 + 2 * 8, 1, madt[9]);
        expected.extend(b"\x00\x00\xe0\xfe\x00\x00\x00\x00");
        expected.extend(b"\x00\x08\x00\x00\x01\x00\x00\x00");
        expected.extend(b"\x00\x08\x01\x01\x01\x00\x00\x00");
        assert_eq!(madt, expected);
    }

    #[test]
    fn the_fadt_describes_a_hardware_reduced_machine_without_legacy_devices() {
        let memory = written(1);
        let [fadt, _] = listed(&memory);
        let dsdt = u64::from_le_bytes(fadt[140..148].try_into().unwrap());
        let mut expected = header(b"FACP", 276, 6, fadt[9]);
        expected.resize(276, 0);
        expected[109..111].copy_from_slice(&0x24_u16.to_le_bytes());
        expected[112..116].copy_from_slice(&0x0010_1031_u32.to_le_bytes());
        expected[131] = 5;
        expected[140..148].copy_from_slice(&dsdt.to_le_bytes());
        assert_eq!(fadt, expected);

        let dsdt = table(&memory, dsdt);
        assert_eq!(dsdt, header(b"DSDT", 36, 2, dsdt[9]));
    }

    #[test]
    fn the_largest_machine_fits_its_area() {
        let memory = written(layout::MAX_CPUS_U8);
        let [fadt, madt] = listed(&memory);
        assert_eq!((fadt.len(), madt.len()), (276, 44 + 64 * 8));
        let xsdt = u64_at(&memory, 0xe_0000 + 24);
        assert!(xsdt + 52 <= layout::ACPI.end, "{xsdt:#x}");
    }
}
