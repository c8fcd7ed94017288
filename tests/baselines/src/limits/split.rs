//! The words of a line for [`emit`](super::emit), by 64-bit masks of white space.
//!
//! A limit, not a model.

use std::arch::x86_64::*;
#[inline(always)]
unsafe fn m16(p: *const u8) -> (u32, u32) {
    let c = _mm_loadu_si128(p as *const __m128i);
    let sp = _mm_cmpeq_epi8(c, _mm_set1_epi8(0x20));
    let d = _mm_sub_epi8(c, _mm_set1_epi8(9));
    let r = _mm_cmpeq_epi8(_mm_min_epu8(d, _mm_set1_epi8(4)), d);
    (_mm_movemask_epi8(_mm_or_si128(sp, r)) as u32, _mm_movemask_epi8(c) as u32)
}
#[inline(always)]
unsafe fn l16(p: *const u8) -> u32 {
    let c = _mm_loadu_si128(p as *const __m128i);
    let d = _mm_sub_epi8(c, _mm_set1_epi8(0xE1u8 as i8));
    let r = _mm_cmpeq_epi8(_mm_min_epu8(d, _mm_set1_epi8(2)), d);
    _mm_movemask_epi8(_mm_or_si128(r, _mm_cmpeq_epi8(c, _mm_set1_epi8(0xC2u8 as i8)))) as u32
}
#[inline(always)]
unsafe fn m32(p: *const u8) -> (u32, u32) {
    let a = m16(p);
    let b = m16(p.add(16));
    (a.0 | b.0 << 16, a.1 | b.1 << 16)
}
/// non-ASCII block: are there bytes that may begin (or, from the block before, continue) a white space character?
#[inline(never)]
fn uni(s: &[u8], off: usize) -> u64 {
    unsafe {
        let n = s.len();
        let a = off.saturating_sub(2);
        let e = (off + 64).min(n);
        let p = s.as_ptr();
        let mut i = a;
        while i + 16 <= e {
            if l16(p.add(i)) != 0 {
                return uni_slow(s, off);
            }
            i += 16
        }
        while i < e {
            if matches!(s[i], 0xC2 | 0xE1..=0xE3) {
                return uni_slow(s, off);
            }
            i += 1
        }
        0
    }
}
/// exact whitespace bits for the non-ASCII characters of s[off..off+64]
#[cold]
#[inline(never)]
fn uni_slow(s: &[u8], off: usize) -> u64 {
    let mut m = 0u64;
    let a = off.saturating_sub(2);
    let e = (off + 64).min(s.len());
    for i in a..e {
        let n = match s[i] {
            0xC2 if i + 1 < s.len() && (s[i + 1] == 0x85 || s[i + 1] == 0xA0) => 2,
            0xE1 if s[i + 1] == 0x9A && s[i + 2] == 0x80 => 3,
            0xE2 if (s[i + 1] == 0x80 && (matches!(s[i + 2], 0x80..=0x8A) || matches!(s[i + 2], 0xA8 | 0xA9 | 0xAF)))
                || (s[i + 1] == 0x81 && s[i + 2] == 0x9F) =>
            {
                3
            }
            0xE3 if s[i + 1] == 0x80 && s[i + 2] == 0x80 => 3,
            _ => 0,
        };
        for k in i..i + n {
            if k >= off && k < off + 64 {
                m |= 1 << (k - off)
            }
        }
    }
    m
}
/// whitespace mask of the (up to) 64 bytes at off; bits beyond the end are set at the end position only
#[inline(always)]
fn mask64(s: &[u8], off: usize) -> u64 {
    unsafe {
        let p = s.as_ptr();
        let n = s.len();
        let r = n - off;
        if r >= 64 {
            let a = m32(p.add(off));
            let b = m32(p.add(off + 32));
            let mut m = a.0 as u64 | (b.0 as u64) << 32;
            if (a.1 | b.1) != 0 {
                m |= uni(s, off)
            }
            m
        } else {
            let (mut m, h) = if n >= 32 {
                if r > 32 {
                    let a = m32(p.add(off));
                    let b = m32(p.add(n - 32));
                    let sh = 64 - r;
                    (a.0 as u64 | (((b.0 as u64) << 32) >> sh), a.1 | b.1)
                } else {
                    let b = m32(p.add(n - 32));
                    ((b.0 as u64) >> (32 - r), b.1)
                }
            } else {
                short(s)
            };
            if h != 0 {
                m |= uni(s, off)
            }
            m
        }
    }
}
#[inline(never)]
fn short(s: &[u8]) -> (u64, u32) {
    unsafe {
        let n = s.len();
        if n >= 16 {
            let a = m16(s.as_ptr());
            let b = m16(s.as_ptr().add(n - 16));
            (a.0 as u64 | ((b.0 as u64) << (n - 16)), a.1 | b.1)
        } else {
            let mut t = [b'x'; 16];
            t[..n].copy_from_slice(s);
            let a = m16(t.as_ptr());
            (a.0 as u64, a.1)
        }
    }
}
pub struct Words<'a> {
    s: &'a str,
    off: usize,
    start: usize,
    m: u64,
}
#[inline(always)]
fn full(s: &str, off: usize) -> u64 {
    let n = s.len();
    let mut m = if off < n { mask64(s.as_bytes(), off) } else { 0 };
    if n - off < 64 {
        m |= 1 << (n - off)
    }
    m
}
#[inline(always)]
pub fn words(s: &str) -> Words<'_> {
    Words { s, off: 0, start: 0, m: full(s, 0) }
}
impl<'a> Iterator for Words<'a> {
    type Item = &'a str;
    #[inline(always)]
    fn fold<B, F: FnMut(B, &'a str) -> B>(self, b: B, mut f: F) -> B {
        let Words { s, mut off, mut start, mut m } = self;
        let n = s.len();
        let mut acc = b;
        loop {
            while m != 0 {
                let p = off + m.trailing_zeros() as usize;
                m &= m - 1;
                if p > start {
                    acc = f(acc, unsafe { s.get_unchecked(start..p) })
                }
                start = p + 1;
            }
            if n - off < 64 {
                return acc;
            }
            off += 64;
            m = full(s, off);
        }
    }
    #[inline(always)]
    fn next(&mut self) -> Option<&'a str> {
        loop {
            while self.m != 0 {
                let p = self.off + self.m.trailing_zeros() as usize;
                self.m &= self.m - 1;
                let st = self.start;
                self.start = p + 1;
                if p > st {
                    return Some(unsafe { self.s.get_unchecked(st..p) });
                }
            }
            if self.s.len() - self.off < 64 {
                return None;
            }
            self.off += 64;
            self.m = full(self.s, self.off);
        }
    }
}
