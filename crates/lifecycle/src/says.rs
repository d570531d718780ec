//! Enums of which each variant says one thing, to people or to programs: variant and text stand side by side, once.
//!
//! ```text
//!   says! { pub enum Outcome { Applied = "applied", … } } ─▶ enum Outcome, Outcome::ALL, as_str, Display
//! ```

/// Defines such an enum. As JSON it is its variant in snake case.
macro_rules! says {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];

            /// What it says.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use says;

#[cfg(test)]
mod tests {
    use crate::{Kind, Outcome, Phase};

    /// Metrics and the journal's lines have `as_str`, JSON the variant.
    fn assert_same<T: Copy + serde::Serialize>(all: &[T], as_str: fn(T) -> &'static str) {
        for word in all {
            assert_eq!(serde_json::to_value(word).unwrap(), as_str(*word));
        }
    }

    #[test]
    fn words_are_the_same_in_json_and_everywhere_else() {
        assert_same(&Kind::ALL, Kind::as_str);
        assert_same(&Outcome::ALL, Outcome::as_str);
        assert_same(&Phase::ALL, Phase::as_str);
    }
}
