//! The scenarios that come with the rig. A new one is a file and a line here.

/// File stem and contents, by name.
pub(super) const FILES: [(&str, &str); 3] = [
    (
        "entry-matrix",
        include_str!("../../../../scenarios/entry-matrix.toml"),
    ),
    (
        "static-key-flip",
        include_str!("../../../../scenarios/static-key-flip.toml"),
    ),
    (
        "vunmap-storm",
        include_str!("../../../../scenarios/vunmap-storm.toml"),
    ),
];
