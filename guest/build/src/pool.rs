//! The list of kernel sources that apt may not offer but Debian's pool has (`guest/kernel/stock/pool`).

use crate::source::Source;

/// The package of a version.
pub(crate) fn name(version: &str) -> String {
    format!("linux-source-{version}")
}

/// Reads the list of what is in Debian's pool. An error has the line, from 1, and what is wrong.
pub(crate) fn pool(text: &str) -> Result<Vec<Source>, (usize, &'static str)> {
    let mut sources = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [version, package, size, sha256, place] = words[..] else {
            return Err((number, "it has not five words"));
        };
        let hex = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hex {
            return Err((number, "the fourth word is no SHA-256"));
        }
        let file = place.rsplit('/').next().unwrap_or_default();
        if !place.starts_with("pool/") || !file.ends_with(".deb") {
            return Err((number, "the fifth word is no package in the pool"));
        }
        sources.push(Source {
            name: name(version),
            pool: Some(place.to_owned()),
            own: None,
            file: file.to_owned(),
            package: package.to_owned(),
            sha256: sha256.to_owned(),
            size: size
                .parse()
                .map_err(|_| (number, "the third word is no size"))?,
        });
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn pool_s_lines_are_read_and_each_wrong_one_is_named() {
        let sha = "a".repeat(64);
        let good = format!("# remark\n\n7.2 7.2.1-1 12 {sha} pool/y/linux-source_1_all.deb\n");
        let sources = pool(&good).expect("read");
        let [source] = &sources[..] else {
            panic!("{sources:?}")
        };
        assert_eq!(
            (
                &source.name[..],
                &source.package[..],
                source.size,
                &source.file[..]
            ),
            ("linux-source-7.2", "7.2.1-1", 12, "linux-source_1_all.deb")
        );
        for (line, reason) in [
            ("7.2 7.2.1-1 12", "it has not five words"),
            (
                "7.2 7.2.1-1 12 abc pool/y.deb",
                "the fourth word is no SHA-256",
            ),
            (
                &format!("7.2 7.2.1-1 big {sha} pool/y.deb")[..],
                "the third word is no size",
            ),
            (
                &format!("7.2 7.2.1-1 12 {sha} http://x/y.deb")[..],
                "the fifth word is no package in the pool",
            ),
        ] {
            assert_eq!(pool(&format!("#\n{line}\n")), Err((2, reason)));
        }
    }

    #[test]
    fn list_that_is_shipped_can_be_read() {
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/stock/pool");
        let sources = pool(&fs::read_to_string(list).expect("read")).expect("parsed");
        assert!(
            sources
                .iter()
                .any(|source| source.name == "linux-source-7.2")
        );
    }
}
