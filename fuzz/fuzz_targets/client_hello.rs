#![no_main]

use domicile_chaos_input::client_hello::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
