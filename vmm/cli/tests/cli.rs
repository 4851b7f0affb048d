//! The command line with bad input: exit code, standard output and standard error. Nothing here
//! boots a guest; what does is in `kvm.rs`.

use std::fs;
use std::process::{Command, Output, Stdio};

fn ipirig(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .args(args)
        .output()
        .expect("ipirig starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("ipirig prints UTF-8")
}

/// A command that must end with code 2, nothing on standard output, and these words on standard
/// error.
#[track_caller]
fn refused(args: &[&str], words: &str) {
    let output = ipirig(args);
    let stderr = text(&output.stderr);
    assert!(stderr.contains(words), "{args:?}: {stderr}");
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(2), ""),
        "{stderr}"
    );
}

#[test]
fn list_names_every_scenario_and_succeeds() {
    let output = ipirig(&["list"]);
    assert_eq!(output.status.code(), Some(0));
    let listed = text(&output.stdout);
    // Groups are at the margin, scenarios are not.
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
    let mut files: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "toml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, files);
    assert!(
        listed.contains("\ntlb\n  address-space-switch ") && listed.contains("\nmust-deliver\n"),
        "{listed}"
    );
}

#[test]
fn help_teaches_with_examples_and_exit_codes() {
    let output = ipirig(&["--help"]);
    let help = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for words in [
        "Examples:",
        "ipirig run static-key-flip",
        "Exit codes:",
        "130",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
}

#[test]
fn unknown_scenarios_get_suggestions() {
    refused(
        &["run", "static-key-filp"],
        "no scenario `static-key-filp`: did you mean `static-key-flip`?",
    );
    refused(
        &["run", "xyz"],
        "no scenario `xyz`: there are address-space-switch, bpf-jit, ",
    );
    refused(
        &["run", "--group", "txt"],
        "no group `txt`: there are cpuset, entry, housekeeping, load, must-deliver, text, tlb, tracing",
    );
    refused(
        &["entry", "entry-matrix", "--kind", "nmj"],
        "--kind nmj: there are syscall, page-fault, ",
    );
}

#[test]
fn a_broken_scenario_file_is_shown_with_line_column_and_caret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    let good = "name = \"a\"\ngroup = \"b\"\nsummary = \"c\"\n[storm]\n";
    fs::write(
        &path,
        format!("{good}kind = \"static-key-flip\"\nsise = 1\n"),
    )
    .unwrap();
    let path = path.to_str().unwrap();
    refused(
        &["run", path],
        &format!("{path}:6:1: unknown key `sise`\n  |\n6 | sise = 1\n  | ^^^^"),
    );
    refused(
        &["run", "no/such.toml"],
        "cannot read the scenario no/such.toml: No such file",
    );
}

#[test]
fn two_scenarios_of_one_name_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let built_in = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../scenarios/static-key-flip.toml"
    );
    let text = fs::read_to_string(built_in).unwrap();
    let paths = ["a.toml", "b.toml"].map(|name| {
        let path = dir.path().join(name);
        let mine = text.replace("name = \"static-key-flip\"", "name = \"mine\"");
        fs::write(&path, mine).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let [a, b] = &paths;
    let words = format!("two scenarios are called `mine`: {a} and {b}; give one");
    refused(&["run", a, b], &words);
    refused(&["gate", a, b], &words);
}

#[test]
fn impossible_vcpu_counts_are_usage_errors() {
    refused(
        &["run", "static-key-flip", "--vcpus", "1"],
        "needs at least 2, one control and 1",
    );
    refused(
        &["run", "static-key-flip", "--vcpus", "65"],
        "--vcpus 65: at most 64",
    );
    refused(
        &["run", "static-key-flip", "--vcpus", "-3"],
        "unexpected argument",
    );
    refused(
        &["run", "static-key-flip", "--vcpus", "x"],
        "invalid value 'x' for '--vcpus <N>'",
    );
}

#[test]
fn impossible_options_are_usage_errors() {
    let run = |option, value, words| refused(&["run", "static-key-flip", option, value], words);
    run("--pin", "0,1", "--pin names 2 cores for 3 vCPUs");
    run("--memory", "1", "--memory 1: 64 to 3072 MiB");
    run("--timeout", "0", "--timeout 0: 1 to 86400 seconds");
    run("--append", "a\nb", "has no place in a kernel command line");
    run("--apic", "apic", "invalid value 'apic' for '--apic <APIC>'");
    run(
        "--json",
        "/no/such/dir/r.json",
        "cannot write /no/such/dir/r.json: no such directory",
    );
    run("--json", "/", "cannot write /: it is a directory");
    run(
        "--log",
        "/no/such/dir/log",
        "cannot write /no/such/dir/log: no such directory",
    );
    run("--initramfs", "i", "--kernel <FILE>");
    refused(&["run"], "<SCENARIOS>");
    refused(
        &["entry", "entry-matrix", "--json", "-"],
        "--json -: standard output has the listing",
    );
    refused(&["frobnicate"], "unrecognized subcommand");
}

#[test]
fn what_may_be_skipped_must_be_among_what_is_run() {
    refused(
        &[
            "run",
            "static-key-flip",
            "vunmap-storm",
            "--allow-skipped",
            "all,vunmap-strom",
        ],
        "--allow-skipped: `vunmap-strom` is not among what is run",
    );
}

#[test]
fn kernel_files_that_are_none_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // An ELF header that speaks of a program header table after its end.
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2;
    elf[18] = 62;
    elf[20] = 1;
    elf[32] = 64;
    elf[52] = 64;
    elf[54] = 56;
    elf[56] = 1;
    let cases = [
        (
            file("text", b"This is not a kernel.\n"),
            "neither an ELF vmlinux nor a bzImage",
        ),
        (file("empty", b""), "it is empty"),
        (file("truncated", &elf), "cut off"),
        (dir.path().to_str().unwrap().to_owned(), "it is a directory"),
        ("/no/such/vmlinux".to_owned(), "there is no such file"),
    ];
    for (path, words) in cases {
        refused(&["run", "static-key-flip", "--kernel", &path], words);
        refused(&["run", "static-key-flip", "--kernel", &path], &path);
    }
}

#[test]
fn what_has_no_names_or_those_of_another_kernel_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let run = |option: &str, path: &str, words: &str| {
        let kernel = file("kernel", &vmlinux_header());
        refused(
            &["run", "static-key-flip", "--kernel", &kernel, option, path],
            words,
        );
    };
    let hidden = file("kallsyms", b"0000000000000000 T _text\n");
    run("--symbols", &hidden, "its addresses are all zero");
    let placeholder = b"ffffffffffffffff B The real System.map is in the package x\n";
    run(
        "--symbols",
        &file("System.map", placeholder),
        "it says: The real System.map is in the package x",
    );
    run(
        "--vmlinux",
        &file("text", b"?"),
        "not a 64-bit x86 ELF file",
    );
    let stripped = file("stripped", &vmlinux_header());
    run(
        "--vmlinux",
        &stripped,
        "it has no symbols; a tree that was built",
    );
    refused(
        &["run", "static-key-flip", "--vmlinux", &stripped],
        "--kernel <FILE>",
    );
}

// A command that forgot them would say of the reference kernel what it was asked of another.
#[test]
fn each_command_that_takes_a_tree_or_a_stock_kernel_looks_for_it() {
    for command in [
        &["run", "static-key-flip"][..],
        &["entry", "static-key-flip"],
        &["gate", "static-key-flip"],
        &["blame", "static-key-flip"],
        &["observe"],
        &["sweep", "syscall", "--event", "nmi"],
    ] {
        let with = |option: &'static str, value: &'static str| [command, &[option, value]].concat();
        refused(&with("--tree", "/nonexistent"), "/nonexistent");
        refused(&with("--stock", "../7.2"), "a version is numbers");
    }
    refused(&["mutants", "--tree", "/nonexistent"], "/nonexistent");
}

/// A vmlinux of one segment and no section.
fn vmlinux_header() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0x10_0000_u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    for half in [0_u16, 0, 64, 56, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable: offset, addresses, sizes, alignment.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, 0xffff_ffff_8010_0000_u64, 0x10_0000, 120, 120, 0x20_0000] {
        elf.extend(word.to_le_bytes());
    }
    elf
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .arg("list")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stderr).as_str()),
        (Some(0), "")
    );
}

#[test]
fn pictures_that_cannot_be_written_are_refused_before_the_run() {
    fn run(option: &str, path: &str, words: &str) {
        refused(&["run", "static-key-flip", option, path], words);
    }
    for option in ["--html", "--trace"] {
        run(
            option,
            "/no/such/dir/picture",
            "cannot write /no/such/dir/picture: no such directory",
        );
        run(option, "/", "cannot write /: it is a directory");
        let words = format!("{option} -: standard output has the result; give a file");
        run(option, "-", &words);
    }
}

#[test]
fn what_is_piped_has_no_colour() {
    let output = ipirig(&["list"]);
    assert!(!text(&output.stdout).contains('\x1b'));
}

#[test]
fn reports_that_cannot_be_written_are_refused_before_the_run() {
    let run = |args: &[&str], words| refused(&[&["run", "vmap-stack"], args].concat(), words);
    let twice = "`-` is given twice";
    run(&["--ktap", "-", "--json", "-"], twice);
    run(&["--ktap", "-", "--junit", "-"], twice);
    run(&["--junit", "/no/such/dir/r.xml"], "no such directory");
    run(&["--ktap", "/"], "cannot write /: it is a directory");
}

#[test]
fn a_bisection_is_given_up_where_the_arguments_are_wrong() {
    for args in [
        &["run", "--bisect", "no-such-scenario"][..],
        &["run", "--bisect"],
        &["run", "static-key-flip", "--bisect", "--vcpus", "x"],
        &["run", "static-key-flip", "--bisect", "--kernel", "/no/such"],
    ] {
        assert_eq!(ipirig(args).status.code(), Some(129), "{args:?}");
    }
    assert_eq!(
        ipirig(&["run", "--bisect", "--help"]).status.code(),
        Some(0)
    );
}

#[test]
fn the_schema_that_is_printed_is_the_committed_one() {
    let output = ipirig(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let committed = include_str!("../../../results/schema.json");
    assert_eq!(
        text(&output.stdout),
        committed,
        "renew it: cargo run --release -- schema > results/schema.json"
    );
}

#[test]
fn the_schema_of_audits_is_the_committed_one() {
    let output = ipirig(&["schema", "audit"]);
    assert_eq!(output.status.code(), Some(0));
    let committed = include_str!("../../../results/audit-schema.json");
    assert_eq!(text(&output.stdout), committed);
}

#[test]
fn an_audit_tells_a_file_that_it_cannot_use_from_one_that_lacks_something() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    refused(&["audit", &path("missing")], "cannot read symbols from");
    refused(&["audit", &path("")], "it is not a regular file");
    let json = path("no/such/dir/audit.json");
    refused(
        &["audit", &path("missing"), "--json", &json],
        "no such directory",
    );
    // A compressed kernel; and an ELF file with no kernel in it, which is this test.
    let boot = path("bzImage");
    fs::write(&boot, b"MZ\x00\x00 no ELF file").unwrap();
    let this = std::env::current_exe().unwrap();
    for (file, words) in [
        (boot.as_str(), "give the vmlinux or System.map"),
        (this.to_str().unwrap(), "no symbol `__entry_text_start`"),
    ] {
        let output = ipirig(&["audit", file]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{stderr}");
        assert!(
            output.stdout.is_empty() && stderr.contains(words),
            "{stderr}"
        );
    }
}

/// The names of all commands, as they are typed.
const COMMANDS: [&[&str]; 20] = [
    &["run"],
    &["entry"],
    &["audit"],
    &["blame"],
    &["observe"],
    &["mutants"],
    &["gate"],
    &["compare"],
    &["lab"],
    &["list"],
    &["schema"],
    &["sweep"],
    &["merge"],
    &["doctor"],
    &["completions"],
    &["man"],
    &["guest"],
    &["guest", "build"],
    &["guest", "config"],
    &["guest", "path"],
];

#[test]
fn the_help_of_each_command_has_examples() {
    for command in COMMANDS.iter().filter(|command| *command != &["guest"]) {
        let output = ipirig(&[command, &["--help"][..]].concat());
        let help = text(&output.stdout);
        let (_, examples) = help.split_once("\nExamples:\n").expect("examples");
        let example = format!("  ipirig {}", command.join(" "));
        assert!(examples.contains(&example), "{command:?}: {help}");
    }
}

#[test]
fn each_command_has_a_man_page_and_shells_get_completions() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let output = ipirig(&["man", pages.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut written: Vec<String> = fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    written.sort();
    let mut expected: Vec<String> = COMMANDS
        .iter()
        .map(|command| format!("ipirig-{}.1", command.join("-")))
        .chain(["ipirig.1".to_owned()])
        .collect();
    expected.sort();
    assert_eq!(written, expected);
    let page = fs::read_to_string(pages.join("ipirig-guest-path.1")).unwrap();
    assert!(page.contains(".TH IPIRIG-GUEST-PATH 1"), "{page}");
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&ipirig(&["completions", shell]).stdout);
        assert!(script.contains("deferral"), "{shell}");
    }
    refused(&["completions", "dos"], "invalid value 'dos' for '<SHELL>'");
}

#[test]
fn observations_that_cannot_be_are_refused_before_anything_is_built() {
    refused(&["observe", "--for", "0"], "0 is not in 1..=86400");
    refused(&["observe", "--isolated", "0"], "0 is not in 1..=63");
    refused(
        &["observe", "--isolated", "3", "--vcpus", "3"],
        "--vcpus 3: observe needs at least 4, one control and 3 isolated",
    );
    refused(
        &["observe", "--stock", "7.2", "--kernel", "vmlinux"],
        "cannot be used with",
    );
    refused(
        &["observe", "--html", "-"],
        "--html -: standard output has the result; give a file",
    );
    refused(
        &["observe", "--isolated-cpus", "0-1"],
        "vCPU 0 boots, and runs the command: it cannot be isolated",
    );
    refused(
        &["observe", "--isolated-cpus", "1-"],
        "`1-` is no list of CPUs: `` is no number",
    );
    refused(
        &["observe", "--root", "/nonexistent", "--", "prog"],
        "--root /nonexistent: no such directory",
    );
    refused(
        &["observe", "--file", "/nonexistent/prog", "--", "prog"],
        "cannot read /nonexistent/prog: No such file or directory",
    );
    refused(
        &["observe", "--file", "/etc/hostname:/init", "--", "x"],
        "/init is no place for a file in the guest: ipirig has its own there",
    );
    refused(
        &[
            "guest",
            "build",
            "--stock",
            "7.2",
            "--source",
            "/nonexistent.deb",
        ],
        "/nonexistent.deb: there is no such file",
    );
}
