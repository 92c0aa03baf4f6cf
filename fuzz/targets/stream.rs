//! Gives libFuzzer the function of this name.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| cfs_dag_fuzz::stream(data));
