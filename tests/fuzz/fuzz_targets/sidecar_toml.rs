#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| smtp_direct_fuzz::sidecar_toml::check(data));
