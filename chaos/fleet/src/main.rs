//! domicile-chaos
fn main() {}
