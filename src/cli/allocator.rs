//! Memory: how the C library's allocator is set for this program, and what is said when there is no more.
//! Knows one switch of glibc.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
};

/// Gives large pieces of memory back to the system as soon as they are freed, whatever was freed before.
///
/// After the first large piece glibc keeps freed ones instead, and for every thread by itself: a pull of 40
/// images with a budget of 18 MiB took 26 MB at one worker and 50 at 32; with this, 22 and 23.
#[cfg(target_env = "gnu")]
pub(super) fn set_up() {
    use std::ffi::c_int;

    /// Setting it also stops glibc from moving it. Less than any buffer; glibc's own first value.
    const BYTES: c_int = 128 << 10;

    // SAFETY: the program has no other thread yet.
    // If it is refused, the program only takes more memory.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, BYTES) };
}

/// Other C libraries have nothing to set.
#[cfg(not(target_env = "gnu"))]
pub(super) fn set_up() {}

/// The system's allocator, for a program that has to end in clear words when memory is refused
/// (`ulimit -v`, a system without overcommit): the standard library would abort. That is as lawful as a
/// kill: what is committed stays.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: all is the system's allocator's, which keeps its own promises; what it refuses is never given back.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as our caller promised.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as our caller promised.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as our caller promised.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as our caller promised.
        given(unsafe { System.realloc(memory, layout, size) }, size)
    }
}

fn given(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() { refused(size) } else { memory }
}

#[cold]
fn refused(size: usize) -> ! {
    use std::sync::atomic::{AtomicBool, Ordering};
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        // Neither may ask for memory.
        let mut line = [0; 256];
        let mut rest = &mut line[..];
        let _ = writeln!(
            rest,
            "cfs-dag: cannot allocate memory: {size} bytes more are refused: raise the limit (ulimit -v, or \
             that of the \
             control group), or ask for less (--memory, --jobs)"
        );
        let left = rest.len();
        let len = line.len() - left;
        // Whatever lock the standard library's own stderr has may be held.
        // SAFETY: the bytes are there until it returns.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), len) };
    }
    // SAFETY: ends the process at once, and runs nothing of ours.
    unsafe { libc::_exit(super::Exit::Failed as i32) }
}
