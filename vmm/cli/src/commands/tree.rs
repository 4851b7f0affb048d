//! `--tree` and `--stock`: the kernel of the user's tree, or one as Debian ships it, in the place of `--kernel` and
//! `--initramfs`. `--vmlinux` and `--symbols`: what says more of the user's kernel than its file.

use std::path::Path;

use ipirig_args::RunOptions;
use ipirig_guest::linux_tree::{self, TreeKernel, TreeRequest};
use ipirig_guest::stock::{self, StockRequest};
use ipirig_machine::check_kernel;
use ipirig_rig::run::SymbolSource;

use crate::failure::Failure;
use crate::progress::Progress;
use crate::say::say;

/// Where names come from.
pub(super) fn symbols(options: &RunOptions) -> SymbolSource {
    match (&options.vmlinux, &options.symbols) {
        (Some(vmlinux), _) => SymbolSource::Vmlinux(vmlinux.clone()),
        (None, Some(text)) => SymbolSource::Text(text.clone()),
        (None, None) => SymbolSource::Kernel,
    }
}

/// Checks what stands in for the kernel's file, as far as names and code go.
fn check_symbols(options: &mut RunOptions) -> Result<(), Failure> {
    let source = symbols(options);
    if let (Some(kernel), Some(_)) = (&options.kernel, source.file()) {
        check_kernel(kernel).map_err(Failure::usage)?;
        options.build_id = source.check(kernel).map_err(Failure::usage)?;
    }
    Ok(())
}

/// Puts the files of `--tree` or `--stock` where those of `--kernel` would be.
pub(super) fn resolve(options: &mut RunOptions) -> Result<(), Failure> {
    if let Some(version) = &options.stock {
        let request = StockRequest {
            version: version.clone(),
            series: options.series,
            ..StockRequest::default()
        };
        let progress = Progress::new(false);
        let kernel = stock::build(&request, &progress)?;
        options.initramfs = Some(stock::initramfs(&kernel, &progress)?.path);
        options.package = Some(format!("{}, {}", kernel.package, kernel.patches()));
        options.kernel = Some(kernel.vmlinux);
        return Ok(());
    }
    let Some(dir) = &options.tree else {
        return check_symbols(options);
    };
    let kernel = find(dir, options.build)?;
    options.kernel = Some(kernel.vmlinux);
    options.initramfs = Some(kernel.initramfs);
    Ok(())
}

/// The kernel of the tree. What it lacks is said: what it costs shows later as `skipped`.
pub(super) fn find(dir: &Path, build: bool) -> Result<TreeKernel, Failure> {
    let request = TreeRequest {
        dir: dir.to_owned(),
        build,
    };
    let kernel = linux_tree::find(&request, &Progress::new(false))?;
    for lack in &kernel.lacks {
        say(&format!("note: {} lacks {lack}\n", kernel.release));
    }
    Ok(kernel)
}
