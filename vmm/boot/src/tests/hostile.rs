//! Kernel files made to break the loader.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A good file with some bytes overwritten: gets further than noise does.
fn damaged(file: Vec<u8>, header: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(0xff), Just(0x7f), any::<u8>()];
    (
        vec((0..header, byte), 0..6),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(move |(damage, len, cut)| {
            let mut file = file.clone();
            for (offset, byte) in damage {
                file[offset] = byte;
            }
            file.truncate(if cut {
                len.index(file.len())
            } else {
                file.len()
            });
            file
        })
}

fn hostile_elf() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(0x1000),
        0..0x2000_u64,
        0x100_0000..0x500_0000_u64,
        any::<u64>()
    ];
    let numbers = prop::array::uniform5(number.clone());
    let kind = prop_oneof![Just(LOAD), Just(LOAD), Just(NOTE), any::<u32>()];
    let segment = (kind, numbers).prop_map(
        |(kind, [offset, virt, phys, file_size, memory_size])| Segment {
            kind,
            offset,
            virt,
            phys,
            file_size,
            memory_size,
        },
    );
    (prop_oneof![Just(0x100_0000), number], vec(segment, 0..4)).prop_map(|(entry, mut segments)| {
        segments.push(TEXT);
        elf(entry, &segments)
    })
}

proptest! {
    #[test]
    fn no_file_makes_loading_panic_or_reach_out_of_memory(
        file in prop_oneof![
            vec(any::<u8>(), 0..2048),
            damaged(vmlinux(), 120),
            damaged(bzimage(|_| {}), 0x26c),
            hostile_elf(),
        ]
    ) {
        let bench = Bench::new();
        let checked = bench.check(&file);
        match bench.load(&file) {
            Ok(loaded) => {
                prop_assert_eq!(checked.unwrap(), loaded.format);
                prop_assert!(loaded.kernel.start >= 0x10_0000);
                prop_assert!(loaded.kernel.end <= loaded.initramfs.start);
                prop_assert!(loaded.initramfs.end <= RAM_END);
                prop_assert!(loaded.kernel.contains(&loaded.entry));
            }
            Err(error) => {
                let expected = matches!(
                    error,
                    BootError::Kernel { .. }
                        | BootError::Initramfs { .. }
                        | BootError::CmdlineTooLong { .. }
                );
                prop_assert!(expected, "{error:?}");
            }
        }
    }
}
