//! What `--help` of each command ends with: examples, and what its exit codes mean.

pub(super) const AFTER: &str = "\
Examples:
  ipirig doctor                              what this host offers
  ipirig list                                the scenarios
  ipirig run static-key-flip                 build the guest if need be, run, judge
  ipirig run static-key-flip --deferral off  see what a stock kernel does
  ipirig run vunmap-storm --json result.json
  ipirig run static-key-flip --tree ~/linux  a kernel of your own
  ipirig entry entry-matrix                  what the CPU executes, entry kind by entry kind
  ipirig sweep syscall --event nmi           an NMI at each instruction of the system call entry
  ipirig gate all                            is everything as it was?
  ipirig blame vunmap-storm --deferral off   who interrupts isolated CPUs, and why
  ipirig audit vmlinux                       is its entry code fit? nothing is booted
  ipirig mutants                             break the kernel on purpose: is it noticed?
  ipirig observe -- load fork bpf net        who interrupts an isolated CPU meanwhile?
  ipirig lab -- run static-key-flip          without /dev/kvm: on an emulated host

Exit codes:
  0  held: isolated CPUs were left alone (or the command did its work)
  1  violated: they were not
  2  what was given is wrong: arguments, scenario or kernel file
  3  error: guest or rig failed, so the rig cannot tell
  4  skipped: host or kernel lacks what is needed, by one of several runs as well (see run's
     --allow-skipped)
  130  ended by Ctrl-C";

pub(super) const AFTER_ENTRY: &str = "\
Examples:
  ipirig entry static-key-flip               the system call after the window
  ipirig entry entry-matrix --kind nmi,timer
  ipirig entry vunmap-storm --whole --kernel ~/linux/vmlinux | less

An instruction is a line: number, address, disassembly, the memory it touches, and marks (flag
set, catch-up, first instrumentable code, user page table, flag cleared). What should not be there
is on a line of its own that begins with an exclamation mark. The run's checks go to standard
error.";

pub(super) const AFTER_OBSERVE: &str = "\
Examples:
  ipirig observe --tree ~/linux -- load fork bpf net
  ipirig observe --stock 7.2 -- load
  ipirig observe --stock 7.2 --for 120 -- load --rounds 5 fork bpf net
  ipirig observe --kernel bzImage --file ./bench:/bin/bench -- bench --fast
  ipirig observe --kernel vmlinux --isolated 2 --max-ipis 0 -- load idle

The command runs in the guest, on the vCPUs that are not isolated. It is a program that --file (or
your own initramfs) brings along, linked statically, or `load` and the names of loads, which end
after N rounds each with `load --rounds N`; `load` alone says which ones the kernel offers.
Nothing is judged unless --max-ipis is given. Exit code 0: the observation is complete; 1:
--max-ipis was exceeded; 3: something was lost, or the guest failed.";

pub(super) const AFTER_BLAME: &str = "\
Examples:
  ipirig blame static-key-flip --deferral off
  ipirig blame vunmap-storm --deferral off --to all --folded ipis.folded
  ipirig blame result.json                   a result that `ipirig run --json` wrote
  flamegraph.pl ipis.folded > ipis.svg

For each IPI in the window, the calls that led the sender to it, innermost first, by the kernel's
ORC tables or frame pointers; and the cause that they stand for. Deferrable: a CPU in user space
could do the work at its next kernel entry. Exit code 0 if there is an account, whatever it says.";

pub(super) const AFTER_MUTANTS: &str = "\
Examples:
  ipirig mutants                             all, after the reference kernel
  ipirig mutants flag-after-cr3 never-skips
  ipirig mutants --survivors                 also run those that nothing is expected to notice

A mutant is guest/kernel/mutants/NAME.patch on top of the series; it says which checks must notice
it. A run that ends as `error`, such as a boot that takes too long, is tried once more. Exit code
0: each of them did, and the reference kernel held; 1: one survived; 3: a run was `error` twice.
The first time a kernel tree is built and kept (some minutes, 1.7 GB); each mutant then takes
seconds to a minute to build, and comes from the cache afterwards.";

pub(super) const AFTER_RUN: &str = "\
Examples:
  ipirig run static-key-flip
  ipirig run static-key-flip --vcpus 2 --apic xapic
  ipirig run all                             every scenario, in one table
  ipirig run all --allow-skipped bpf-jit,kprobe-toggle
  ipirig run --group must-deliver --deferral off
  ipirig run vunmap-storm --pin 0,0,1 --json - | jq .verdict
  ipirig run static-key-flip --deferral off --html report.html --trace trace.json
  ipirig run static-key-flip --deferral off --cross-check
  ipirig run static-key-flip --kernel stripped --initramfs initramfs.cpio --isolation-only
  ipirig run static-key-flip --kernel bzImage --append 'loglevel=7' --console
  ipirig run --group text --ktap - | tools/testing/kunit/kunit.py parse
  ipirig run all --junit report.xml
  ipirig run all --flavour rt                the reference kernel with PREEMPT_RT
  ipirig run all --stock 7.2                 Debian's source of 7.2, which defers nothing
  ipirig run all --tree ~/linux              the kernel built there, and a module for it
  git bisect run ipirig run static-key-flip --bisect --tree . --build

In a workflow on GitHub (GITHUB_ACTIONS=true) what is not held becomes an annotation, and the
results a table in the summary.

The first run builds the reference kernel, which takes some minutes; later runs find it in the
cache. With --kernel and without --initramfs the guest gets the agent but no module, and what
needs the module is skipped. Without symbols (a bzImage, a stripped vmlinux) it cannot be told
whether deferred work was done, and a run is skipped, unless --isolation-only says that isolation
alone is wanted.";

pub(super) const AFTER_GATE: &str = "\
Examples:
  ipirig gate all                            run the catalogue: is everything as it was?
  ipirig gate --group text --group tlb --junit report.xml
  ipirig gate vunmap-storm --deferral off
  ipirig gate all --from yesterday.json      compare what `run --json` wrote; nothing is run
  ipirig gate all --accept                   what is now, is right: rewrite the baselines
  ipirig gate all --kernel vmlinux --baseline my/baselines --accept

A baseline is a file a scenario (and one more with --deferral off): results/baseline/README.md
says what it has. It is of the scenario as it is, without --vcpus or --append.

Exit codes:
  0  all as it was
  1  something changed
  2  what was given is wrong, or a baseline is missing
  3, 4  a run was `error` or `skipped`, so nothing can be said of the kernel";

pub(super) const AFTER_COMPARE: &str = "\
Examples:
  ipirig run all --json a.json
  ipirig run all --json b.json --kernel ~/linux/vmlinux --initramfs initramfs.cpio
  ipirig compare a.json b.json

Counts that vary from run to run may differ by as much as in a new baseline.

Exit codes:
  0  the same
  1  something differs, or only one file has a scenario
  2  a file cannot be read
  3, 4  a run was `error` or `skipped`, so nothing can be said of the kernel";

pub(super) const AFTER_AUDIT: &str = "\
Examples:
  ipirig audit vmlinux                       is the entry code fit for deferred IPIs?
  ipirig audit vmlinux --json audit.json
  ipirig audit --json - /usr/lib/debug/boot/vmlinux-$(uname -r) | jq .offences

Nothing is booted. Entry text is followed as it is patched with page table isolation, from each
entry point: is the flag by which senders decide set before the kernel's page table is loaded, and
cleared after the user's is? Static keys, static calls and traced functions in entry and noinstr
text are listed, and which of them can change at run time. Where pointers lead is not known, nor
whether a write to CR3 flushes: `ipirig entry` shows that of a run.

Exit codes:
  0  nothing found
  1  offences
  2  the file cannot be read or is damaged
  4  something cannot be told, or the file is no ELF file, is stripped or has no code";

pub(super) const AFTER_SCHEMA: &str = "\
Examples:
  ipirig schema > schema.json
  ipirig schema audit                        of `ipirig audit --json`
  ipirig schema scenario                     of a scenario file, for an editor
  ipirig schema sweep                        of `ipirig sweep --json`
  ipirig run all --json result.json; check-jsonschema --schemafile schema.json result.json";

pub(super) const AFTER_COMPLETIONS: &str = "\
Examples:
  ipirig completions bash > ~/.local/share/bash-completion/completions/ipirig
  ipirig completions zsh > ~/.zfunc/_ipirig
  ipirig completions fish > ~/.config/fish/completions/ipirig.fish";

pub(super) const AFTER_MAN: &str = "\
Examples:
  ipirig man ~/.local/share/man/man1";

pub(super) const AFTER_LIST: &str = "\
Examples:
  ipirig list";

pub(super) const AFTER_DOCTOR: &str = "\
Examples:
  ipirig doctor                              exit code 0: runs are possible, 4: they are not";

pub(super) const AFTER_BUILD: &str = "\
Examples:
  ipirig guest build
  ipirig guest build --flavour tracing --jobs 4
  ipirig guest build --update                with the newest linux-source package
  ipirig guest build --install-tools         for a script; CI=true does the same

What building needs and is missing is named, with the command that installs it. As root on a
terminal you are asked whether to install it.";

pub(super) const AFTER_CONFIG: &str = "\
Examples:
  ipirig guest config > ipirig.config
  cd ~/linux && scripts/kconfig/merge_config.sh .config ~/ipirig.config

Each option has the reason that it is asked for. Where one of several would do, all are named.";

pub(super) const AFTER_PATH: &str = "\
Examples:
  ipirig guest path
  ipirig guest path --tree ~/linux           what `run --tree ~/linux` runs
  ipirig guest path --patch guest/kernel/mutants/never-skips.patch
  gdb \"$(ipirig guest path | sed -n 's/^kernel *//p')\"";
