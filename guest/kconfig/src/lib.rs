//! What the configuration of a kernel (a `.config`, Documentation/kbuild/kconfig.rst) says, and what it must have
//! for the rig.
//!
//! What this crate does not do: run Kconfig, or know a kernel's version.

#![forbid(unsafe_code)]

pub mod requirements;

use std::collections::BTreeMap;

/// The value of `name` in a `.config`, without quotes.
#[must_use]
pub fn value(config: &str, name: &str) -> Option<String> {
    Some((*options(config).get(name)?)?.trim_matches('"').to_owned())
}

/// Name and value of each option of a `.config` or a fragment of one; `None` is `# CONFIG_X is not set`, and `CONFIG_X=n` alike.
#[must_use]
pub fn options(text: &str) -> BTreeMap<&str, Option<&str>> {
    let mut options = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix("# ")
            .and_then(|l| l.strip_suffix(" is not set"))
        {
            options.insert(name, None);
        } else if let Some((name, value)) = line.split_once('=')
            && name.starts_with("CONFIG_")
        {
            options.insert(name, Some(value).filter(|value| *value != "n"));
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_read_without_its_quotes() {
        let config = "CONFIG_CC_VERSION_TEXT=\"gcc (Debian) 12.2.0\"\n# CONFIG_B is not set\n";
        assert_eq!(
            value(config, "CONFIG_CC_VERSION_TEXT").as_deref(),
            Some("gcc (Debian) 12.2.0")
        );
        assert_eq!(value(config, "CONFIG_B"), None);
        assert_eq!(value(config, "CONFIG_C"), None);
    }
}
