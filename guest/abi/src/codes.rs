//! How a set of codes is written down.

/// A word that is none of the codes expected in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCode(pub u32);

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)* }

        impl $name {
            /// Each of them once, in the order in which they stand.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }

        impl TryFrom<u32> for $name {
            type Error = $crate::UnknownCode;
            fn try_from(code: u32) -> Result<Self, $crate::UnknownCode> {
                match code {
                    $($value => Ok(Self::$variant),)*
                    other => Err($crate::UnknownCode(other)),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(code: $name) -> u32 {
                code as u32
            }
        }
    };
}
