//! Hashes of what goes into a stage.

use std::fmt;
use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::StoreError;

/// Names one possible result of a stage. 128 bits of SHA-256, as lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The first 12 digits: enough for a person and for a file name next to others.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collects the ingredients of a stage.
///
/// Each is hashed with its label and both lengths, so that no two lists of ingredients look alike.
#[derive(Debug)]
pub struct Ingredients(Sha256);

impl Ingredients {
    /// `recipe` is a number that goes up whenever the steps of this stage change.
    pub fn of(stage: &str, recipe: u32) -> Self {
        let mut this = Self(Sha256::new());
        this.add("stage", stage);
        this.add("recipe", &recipe.to_string());
        this
    }

    /// Adds a text, under a label.
    pub fn add(&mut self, label: &str, value: &str) {
        self.bytes(label, value.as_bytes());
    }

    /// Adds what a file has in it, under a label.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if it cannot be read.
    pub fn file(&mut self, label: &str, path: &Path) -> Result<(), StoreError> {
        let content = fs::read(path).map_err(StoreError::io("read", path))?;
        self.bytes(label, &content);
        Ok(())
    }

    /// Adds bytes, under a label.
    pub fn bytes(&mut self, label: &str, value: &[u8]) {
        for part in [label.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// The hash of all that was added, in this order.
    #[must_use]
    pub fn key(self) -> Key {
        let digest = self.0.finalize();
        Key(digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[(&str, &str)]) -> Key {
        let mut ingredients = Ingredients::of("test", 1);
        for (label, value) in parts {
            ingredients.add(label, value);
        }
        ingredients.key()
    }

    #[test]
    fn same_ingredients_give_the_same_key() {
        assert_eq!(
            key(&[("a", "1"), ("b", "2")]),
            key(&[("a", "1"), ("b", "2")])
        );
    }

    #[test]
    fn any_difference_gives_another_key() {
        let keys = [
            key(&[]),
            key(&[("a", "1")]),
            key(&[("a", "2")]),
            key(&[("b", "1")]),
            key(&[("a1", "")]),
            key(&[("", "a1")]),
            key(&[("a", "1"), ("b", "2")]),
            key(&[("b", "2"), ("a", "1")]),
            Ingredients::of("test", 2).key(),
            Ingredients::of("other", 1).key(),
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn a_key_is_a_plain_file_name() {
        let key = key(&[("a", "1")]).to_string();
        assert_eq!(key.len(), 32);
        assert!(key.bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
    }
}
