//! Word count by hand: `words IN OUT THREADS`.
//!
//! AVX2 scan, 16-byte keys inside the slots of a table in huge pages, probes prefetched 16 behind, `pread` into private
//! buffers. A word is a stretch of bytes above 0x20. Writes `OUT.<partition>`, unsorted; prints words and distinct words.
//!
//! A limit, not a model: it knows its one input, trusts it, bounds nothing and runs on one kind of processor.

use super::memory::*;
use std::arch::x86_64::*;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Slot {
    lo: u64,
    hi: u64,
    h: u64,
    n: u64,
}
struct Table {
    s: Huge<Slot>,
    mask: usize,
    used: usize,
    long: hashbrown::HashMap<Box<[u8]>, u64, foldhash::fast::RandomState>,
    words: u64,
    ring: [(u64, u64, u64); 32],
    rh: usize,
}
impl Table {
    fn new(cap: usize) -> Self {
        Table { s: Huge::zeroed(cap), mask: cap - 1, used: 0, long: Default::default(), words: 0, ring: [(0, 0, 0); 32], rh: 0 }
    }
    #[inline(always)]
    fn add(&mut self, lo: u64, hi: u64, h: u64, n: u64) {
        let mut i = h as usize & self.mask;
        unsafe {
            loop {
                let s = self.s.get_unchecked_mut(i);
                if s.lo == lo && s.hi == hi && s.n != 0 {
                    s.n += n;
                    return;
                }
                if s.n == 0 {
                    *s = Slot { lo, hi, h, n };
                    self.used += 1;
                    if self.used * 2 > self.mask {
                        self.grow()
                    }
                    return;
                }
                i = (i + 1) & self.mask;
            }
        }
    }
    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let cap = (self.mask + 1) * 4;
        let old = std::mem::replace(&mut self.s, Huge::zeroed(cap));
        self.mask = cap - 1;
        for s in old.iter() {
            if s.n != 0 {
                let mut i = s.h as usize & self.mask;
                while self.s[i].n != 0 {
                    i = (i + 1) & self.mask
                }
                self.s[i] = *s;
            }
        }
    }
    #[inline(always)]
    unsafe fn word(&mut self, p: *const u8, len: usize) {
        self.words += 1;
        if len <= 16 {
            let (lo, hi) = load16(p, len);
            let h = mix(lo, hi);
            prefetch(self.s.as_ptr().add(h as usize & self.mask));
            let k = self.rh & 31;
            self.rh += 1;
            let o = (k + 16) & 31;
            *self.ring.get_unchecked_mut(k) = (lo, hi, h);
            let (a, b, c) = *self.ring.get_unchecked(o);
            if c | a != 0 {
                self.add(a, b, c, 1)
            }
        } else {
            self.long_word(std::slice::from_raw_parts(p, len))
        }
    }
    #[cold]
    #[inline(never)]
    fn long_word(&mut self, w: &[u8]) {
        if let Some(c) = self.long.get_mut(w) {
            *c += 1
        } else {
            self.long.insert(w.into(), 1);
        }
    }
    fn flush(&mut self) {
        for i in 0..16 {
            let j = (self.rh.wrapping_sub(16).wrapping_add(i)) & 31;
            let (a, b, c) = self.ring[j];
            if a | c != 0 {
                self.add(a, b, c, 1)
            }
        }
        self.ring = [(0, 0, 0); 32];
        self.rh = 0;
    }
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn scan(&mut self, base: *const u8, len: usize) {
        let sp = _mm256_set1_epi8(0x20);
        let mut start = 0usize;
        let mut i = 0usize;
        while i < len {
            let a = _mm256_loadu_si256(base.add(i) as *const __m256i);
            let b = _mm256_loadu_si256(base.add(i + 32) as *const __m256i);
            let ma = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(a, sp), a)) as u32 as u64;
            let mb = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(b, sp), b)) as u32 as u64;
            let mut m = ma | (mb << 32);
            if len - i < 64 {
                m &= (1u64 << (len - i)) - 1
            }
            while m != 0 {
                let p = i + m.trailing_zeros() as usize;
                m &= m - 1;
                if p > start {
                    self.word(base.add(start), p - start)
                }
                start = p + 1;
            }
            i += 64;
        }
        if len > start {
            self.word(base.add(start), len - start)
        }
    }
}
fn ws(c: u8) -> bool {
    c <= 0x20
}
fn count(path: &str, out: &str, t: usize) -> (u64, u64) {
    let t0 = std::time::Instant::now();
    let f = std::fs::File::open(path).unwrap();
    let len = f.metadata().unwrap().len() as usize;
    let next = AtomicUsize::new(0);
    let tabs: Vec<Table> = std::thread::scope(|s| {
        let hs: Vec<_> = (0..t)
            .map(|_| {
                s.spawn(|| {
                    let mut tb = Table::new(1 << 16);
                    use std::os::unix::fs::FileExt;
                    const RB: usize = 1 << 20;
                    const TAIL: usize = 64 << 10;
                    let mut buf = vec![0u8; RB + TAIL + 128];
                    loop {
                        let c = next.fetch_add(1, Relaxed);
                        let lo = c * RB;
                        if lo >= len {
                            break;
                        }
                        let from = lo.saturating_sub(1);
                        let want = RB + TAIL / 16 + (lo - from);
                        let want = want.min(len - from);
                        f.read_exact_at(&mut buf[..want], from as u64).unwrap();
                        let mut s = lo - from;
                        if s > 0 {
                            while s < want && !ws(buf[s - 1]) {
                                s += 1
                            }
                        }
                        let mut e = (lo - from + RB).min(want);
                        while e < want && !ws(buf[e - 1]) {
                            e += 1
                        }
                        if s < e {
                            unsafe { tb.scan(buf.as_ptr().add(s), e - s) }
                        }
                    }
                    tb.flush();
                    tb
                })
            })
            .collect();
        hs.into_iter().map(|h| h.join().unwrap()).collect()
    });
    let words = tabs.iter().map(|t| t.words).sum();
    let t1 = t0.elapsed().as_secs_f64();
    let tabs = &tabs;
    let distinct = std::thread::scope(|s| {
        let hs: Vec<_> = (0..t)
            .map(|p| {
                s.spawn(move || {
                    let cap = (tabs.iter().map(|t| t.used).max().unwrap() * 4 / t).next_power_of_two().max(1024);
                    let mut m = Table::new(cap);
                    for tb in tabs {
                        for sl in tb.s.iter() {
                            if sl.n != 0 && ((sl.h >> 40) as usize) % t == p {
                                m.add(sl.lo, sl.hi, sl.h, sl.n)
                            }
                        }
                    }
                    let mut lm: hashbrown::HashMap<&[u8], u64, foldhash::fast::RandomState> = Default::default();
                    if p == 0 {
                        for tb in tabs {
                            for (k, n) in &tb.long {
                                *lm.entry(k).or_insert(0) += n
                            }
                        }
                    }
                    // write
                    let mut f = std::fs::File::create(format!("{out}.{p}")).unwrap();
                    let mut b: Vec<u8> = Vec::with_capacity(1 << 20);
                    let mut emit = |k: &[u8], mut n: u64, b: &mut Vec<u8>| {
                        if b.len() + k.len() + 32 > 1 << 20 {
                            f.write_all(b).unwrap();
                            b.clear()
                        }
                        b.extend_from_slice(k);
                        b.push(b'\t');
                        let mut d = [0u8; 20];
                        let mut i = 20;
                        while {
                            i -= 1;
                            d[i] = b'0' + (n % 10) as u8;
                            n /= 10;
                            n > 0
                        } {}
                        b.extend_from_slice(&d[i..]);
                        b.push(b'\n');
                    };
                    for sl in m.s.iter() {
                        if sl.n != 0 {
                            let mut k = [0u8; 16];
                            k[..8].copy_from_slice(&sl.lo.to_le_bytes());
                            k[8..].copy_from_slice(&sl.hi.to_le_bytes());
                            let l = 16 - (u128::from_le_bytes(k).leading_zeros() / 8) as usize;
                            emit(&k[..l], sl.n, &mut b)
                        }
                    }
                    for (k, n) in &lm {
                        emit(k, *n, &mut b)
                    }
                    f.write_all(&b).unwrap();
                    (m.used + lm.len()) as u64
                })
            })
            .collect();
        hs.into_iter().map(|h| h.join().unwrap()).sum()
    });
    eprintln!("  scan {t1:.3} s, merge+write {:.3} s", t0.elapsed().as_secs_f64() - t1);
    (words, distinct)
}
pub fn main(a: &[String]) {
    let t: usize = a[3].parse().unwrap();
    let t0 = std::time::Instant::now();
    let (w, d) = count(&a[1], &a[2], t);
    let s = t0.elapsed().as_secs_f64();
    let len = std::fs::metadata(&a[1]).unwrap().len() as f64;
    println!("words threads={t} words={w} distinct={d} wall={s:.3}s cpu={:.2}s rss={}MiB {:.3} GB/s", cpu_s(), maxrss_mib(), len / 1e9 / s);
}
