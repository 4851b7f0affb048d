//! The kernel configuration: fragments, and whether Kconfig took them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::configuration::Configuration;
use crate::error::LostOption;
use crate::{Flavour, GuestError};
use ipirig_kconfig::options;
use ipirig_store::Ingredients;

/// The fragment that turns the reference series on.
const DEFERRAL: &str = "deferral.config";

/// What the fragments ask for that not all configurations have.
fn own_text(dir: &Path, of: Configuration) -> Result<String, GuestError> {
    let read = |name| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(GuestError::io("read", path))
    };
    of.own_fragments().iter().map(read).collect()
}

/// The fragments of a configuration: those that all have, in the order of their names, then its own. A
/// later one overrides an earlier one.
#[derive(Debug)]
pub(crate) struct Fragments {
    pub(crate) dir: PathBuf,
    pub(crate) of: Configuration,
    text: String,
    /// What the finished configuration must have.
    required: String,
}

impl Fragments {
    /// Reads `DIR/*.config`, but for others' own.
    pub(crate) fn read(dir: &Path, of: Configuration) -> Result<Self, GuestError> {
        let somebodys_own = |path: &Path| {
            let mut own = Flavour::ALL
                .into_iter()
                .flat_map(|flavour| Configuration::from(flavour).own_fragments());
            path.file_name()
                .is_some_and(|name| own.any(|own| name == *own))
        };
        let does_without = |path: &Path| {
            let mut names = of.left_out().iter();
            path.file_name()
                .is_some_and(|file| names.any(|name| file == *name))
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).map_err(GuestError::io("list", dir))? {
            let path = entry.map_err(GuestError::io("list", dir))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "config")
                && !somebodys_own(&path)
                && !does_without(&path)
            {
                files.push(path);
            }
        }
        files.sort();
        files.extend(of.own_fragments().iter().map(|name| dir.join(name)));
        let mut text = String::new();
        for file in files {
            text.push_str(&fs::read_to_string(&file).map_err(GuestError::io("read", &file))?);
            text.push('\n');
        }
        let required = match of {
            // Of many versions: options came and went. What its own fragment asks for, it is for.
            Configuration::Stock => own_text(dir, of)?,
            Configuration::Patched => {
                let switch = dir.join(DEFERRAL);
                let switch = fs::read_to_string(&switch).map_err(GuestError::io("read", switch))?;
                own_text(dir, of)? + &switch
            }
            // What it knows is its own matter; what the rig must have is `requirements`'.
            Configuration::Tree => String::new(),
            _ => text.clone(),
        };
        Ok(Self {
            dir: dir.to_owned(),
            of,
            text,
            required,
        })
    }

    /// Its own fragment alone, for a kernel that has nothing in common with the guests'.
    pub(crate) fn alone(dir: &Path, of: Configuration) -> Result<Self, GuestError> {
        let text = own_text(dir, of)?;
        Ok(Self {
            dir: dir.to_owned(),
            of,
            required: text.clone(),
            text,
        })
    }

    /// With those that source of one version needs besides, `DIR/stock/VERSION.config`, if there are any.
    pub(crate) fn of_version(mut self, version: &str) -> Result<Self, GuestError> {
        let file = self.dir.join("stock").join(format!("{version}.config"));
        match fs::read_to_string(&file) {
            Ok(text) => {
                self.text.push_str(&text);
                self.required.push_str(&text);
                Ok(self)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(self),
            Err(error) => Err(GuestError::io("read", file)(error)),
        }
    }

    pub(crate) fn add_to(&self, ingredients: &mut Ingredients) {
        ingredients.add("config", &self.text);
    }

    /// What `KCONFIG_ALLCONFIG` should name.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The options that `finished`, a `.config`, does not have as it must.
    pub(crate) fn lost(&self, finished: &str) -> Vec<LostOption> {
        Self::missed(&self.required, finished)
    }

    /// The options that it does not have as asked, although nothing depends on them.
    pub(crate) fn passed_over(&self, finished: &str) -> Vec<LostOption> {
        if self.of == Configuration::Tree {
            return Vec::new();
        }
        let required = options(&self.required);
        let mut missed = Self::missed(&self.text, finished);
        missed.retain(|option| !required.contains_key(&option.name[..]));
        missed
    }

    fn missed(asked: &str, finished: &str) -> Vec<LostOption> {
        let got = options(finished);
        let mut lost = Vec::new();
        for (name, wanted) in options(asked) {
            // Not set and not visible are the same.
            let got = got.get(name).copied().flatten();
            if got != wanted {
                lost.push(LostOption {
                    name: name.to_owned(),
                    wanted: wanted.map(str::to_owned),
                    got: got.map(str::to_owned),
                });
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("written");
        }
        dir
    }

    fn fragments(files: &[(&str, &str)]) -> Fragments {
        Fragments::read(directory(files).path(), Flavour::Fast.into()).expect("read")
    }

    /// Those of the reference kernel.
    fn reference(flavour: Flavour) -> Fragments {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/config");
        Fragments::read(&config, flavour.into()).expect("read")
    }

    #[test]
    fn fragments_are_joined_by_name_and_other_files_left_out() {
        let joined = fragments(&[
            ("20-b.config", "CONFIG_B=y"),
            ("10-a.config", "CONFIG_A=y"),
            ("README.md", "CONFIG_C=y"),
        ]);
        assert_eq!(joined.text(), "CONFIG_A=y\nCONFIG_B=y\n");
    }

    #[test]
    fn own_fragment_of_a_flavour_comes_last_and_is_in_no_other() {
        let dir = directory(&[
            ("z.config", "CONFIG_Z=y"),
            ("tracing.config", "CONFIG_T=y"),
            ("rt.config", "CONFIG_R=y"),
            ("a.config", "CONFIG_A=y"),
        ]);
        let text = |flavour: Flavour| {
            let fragments = Fragments::read(dir.path(), flavour.into()).expect("read");
            fragments.text().to_owned()
        };
        assert_eq!(text(Flavour::Fast), "CONFIG_A=y\nCONFIG_Z=y\n");
        assert_eq!(
            text(Flavour::Tracing),
            "CONFIG_A=y\nCONFIG_Z=y\nCONFIG_T=y\n"
        );
        assert_eq!(
            text(Flavour::Rt),
            "CONFIG_A=y\nCONFIG_Z=y\nCONFIG_T=y\nCONFIG_R=y\n"
        );
    }

    #[test]
    fn flavour_whose_own_fragment_is_missing_is_an_error_that_names_it() {
        let dir = directory(&[("a.config", "CONFIG_A=y")]);
        let error = Fragments::read(dir.path(), Flavour::Tracing.into()).expect_err("not there");
        let missing = dir.path().join("tracing.config");
        assert!(
            error.to_string().contains(&missing.display().to_string()),
            "{error}"
        );
    }

    #[test]
    fn tracing_turns_on_what_fast_leaves_off_and_turns_nothing_off() {
        let (fast, tracing) = (reference(Flavour::Fast), reference(Flavour::Tracing));
        let (fast, tracing) = (options(fast.text()), options(tracing.text()));
        let overruled: Vec<_> = fast
            .iter()
            .filter(|(name, value)| tracing[*name] != **value)
            .collect();
        assert_eq!(
            overruled,
            [
                (&"CONFIG_BPF_SYSCALL", &None),
                (&"CONFIG_FTRACE", &None),
                (&"CONFIG_NET", &None),
                (&"CONFIG_X86_MCE", &None),
            ]
        );
        // What scenarios toggle and the cross-check reads.
        for name in [
            "EVENT_TRACING",
            "FUNCTION_TRACER",
            "DYNAMIC_FTRACE",
            "KPROBE_EVENTS",
            "HIST_TRIGGERS",
            "SYNTH_EVENTS",
            "BPF_JIT",
            "UNIX",
        ] {
            let name = format!("CONFIG_{name}");
            assert_eq!(tracing.get(&name[..]), Some(&Some("y")), "{name}");
            assert_eq!(fast.get(&name[..]).copied().flatten(), None, "{name}");
        }
    }

    #[test]
    fn options_that_came_out_differently_are_named() {
        let wanted = fragments(&[(
            "a.config",
            "# a remark\nCONFIG_KEPT=y\nCONFIG_GONE=y\n# CONFIG_OFF is not set\nCONFIG_N=n\n\
             # CONFIG_UNKNOWN is not set\nCONFIG_CHANGED=100\nCONFIG_NAME=\"x\"\n",
        )]);
        let finished = "CONFIG_KEPT=y\nCONFIG_OFF=y\n# CONFIG_N is not set\n\
                        CONFIG_CHANGED=200\nCONFIG_NAME=\"x\"\nCONFIG_MORE=y\n";
        let lost: Vec<_> = wanted
            .lost(finished)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            lost,
            [
                "CONFIG_CHANGED (wanted 100, is 200)",
                "CONFIG_GONE (wanted y, is not set)",
                "CONFIG_OFF (wanted not set, is y)",
            ]
        );
    }

    #[test]
    fn stock_source_need_not_have_more_than_its_own_fragment_asks_for() {
        let dir = directory(&[
            ("base.config", "CONFIG_A=y\nCONFIG_B=y\n"),
            ("compat.config", "CONFIG_C=y"),
            ("deferral.config", "CONFIG_D=y"),
        ]);
        fs::create_dir(dir.path().join("stock")).expect("created");
        fs::write(
            dir.path().join("stock/stock.config"),
            "# CONFIG_B is not set\nCONFIG_N=y\n",
        )
        .expect("written");
        let stock = Fragments::read(dir.path(), Configuration::Stock).expect("read");
        assert_eq!(
            stock.text(),
            "CONFIG_A=y\nCONFIG_B=y\n\n# CONFIG_B is not set\nCONFIG_N=y\n\n"
        );
        let names = |lost: Vec<LostOption>| {
            let names = lost.into_iter().map(|option| option.name);
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(stock.lost("CONFIG_B=y\n")), ["CONFIG_B", "CONFIG_N"]);
        assert_eq!(names(stock.passed_over("CONFIG_B=y\n")), ["CONFIG_A"]);
        assert_eq!(names(stock.lost("CONFIG_N=y\n")), Vec::<String>::new());
    }

    #[test]
    fn later_fragment_overrides_an_earlier_one() {
        let wanted = fragments(&[("1.config", "CONFIG_A=y"), ("2.config", "CONFIG_A=n")]);
        assert_eq!(wanted.lost("# CONFIG_A is not set\n"), []);
        assert_eq!(wanted.lost("CONFIG_A=y\n").len(), 1);
    }
}
