#![no_main]

use domicile_chaos_input::regions_toml::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
