//! What the limits share: a mapped file, huge pages, 16-byte keys and their hash.
//!
//! A limit, not a model: it knows its one input, trusts it, bounds nothing and runs on one kind of processor.

use std::os::fd::AsRawFd;

/// A read-only file map with one readable guard page behind it (so 64-byte loads at the end are safe).
pub struct Map {
    p: *mut u8,
    pub len: usize,
    whole: usize,
}
unsafe impl Sync for Map {}
unsafe impl Send for Map {}
impl Map {
    pub fn open(path: &str) -> Map {
        let f = std::fs::File::open(path).unwrap();
        let len = f.metadata().unwrap().len() as usize;
        let whole = (len + 4095) / 4096 * 4096 + 4096;
        unsafe {
            let p = libc::mmap(std::ptr::null_mut(), whole, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            assert!(p != libc::MAP_FAILED);
            if len > 0 {
                let q = libc::mmap(p, len, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_FIXED, f.as_raw_fd(), 0);
                assert!(q != libc::MAP_FAILED);
                libc::madvise(p, len, libc::MADV_SEQUENTIAL);
            }
            Map { p: p as *mut u8, len, whole }
        }
    }
}
impl std::ops::Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        unsafe { std::slice::from_raw_parts(self.p, self.len) }
    }
}
impl Drop for Map {
    fn drop(&mut self) {
        unsafe {
            libc::munmap(self.p as *mut _, self.whole);
        }
    }
}

/// Zeroed memory asked for in huge pages.
pub struct Huge<T> {
    p: *mut T,
    pub n: usize,
}
unsafe impl<T: Send> Send for Huge<T> {}
unsafe impl<T: Sync> Sync for Huge<T> {}
impl<T: Copy> Huge<T> {
    pub fn zeroed(n: usize) -> Self {
        unsafe {
            let b = (n * std::mem::size_of::<T>()).max(4096);
            let p = libc::mmap(std::ptr::null_mut(), b, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            assert!(p != libc::MAP_FAILED);
            if b >= 2 << 20 {
                libc::madvise(p, b, libc::MADV_HUGEPAGE);
            }
            Huge { p: p as *mut T, n }
        }
    }
}
impl<T> std::ops::Deref for Huge<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        unsafe { std::slice::from_raw_parts(self.p, self.n) }
    }
}
impl<T> std::ops::DerefMut for Huge<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.p, self.n) }
    }
}
impl<T> Drop for Huge<T> {
    fn drop(&mut self) {
        unsafe {
            libc::munmap(self.p as *mut _, (self.n * std::mem::size_of::<T>()).max(4096));
        }
    }
}

pub fn cpu_s() -> f64 {
    unsafe {
        let mut r: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut r);
        r.ru_utime.tv_sec as f64 + r.ru_utime.tv_usec as f64 / 1e6 + r.ru_stime.tv_sec as f64 + r.ru_stime.tv_usec as f64 / 1e6
    }
}
pub fn maxrss_mib() -> i64 {
    unsafe {
        let mut r: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut r);
        r.ru_maxrss / 1024
    }
}

static MASKS: [u8; 32] = {
    let mut m = [0u8; 32];
    let mut i = 0;
    while i < 16 {
        m[i] = 0xFF;
        i += 1
    }
    m
};
/// first `len` (<=16) bytes at p as two zero-padded u64; reads 16 bytes.
#[inline(always)]
pub unsafe fn load16(p: *const u8, len: usize) -> (u64, u64) {
    use std::arch::x86_64::*;
    let v = _mm_loadu_si128(p as *const __m128i);
    let m = _mm_loadu_si128(MASKS.as_ptr().add(16 - len) as *const __m128i);
    let v = _mm_and_si128(v, m);
    (_mm_cvtsi128_si64(v) as u64, _mm_cvtsi128_si64(_mm_unpackhi_epi64(v, v)) as u64)
}
#[inline(always)]
pub fn mix(lo: u64, hi: u64) -> u64 {
    let m = ((lo ^ 0x9E3779B97F4A7C15) as u128).wrapping_mul((hi ^ 0xE7037ED1A0B428DB) as u128);
    let h = (m as u64) ^ ((m >> 64) as u64);
    h ^ (h >> 29)
}
#[inline(always)]
pub unsafe fn prefetch<T>(p: *const T) {
    std::arch::x86_64::_mm_prefetch(p as *const i8, std::arch::x86_64::_MM_HINT_T0)
}
