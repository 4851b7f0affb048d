//! The router alone: who is meant by which ICR.

use ipirig_apic::{
    Addressing, CpuSet, DeliveryMode, Icr, Ipi, LogicalModel, Mode, Shorthand, route,
};

const FLAT: Addressing = Addressing {
    software_enabled: true,
    ..Addressing::POWER_UP
};

fn set<const N: usize>(cpus: [usize; N]) -> CpuSet {
    cpus.into_iter().collect()
}

/// Four CPUs with flat logical ids 1, 2, 4, 8.
fn flat() -> [Addressing; 4] {
    [1, 2, 4, 8].map(|logical_id| Addressing { logical_id, ..FLAT })
}

fn xapic(cpus: &[Addressing], command: u32, destination: u32) -> CpuSet {
    route(1, Icr::from_xapic(command, destination << 24), cpus).targets
}

fn x2apic(cpus: &[Addressing], command: u32, destination: u32) -> CpuSet {
    let icr = Icr::from_x2apic(u64::from(destination) << 32 | u64::from(command));
    route(1, icr, cpus).targets
}

#[test]
fn an_ipi_says_everything_that_the_write_meant() {
    assert_eq!(
        route(1, Icr::from_xapic(0x0000_40fb, 0x0300_0000), &flat()),
        Ipi {
            vector: 0xfb,
            mode: DeliveryMode::Fixed,
            shorthand: Shorthand::None,
            source: 1,
            targets: set([3]),
            undeliverable: false,
        }
    );
}

#[test]
fn physical_destinations_are_apic_ids() {
    assert_eq!(xapic(&flat(), 0x40fb, 0), set([0]));
    assert_eq!(xapic(&flat(), 0x40fb, 1), set([1]));
    assert_eq!(xapic(&flat(), 0x40fb, 4), CpuSet::EMPTY);
    assert_eq!(xapic(&flat(), 0x40fb, 0xff), CpuSet::all(4));
    assert_eq!(x2apic(&flat(), 0x40fb, 2), set([2]));
    assert_eq!(x2apic(&flat(), 0x40fb, 0xff), CpuSet::EMPTY);
    assert_eq!(x2apic(&flat(), 0x40fb, 0x102), CpuSet::EMPTY);
    assert_eq!(x2apic(&flat(), 0x40fb, u32::MAX), CpuSet::all(4));
}

#[test]
fn flat_logical_destinations_are_sets_of_bits() {
    assert_eq!(xapic(&flat(), 0x48fb, 0b1010), set([1, 3]));
    assert_eq!(xapic(&flat(), 0x48fb, 0b1_0000), CpuSet::EMPTY);
    assert_eq!(xapic(&flat(), 0x48fb, 0), CpuSet::EMPTY);
    assert_eq!(xapic(&[FLAT; 2], 0x48fb, 0xff), CpuSet::all(2));
    assert_eq!(x2apic(&flat(), 0x48fb, 0x100 | 0b1010), CpuSet::EMPTY);
}

#[test]
fn cluster_logical_destinations_are_a_cluster_and_four_bits() {
    let cpus = [0x01, 0x02, 0x11, 0x12, 0x14].map(|logical_id| Addressing {
        logical_id,
        model: LogicalModel::Cluster,
        ..FLAT
    });
    assert_eq!(xapic(&cpus, 0x48fb, 0x03), set([0, 1]));
    assert_eq!(xapic(&cpus, 0x48fb, 0x15), set([2, 4]));
    assert_eq!(xapic(&cpus, 0x48fb, 0x21), CpuSet::EMPTY);
    assert_eq!(xapic(&cpus, 0x48fb, 0x10), CpuSet::EMPTY);
    assert_eq!(xapic(&cpus, 0x48fb, 0xff), CpuSet::all(5));
}

#[test]
fn a_reserved_model_answers_to_broadcast_only() {
    let cpus = [Addressing {
        logical_id: 0xff,
        model: LogicalModel::Reserved,
        ..FLAT
    }];
    assert_eq!(xapic(&cpus, 0x48fb, 0x7f), CpuSet::EMPTY);
    assert_eq!(xapic(&cpus, 0x48fb, 0xff), set([0]));
}

#[test]
fn x2apic_logical_destinations_are_a_cluster_and_sixteen_bits() {
    let cpus = [Addressing {
        mode: Mode::X2Apic,
        ..FLAT
    }; 40];
    assert_eq!(x2apic(&cpus, 0x48fb, 0x0000_8001), set([0, 15]));
    assert_eq!(x2apic(&cpus, 0x48fb, 0x0001_0003), set([16, 17]));
    assert_eq!(x2apic(&cpus, 0x48fb, 0x0002_ffff), (32..40).collect());
    assert_eq!(x2apic(&cpus, 0x48fb, 0x0003_ffff), CpuSet::EMPTY);
    assert_eq!(x2apic(&cpus, 0x48fb, 0x0001_0000), CpuSet::EMPTY);
    assert_eq!(x2apic(&cpus, 0x48fb, u32::MAX), CpuSet::all(40));
}

#[test]
fn each_target_of_a_mixed_machine_matches_by_its_own_mode() {
    let mut cpus = flat();
    cpus[3].mode = Mode::X2Apic;
    // CPU 3's xAPIC id was 8, which is its x2APIC bit too; CPU 2 answers to bit 2 in either mode.
    cpus[2] = Addressing {
        mode: Mode::X2Apic,
        logical_id: 1,
        ..FLAT
    };
    assert_eq!(xapic(&cpus, 0x48fb, 0b1101), set([0, 2, 3]));
    assert_eq!(xapic(&cpus, 0x48fb, 0b0001), set([0]));
}

#[test]
fn shorthands_ignore_the_destination() {
    assert_eq!(xapic(&flat(), 0x0004_40fb, 3), set([1]));
    assert_eq!(xapic(&flat(), 0x0008_40fb, 3), CpuSet::all(4));
    assert_eq!(xapic(&flat(), 0x000c_40fb, 3), CpuSet::all(4).without(1));
}

#[test]
fn lowest_priority_picks_one_and_the_lowest_id_of_equals() {
    let mut cpus = flat();
    for (cpu, priority) in cpus.iter_mut().zip([0x50, 0x30, 0x20, 0x20]) {
        cpu.priority = priority;
    }
    assert_eq!(xapic(&cpus, 0x49fb, 0b0011), set([1]));
    assert_eq!(xapic(&cpus, 0x49fb, 0b1111), set([2]));
    assert_eq!(xapic(&cpus, 0x000c_49fb, 0), set([2]));
    cpus[2].software_enabled = false;
    assert_eq!(xapic(&cpus, 0x49fb, 0b1111), set([3]));
    assert_eq!(xapic(&cpus, 0x49fb, 0b0100), CpuSet::EMPTY);
}

#[test]
fn disabled_apics_take_what_the_sdm_says() {
    let mut cpus = flat();
    cpus[2].software_enabled = false;
    cpus[3].mode = Mode::Disabled;
    let to_all = |mode: u32| xapic(&cpus, 0x0008_4020 | mode << 8, 0);
    let results: Vec<CpuSet> = [0, 1, 2, 4, 5, 6].map(to_all).into();
    let (enabled, present) = (set([0, 1]), set([0, 1, 2]));
    assert_eq!(
        results,
        [enabled, set([0]), present, present, present, present]
    );
    assert_eq!(xapic(&cpus, 0x4420, 3), CpuSet::EMPTY);
}

#[test]
fn messages_without_effect_have_no_targets() {
    let ipi = |command| {
        let ipi = route(0, Icr::from_xapic(command, 0x0100_0000), &flat());
        (ipi.mode, ipi.targets, ipi.undeliverable)
    };
    assert_eq!(
        ipi(0x8500),
        (DeliveryMode::InitDeassert, CpuSet::EMPTY, false)
    );
    assert_eq!(
        ipi(0x4300),
        (DeliveryMode::Reserved(3), CpuSet::EMPTY, true)
    );
    assert_eq!(
        ipi(0x4700),
        (DeliveryMode::Reserved(7), CpuSet::EMPTY, true)
    );
    assert_eq!(ipi(0x400f), (DeliveryMode::Fixed, CpuSet::EMPTY, true));
    assert_eq!(
        ipi(0x410f),
        (DeliveryMode::LowestPriority, CpuSet::EMPTY, true)
    );
    assert_eq!(ipi(0x460f), (DeliveryMode::Startup, set([1]), false));
}

#[test]
fn a_source_or_a_machine_out_of_range_is_harmless() {
    let icr = Icr::from_x2apic(0x000c_40fb);
    assert_eq!(route(usize::MAX, icr, &flat()).targets, CpuSet::all(4));
    assert_eq!(
        route(0, icr, &[FLAT; 100]).targets,
        CpuSet::all(64).without(0)
    );
    assert!(route(0, icr, &[]).undeliverable);
}
