//! Zeroed memory straight from the system, in huge pages where it has them.
//!
//! Tables and buffers are large, live long and are touched at random: with 4 KiB pages, every probe would miss the TLB too.
//! Memory that is given back is gone at once, so what the budget counts is what the process has.

use std::io;
use std::ptr::NonNull;

/// From this size on, huge pages are asked for.
#[cfg(not(any(miri, shardmill_sanitize)))]
const HUGE: usize = 2 << 20;

/// A region of zeroed, writable memory that belongs to its owner alone.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the region is plain memory with one owner; nothing in it is tied to the thread that asked for it.
unsafe impl Send for Pages {}
// SAFETY: a shared `Pages` gives out its address only; who writes through that has to argue for it there.
unsafe impl Sync for Pages {}

impl Pages {
    /// Asks the system for `bytes` zeroed bytes, at least one page.
    pub(crate) fn zeroed(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(4096).next_multiple_of(4096);
        #[cfg(not(any(miri, shardmill_sanitize)))]
        {
            // A huge page lies at a multiple of its size: more is asked for, and what lies beside is given back untouched.
            let slack = if bytes >= HUGE { HUGE } else { 0 };
            // SAFETY: a private anonymous mapping at an address of the system's choice aliases nothing.
            let mapped = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    bytes + slack,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANON,
                    -1,
                    0,
                )
            };
            if mapped == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let before = if slack > 0 { mapped.addr().next_multiple_of(HUGE) - mapped.addr() } else { 0 };
            let start = mapped.wrapping_byte_add(before);
            if slack > 0 {
                // SAFETY: all three ranges lie in the mapping made above, in whole pages, and the first and last are not used.
                // The advice may be refused, and small pages do.
                unsafe {
                    if before > 0 {
                        libc::munmap(mapped, before);
                    }
                    if before < slack {
                        libc::munmap(start.wrapping_byte_add(bytes), slack - before);
                    }
                    #[cfg(target_os = "linux")]
                    libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
                }
            }
            Ok(Self { start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?, bytes })
        }
        #[cfg(any(miri, shardmill_sanitize))]
        {
            let layout = std::alloc::Layout::from_size_align(bytes, 4096).map_err(|_| io::ErrorKind::OutOfMemory)?;
            // SAFETY: the layout's size is not zero.
            let start = unsafe { std::alloc::alloc_zeroed(layout) };
            Ok(Self { start: NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?, bytes })
        }
    }

    /// No memory at all.
    pub(crate) fn none() -> Self {
        Self { start: NonNull::dangling(), bytes: 0 }
    }

    /// The first byte; valid for `bytes()` bytes, aligned to a page.
    #[inline(always)]
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The region's size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        #[cfg(not(any(miri, shardmill_sanitize)))]
        // SAFETY: the mapping was made by `zeroed` with this size, and nobody else unmaps it.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.bytes)
        };
        #[cfg(any(miri, shardmill_sanitize))]
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe {
            std::alloc::dealloc(self.start.as_ptr(), std::alloc::Layout::from_size_align_unchecked(self.bytes, 4096))
        };
    }
}
