//! domicile-router
fn main() {}
