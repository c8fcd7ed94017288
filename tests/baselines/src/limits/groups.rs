//! Group-by over the generated CSV by hand: `groups q1|q2 IN OUT THREADS`.
//!
//! Two passes, exact for quoted newlines: the parity of quotes per chunk, then SIMD masks of separators with a carry-less
//! prefix xor for the quotes.
//!
//! A limit, not a model: it knows its one input, trusts it, bounds nothing and runs on one kind of processor.

use super::memory::*;
use std::arch::x86_64::*;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
const CH: usize = 2 << 20;
#[target_feature(enable = "avx2,popcnt")]
unsafe fn quotes(d: &[u8]) -> u64 {
    let q = _mm256_set1_epi8(b'"' as i8);
    let mut n = 0u64;
    let mut i = 0;
    while i + 32 <= d.len() {
        n += (_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256(d.as_ptr().add(i) as *const _), q)) as u32).count_ones() as u64;
        i += 32
    }
    while i < d.len() {
        n += (d[i] == b'"') as u64;
        i += 1
    }
    n
}
#[inline(always)]
unsafe fn eq(a: __m256i, b: __m256i, c: u8) -> u64 {
    let v = _mm256_set1_epi8(c as i8);
    _mm256_movemask_epi8(_mm256_cmpeq_epi8(a, v)) as u32 as u64 | ((_mm256_movemask_epi8(_mm256_cmpeq_epi8(b, v)) as u32 as u64) << 32)
}
/// calls row(base, &ends) with the 10 separator positions of each row starting in [s, e)
#[target_feature(enable = "avx2,bmi1,bmi2,pclmulqdq,popcnt,lzcnt")]
unsafe fn rows(d: &[u8], s: usize, e: usize, mut row: impl FnMut(*const u8, usize, &[usize; 10])) {
    // s is a row start, e a row start or the end
    let base = d.as_ptr();
    let mut i = s;
    let mut carry = 0u64;
    let mut st = s;
    let mut ends = [0usize; 10];
    let mut f = 0usize;
    while i < e {
        let a = _mm256_loadu_si256(base.add(i) as *const _);
        let b = _mm256_loadu_si256(base.add(i + 32) as *const _);
        let q = eq(a, b, b'"');
        let inside = if q != 0 || carry != 0 {
            let x = _mm_cvtsi128_si64(_mm_clmulepi64_si128(_mm_set_epi64x(0, q as i64), _mm_set1_epi8(-1), 0)) as u64 ^ carry;
            carry = ((x as i64) >> 63) as u64;
            x
        } else {
            0
        };
        let nl = eq(a, b, b'\n');
        let mut m = (eq(a, b, b',') | nl) & !inside;
        if e - i < 64 {
            m &= (1u64 << (e - i)) - 1
        }
        while m != 0 {
            let t = m.trailing_zeros();
            let p = i + t as usize;
            m &= m - 1;
            *ends.get_unchecked_mut(f) = p;
            f += 1;
            if f == 10 {
                row(base, st, &ends);
                f = 0;
                st = p + 1
            }
        }
        i += 64;
    }
}
#[inline(always)]
unsafe fn int(p: *const u8, n: usize) -> u64 {
    let mut x = 0u64;
    for i in 0..n {
        x = x * 10 + (*p.add(i) - b'0') as u64
    }
    x
}
#[inline(always)]
unsafe fn cents(p: *const u8, n: usize) -> u64 {
    let a = int(p, n - 3);
    a * 100 + int(p.add(n - 2), 2)
}
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct G1 {
    k: [u64; 4],
    n: u64,
    q: u64,
    rev: u64,
    d_mx: u64,
}
#[derive(Clone, Copy)]
#[repr(C)]
struct G2 {
    lo: u64,
    hi: u64,
    n: u64,
    rev: u64,
}
struct T2 {
    s: Huge<G2>,
    mask: usize,
    used: usize,
    ring: [(u64, u64, u64, u64); 32],
    rh: usize,
}
impl T2 {
    fn new(c: usize) -> Self {
        T2 { s: Huge::zeroed(c), mask: c - 1, used: 0, ring: [(0, 0, 0, 0); 32], rh: 0 }
    }
    #[inline(always)]
    fn add(&mut self, lo: u64, hi: u64, h: u64, n: u64, rev: u64) {
        let mut i = h as usize & self.mask;
        loop {
            let s = &mut self.s[i];
            if s.lo == lo && s.hi == hi && s.n != 0 {
                s.n += n;
                s.rev += rev;
                return;
            }
            if s.n == 0 {
                *s = G2 { lo, hi, n, rev };
                self.used += 1;
                if self.used * 2 > self.mask {
                    self.grow()
                }
                return;
            }
            i = (i + 1) & self.mask
        }
    }
    #[cold]
    fn grow(&mut self) {
        let c = (self.mask + 1) * 4;
        let o = std::mem::replace(&mut self.s, Huge::zeroed(c));
        self.mask = c - 1;
        for s in o.iter() {
            if s.n != 0 {
                let mut i = mix(s.lo, s.hi) as usize & self.mask;
                while self.s[i].n != 0 {
                    i = (i + 1) & self.mask
                }
                self.s[i] = *s
            }
        }
    }
    #[inline(always)]
    fn push(&mut self, lo: u64, hi: u64, rev: u64) {
        let h = mix(lo, hi);
        unsafe { prefetch(self.s.as_ptr().add(h as usize & self.mask)) }
        let k = self.rh & 31;
        self.rh += 1;
        self.ring[k] = (lo, hi, h, rev);
        let (a, b, c, r) = self.ring[(k + 16) & 31];
        if self.rh > 16 {
            self.add(a, b, c, 1, r)
        }
    }
    fn flush(&mut self) {
        let n = self.rh.min(16);
        for i in 0..n {
            let (a, b, c, r) = self.ring[(self.rh - n + i) & 31];
            self.add(a, b, c, 1, r)
        }
        self.rh = 0
    }
}
pub fn main(a: &[String]) {
    let t: usize = a[4].parse().unwrap();
    let t0 = std::time::Instant::now();
    let d = Map::open(&a[2]);
    let nch = d.len.div_ceil(CH);
    let next = AtomicUsize::new(0);
    // pass 1
    let par: Vec<AtomicUsize> = (0..nch).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|s| {
        for _ in 0..t {
            s.spawn(|| {
                loop {
                    let c = next.fetch_add(1, Relaxed);
                    if c >= nch {
                        break;
                    }
                    par[c].store(unsafe { quotes(&d[c * CH..((c + 1) * CH).min(d.len)]) } as usize & 1, Relaxed)
                }
            });
        }
    });
    let mut starts = Vec::with_capacity(nch + 1);
    let mut p = 0;
    for c in 0..nch {
        // first row start at or after the chunk's first byte
        let mut i = c * CH;
        let mut inq = p == 1;
        if c == 0 {
            while d[i] != b'\n' {
                i += 1
            }
            i += 1
        } else {
            let mut j = i;
            if !(d[j - 1] == b'\n' && !inq) {
                loop {
                    if j >= d.len {
                        break;
                    }
                    if d[j] == b'"' {
                        inq = !inq
                    }
                    if d[j] == b'\n' && !inq {
                        j += 1;
                        break;
                    }
                    j += 1
                }
            }
            i = j
        }
        starts.push(i);
        p ^= par[c].load(Relaxed);
    }
    starts.push(d.len);
    let t1 = t0.elapsed().as_secs_f64();
    next.store(0, Relaxed);
    let (starts, next, d) = (&starts, &next, &d);
    let mut groups = 0usize;
    let mut total = 0u64;
    if a[1] == "q1" {
        let tabs: Vec<(Vec<G1>, u64)> = std::thread::scope(|s| {
            let hs: Vec<_> = (0..t)
                .map(|_| {
                    s.spawn(move || {
                        let mut tb = vec![G1 { k: [0; 4], n: 0, q: 0, rev: 0, d_mx: 0 }; 1 << 14];
                        let mut n = 0u64;
                        loop {
                            let c = next.fetch_add(1, Relaxed);
                            if c >= nch {
                                break;
                            }
                            unsafe {
                                rows(d, starts[c], starts[c + 1], |b, _st, e| {
                                    let (c0, c1) = load16(b.add(e[2] + 1), (e[3] - e[2] - 1).min(16));
                                    let (g0, g1) = load16(b.add(e[3] + 1), (e[4] - e[3] - 1).min(16));
                                    let q = int(b.add(e[4] + 1), e[5] - e[4] - 1);
                                    let pr = cents(b.add(e[5] + 1), e[6] - e[5] - 1);
                                    let di = int(b.add(e[6] + 3), 3);
                                    let mut i = mix(c0 ^ g0.rotate_left(23), c1 ^ g1 ^ g0) as usize & 16383;
                                    n += 1;
                                    loop {
                                        let s = tb.get_unchecked_mut(i);
                                        if s.n == 0 {
                                            s.k = [c0, c1, g0, g1]
                                        } else if s.k != [c0, c1, g0, g1] {
                                            i = (i + 1) & 16383;
                                            continue;
                                        }
                                        s.n += 1;
                                        s.q += q;
                                        s.rev += pr * q;
                                        let mx = (s.d_mx >> 32).max(pr);
                                        s.d_mx = (mx << 32) | ((s.d_mx & 0xFFFF_FFFF) + di);
                                        break;
                                    }
                                })
                            }
                        }
                        (tb, n)
                    })
                })
                .collect();
            hs.into_iter().map(|h| h.join().unwrap()).collect()
        });
        let mut m: hashbrown::HashMap<[u64; 4], (u64, u64, u64, u64, u64), foldhash::fast::FixedState> = Default::default();
        for (tb, n) in &tabs {
            total += n;
            for g in tb {
                if g.n > 0 {
                    let e = m.entry(g.k).or_default();
                    e.0 += g.n;
                    e.1 += g.q;
                    e.2 += g.rev;
                    e.3 += g.d_mx & 0xFFFF_FFFF;
                    e.4 = e.4.max(g.d_mx >> 32)
                }
            }
        }
        groups = m.len();
        let mut w = std::io::BufWriter::new(std::fs::File::create(&a[3]).unwrap());
        for (k, v) in &m {
            let f = |a: u64, b: u64| {
                let mut x = a.to_le_bytes().to_vec();
                x.extend(b.to_le_bytes());
                x.retain(|c| *c != 0);
                String::from_utf8(x).unwrap()
            };
            writeln!(
                w,
                "{},{},{},{},{:.2},{:.6},{:.2}",
                f(k[0], k[1]),
                f(k[2], k[3]),
                v.0,
                v.1,
                v.2 as f64 / 100.0,
                v.3 as f64 / 1000.0 / v.0 as f64,
                v.4 as f64 / 100.0
            )
            .unwrap()
        }
    } else {
        let tabs: Vec<T2> = std::thread::scope(|s| {
            let hs: Vec<_> = (0..t)
                .map(|_| {
                    s.spawn(move || {
                        let mut tb = T2::new(1 << 16);
                        loop {
                            let c = next.fetch_add(1, Relaxed);
                            if c >= nch {
                                break;
                            }
                            unsafe {
                                rows(d, starts[c], starts[c + 1], |b, _st, e| {
                                    let q = int(b.add(e[4] + 1), e[5] - e[4] - 1);
                                    let pr = cents(b.add(e[5] + 1), e[6] - e[5] - 1);
                                    let (lo, hi) = load16(b.add(e[7] + 1), (e[8] - e[7] - 1).min(16));
                                    tb.push(lo, hi, pr * q)
                                })
                            }
                        }
                        tb.flush();
                        tb
                    })
                })
                .collect();
            hs.into_iter().map(|h| h.join().unwrap()).collect()
        });
        let tabs = &tabs;
        let out = &a[3];
        let r: Vec<(usize, u64)> = std::thread::scope(|s| {
            let hs: Vec<_> = (0..t)
                .map(|p| {
                    s.spawn(move || {
                        let mut m = T2::new((tabs.iter().map(|x| x.used).max().unwrap() * 4 / t).next_power_of_two());
                        let mut n = 0;
                        for tb in tabs {
                            for g in tb.s.iter() {
                                if g.n != 0 {
                                    let h = mix(g.lo, g.hi);
                                    if (h >> 40) as usize % t == p {
                                        n += g.n;
                                        m.add(g.lo, g.hi, h, g.n, g.rev)
                                    }
                                }
                            }
                        }
                        let mut w = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(format!("{out}.{p}")).unwrap());
                        for g in m.s.iter() {
                            if g.n != 0 {
                                let mut k = [0u8; 16];
                                k[..8].copy_from_slice(&g.lo.to_le_bytes());
                                k[8..].copy_from_slice(&g.hi.to_le_bytes());
                                let l = 16 - (u128::from_le_bytes(k).leading_zeros() / 8) as usize;
                                w.write_all(&k[..l]).unwrap();
                                let mut b = [0u8; 48];
                                let mut c = std::io::Cursor::new(&mut b[..]);
                                write!(c, ",{},{}.{:02}\n", g.n, g.rev / 100, g.rev % 100).unwrap();
                                let z = c.position() as usize;
                                w.write_all(&b[..z]).unwrap();
                            }
                        }
                        (m.used, n)
                    })
                })
                .collect();
            hs.into_iter().map(|h| h.join().unwrap()).collect()
        });
        for (u, n) in r {
            groups += u;
            total += n
        }
    }
    let s = t0.elapsed().as_secs_f64();
    println!(
        "gb {} threads={t} rows={total} groups={groups} wall={s:.3}s (pass1 {t1:.3}) cpu={:.2}s rss={}MiB {:.3} GB/s",
        a[1],
        cpu_s(),
        maxrss_mib(),
        d.len as f64 / 1e9 / s
    );
}
