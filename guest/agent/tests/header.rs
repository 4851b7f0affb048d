//! The module's header and its Rust mirror say the same.

use std::error::Error;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use ipirig_abi::module::{
    JOIN, LET_GO, LetGo, MAX_CPA_PAGES, MAX_HUGE_PAGES, MAX_IOREMAP_PAGES, MAX_PAGES, MAX_REPEAT,
    MAX_STAY_MS, MEMBERS, MOVE, Members, Move, PROBE, PURGE, Probe, RELAY, STAY, Stay, TRIGGER,
    Trigger,
};
use ipirig_abi::{Needs, StormKind};

/// One `name value` a line, as the C compiler sees the header.
fn from_header(expressions: &[String]) -> Result<Vec<String>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (source, program) = (dir.path().join("print.c"), dir.path().join("print"));
    let prints: String = expressions
        .iter()
        .map(|what| format!("printf(\"{what} %llu\\n\", (unsigned long long)({what}));\n"))
        .collect();
    let text = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"ipirig.h\"\n\
         int main(void)\n{{\n{prints}return 0;\n}}\n"
    );
    std::fs::write(&source, text)?;
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../module");
    let cc = Command::new("cc")
        .args(["-Wall", "-Werror", "-I"])
        .args([&module, &source])
        .arg("-o")
        .arg(&program)
        .output()?;
    if !cc.status.success() {
        return Err(String::from_utf8_lossy(&cc.stderr).into());
    }
    let printed = String::from_utf8(Command::new(&program).output()?.stdout)?;
    Ok(printed.lines().map(str::to_owned).collect())
}

macro_rules! layout {
    ($out:ident, $c:literal, $rust:ident { $($field:ident),* }) => {
        $out.push((format!("sizeof(struct {})", $c), size_of::<$rust>() as u64));
        $($out.push((
            format!("offsetof(struct {}, {})", $c, stringify!($field)),
            offset_of!($rust, $field) as u64,
        ));)*
    };
}

#[test]
#[cfg_attr(
    not(has_cc),
    ignore = "no C compiler with <linux/ioctl.h>: install gcc and libc6-dev"
)]
fn the_header_and_its_mirror_agree_on_every_number_size_and_place() {
    let mut mirror = vec![
        ("IPIRIG_MAX_REPEAT".to_owned(), MAX_REPEAT),
        ("IPIRIG_MAX_PAGES".to_owned(), MAX_PAGES.into()),
        ("IPIRIG_MOVE".to_owned(), MOVE.into()),
        ("IPIRIG_PROBE".to_owned(), PROBE.into()),
        ("IPIRIG_MAX_CPA_PAGES".to_owned(), MAX_CPA_PAGES.into()),
        ("IPIRIG_MAX_HUGE_PAGES".to_owned(), MAX_HUGE_PAGES.into()),
        (
            "IPIRIG_MAX_IOREMAP_PAGES".to_owned(),
            MAX_IOREMAP_PAGES.into(),
        ),
        ("IPIRIG_MAX_STAY_MS".to_owned(), MAX_STAY_MS.into()),
        ("IPIRIG_TRIGGER".to_owned(), TRIGGER.into()),
        ("IPIRIG_STAY".to_owned(), STAY.into()),
        ("IPIRIG_LET_GO".to_owned(), LET_GO.into()),
        ("IPIRIG_PURGE".to_owned(), PURGE.into()),
        ("IPIRIG_JOIN".to_owned(), JOIN.into()),
        ("IPIRIG_RELAY".to_owned(), RELAY.into()),
        ("IPIRIG_MEMBERS".to_owned(), MEMBERS.into()),
    ];
    for &kind in StormKind::ALL {
        let row = kind.properties();
        if let Needs::Trigger { .. } = row.needs {
            let name = row.name.to_uppercase().replace('-', "_");
            mirror.push((format!("IPIRIG_{name}"), u32::from(kind).into()));
        }
    }
    layout!(
        mirror,
        "ipirig_trigger",
        Trigger {
            count,
            done,
            value,
            kind,
            size,
            target,
            text_poke,
            text_mutex
        }
    );
    layout!(mirror, "ipirig_stay", Stay { limit_ms, asleep });
    layout!(mirror, "ipirig_members", Members { cpu, count });
    layout!(mirror, "ipirig_let_go", LetGo { staying, reserved });
    layout!(
        mirror,
        "ipirig_move",
        Move {
            word,
            attempts,
            reserved
        }
    );
    layout!(
        mirror,
        "ipirig_probe",
        Probe {
            alias,
            branch,
            cpu,
            nmis,
            reserved
        }
    );

    let names: Vec<String> = mirror.iter().map(|(name, _)| name.clone()).collect();
    let expected: Vec<String> = mirror
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    assert_eq!(from_header(&names).unwrap(), expected);
}
