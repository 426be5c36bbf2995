//! regions.toml: read in its short and long form, with every mistake reported at once.
