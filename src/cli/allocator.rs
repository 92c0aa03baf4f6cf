//! How the C library's allocator is set for this program. Knows one switch of glibc.

/// Gives large pieces of memory back to the system as soon as they are freed, whatever was freed before.
///
/// After the first large piece glibc keeps freed ones instead, and for every thread by itself: a pull of 40 images
/// with a budget of 18 MiB took 26 MB at one worker and 50 at 32; with this, 22 and 23.
#[cfg(target_env = "gnu")]
pub(super) fn set_up() {
    use std::ffi::c_int;

    /// `M_MMAP_THRESHOLD` of malloc.h; setting it also stops glibc from moving it.
    const MMAP_THRESHOLD: c_int = -3;
    /// Less than any buffer; glibc's own first value.
    const BYTES: c_int = 128 << 10;

    unsafe extern "C" {
        fn mallopt(param: c_int, value: c_int) -> c_int;
    }
    // SAFETY: glibc's function, as malloc.h declares it; the program has no other thread yet.
    // If it is refused, the program only takes more memory.
    let _ = unsafe { mallopt(MMAP_THRESHOLD, BYTES) };
}

/// Other C libraries have nothing to set.
#[cfg(not(target_env = "gnu"))]
pub(super) fn set_up() {}
