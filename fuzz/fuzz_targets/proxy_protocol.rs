#![no_main]

use domicile_chaos_input::proxy_protocol::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
