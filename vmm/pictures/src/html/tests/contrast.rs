//! The style sheet's colours against the Web Content Accessibility Guidelines: 4.5 to 1 for text, 3 to
//! 1 for what a picture is read by (WCAG 2.2, 1.4.3 and 1.4.11), in both schemes.

use std::collections::BTreeMap;

const STYLE: &str = include_str!("../../../templates/style.css");

/// Red, green, blue and opacity, from 0 to 1.
type Colour = [f64; 4];

/// The colours that the block which begins at `from` defines.
fn colours(from: &str) -> BTreeMap<String, Colour> {
    let block = STYLE[STYLE.find(from).unwrap()..]
        .split('}')
        .next()
        .unwrap();
    let pairs = block.split(';').filter_map(|line| {
        let (name, value) = line.rsplit_once("--")?.1.split_once(": #")?;
        let byte = |at: usize| {
            let byte = value.get(at..at + 2).unwrap_or("ff");
            f64::from(u8::from_str_radix(byte, 16).unwrap()) / 255.0
        };
        Some((name.to_owned(), [byte(0), byte(2), byte(4), byte(6)]))
    });
    pairs.collect()
}

fn over(top: Colour, below: Colour) -> Colour {
    let mut mixed = [1.0; 4];
    for channel in 0..3 {
        mixed[channel] = top[channel] * top[3] + below[channel] * (1.0 - top[3]);
    }
    mixed
}

fn luminance(colour: Colour) -> f64 {
    let linear = |c: f64| {
        if c <= 0.04045 {
            c / 12.92
        } else {
            ((c + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2])
}

fn contrast(a: Colour, b: Colour) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn the_measure_is_right() {
    let (black, white) = ([0.0, 0.0, 0.0, 1.0], [1.0; 4]);
    assert!((contrast(black, white) - 21.0).abs() < 1e-9);
    // #777777 is known to fail on white by a hair.
    let grey = [119.0 / 255.0, 119.0 / 255.0, 119.0 / 255.0, 1.0];
    assert!((contrast(grey, white) - 4.48).abs() < 0.01);
}

#[test]
fn text_and_pictures_can_be_told_from_what_is_behind_them() {
    for scheme in [":root {", "@media (prefers-color-scheme: dark)"] {
        let colours = colours(scheme);
        let colour = |name: &str| {
            *colours
                .get(name)
                .unwrap_or_else(|| panic!("{scheme} {name}"))
        };
        let paper = colour("paper");
        let backgrounds = ["paper", "faint", "accent-soft"].map(|name| over(colour(name), paper));
        for text in ["ink", "muted"] {
            for background in backgrounds {
                assert!(contrast(colour(text), background) >= 4.5, "{scheme} {text}");
            }
        }
        for text in ["accent", "held", "violated", "error", "skipped"] {
            assert!(contrast(colour(text), paper) >= 4.5, "{scheme} {text}");
        }
        for cell in ["h1", "h2", "h3", "h4", "h5"] {
            let cell = over(colour(cell), paper);
            assert!(contrast(colour("ink"), cell) >= 4.5, "{scheme} {cell:?}");
        }
        for shape in ["accent", "other", "muted"] {
            for background in backgrounds {
                assert!(
                    contrast(colour(shape), background) >= 3.0,
                    "{scheme} {shape}"
                );
            }
        }
    }
}
