//! domicile
fn main() {}
