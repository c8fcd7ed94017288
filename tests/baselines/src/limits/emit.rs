//! Word count through the shape of a generic engine: `emit IN OUT THREADS`.
//!
//! A prototype that was written to measure what `map(line)`, `emit(word, 1)`, a combiner, partitions, sorted parts and panics
//! attributed to their record must cost. UTF-8 is checked and Unicode white space is exact. Writes `OUT.<partition>`.
//!
//! A limit, not a model: it knows its one input, bounds nothing and runs on one kind of processor.

use super::split::*;
use std::io::Write;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
pub type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
pub trait Shape {}
pub struct Lines;
impl Shape for Lines {}
pub trait Key: 'static {
    type Ref<'a>: Copy;
    fn bytes<'b, 'k: 'b>(k: Self::Ref<'k>, s: &'b mut Vec<u8>) -> &'b [u8];
    fn read<'a>(b: &'a [u8]) -> Self::Ref<'a>;
}
impl Key for String {
    type Ref<'a> = &'a str;
    #[inline(always)]
    fn bytes<'b, 'k: 'b>(k: &'k str, _: &'b mut Vec<u8>) -> &'b [u8] {
        k.as_bytes()
    }
    #[inline(always)]
    fn read<'a>(b: &'a [u8]) -> &'a str {
        unsafe { std::str::from_utf8_unchecked(b) }
    }
}
pub trait Combine<V> {
    fn fold(a: &mut V, n: V);
}
pub struct Sum;
impl Combine<u64> for Sum {
    #[inline(always)]
    fn fold(a: &mut u64, n: u64) {
        *a += n
    }
}
pub trait MapReduce: Sized + Send + Sync + 'static {
    type Input: Shape;
    type Key: Key;
    type Value: Send + Sync + Copy;
    type Combine: Combine<Self::Value>;
    fn map(&self, rec: &str, out: &mut Emitter<'_, Self>) -> Result;
    fn reduce(&self, key: <Self::Key as Key>::Ref<'_>, vals: Values<'_, Self::Value>, out: &mut Output) -> Result;
}
pub struct Values<'v, V> {
    v: Option<V>,
    _l: PhantomData<&'v ()>,
}
impl<V> Iterator for Values<'_, V> {
    type Item = V;
    #[inline]
    fn next(&mut self) -> Option<V> {
        self.v.take()
    }
}
pub struct Output {
    b: Vec<u8>,
    f: std::fs::File,
    rows: u64,
}
impl Output {
    #[inline]
    pub fn write_row(&mut self, k: &str, n: u64) -> Result {
        if self.b.len() + k.len() + 32 > 1 << 18 {
            self.f.write_all(&self.b)?;
            self.b.clear()
        }
        self.b.extend_from_slice(k.as_bytes());
        self.b.push(b'\t');
        let mut i = itoa::Buffer::new();
        self.b.extend_from_slice(i.format(n).as_bytes());
        self.b.push(b'\n');
        self.rows += 1;
        Ok(())
    }
}
// ---------- table
struct Huge<T> {
    p: *mut T,
    n: usize,
    bytes: usize,
}
unsafe impl<T: Send> Send for Huge<T> {}
unsafe impl<T: Sync> Sync for Huge<T> {}
impl<T> Huge<T> {
    fn zeroed(n: usize) -> Self {
        unsafe {
            let b = (n * std::mem::size_of::<T>()).max(4096);
            let p = libc::mmap(std::ptr::null_mut(), b, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            assert!(p != libc::MAP_FAILED);
            if b >= 2 << 20 {
                libc::madvise(p, b, libc::MADV_HUGEPAGE);
            }
            Huge { p: p as *mut T, n, bytes: b }
        }
    }
}
impl<T> Drop for Huge<T> {
    fn drop(&mut self) {
        unsafe {
            libc::munmap(self.p as *mut _, self.bytes);
        }
    }
}
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slot<V: Copy> {
    lo: u64,
    hi: u64,
    meta: u64,
    v: MaybeUninit<V>,
}
const LONG: u64 = 0xFF;
#[inline(always)]
fn mix(lo: u64, hi: u64) -> u64 {
    let m = ((lo ^ 0x9E3779B97F4A7C15) as u128).wrapping_mul((hi ^ 0xE7037ED1A0B428DB) as u128);
    let h = (m as u64) ^ ((m >> 64) as u64);
    h
}
#[inline(never)]
fn long_hash(b: &[u8]) -> u64 {
    let mut h = 0x1234_5678_9abc_def1u64 ^ b.len() as u64;
    let mut c = b.chunks_exact(8);
    for x in &mut c {
        h = mix(h, u64::from_le_bytes(x.try_into().unwrap()))
    }
    let mut t = [0u8; 8];
    let r = c.remainder();
    t[..r.len()].copy_from_slice(r);
    mix(h, u64::from_le_bytes(t))
}
#[inline(always)]
fn rd8(p: *const u8) -> u64 {
    unsafe { (p as *const u64).read_unaligned() }
}
#[inline(always)]
fn rd4(p: *const u8) -> u64 {
    unsafe { (p as *const u32).read_unaligned() as u64 }
}
/// safe-by-construction short key load: never reads outside the key
#[inline(always)]
fn load_branch(b: &[u8]) -> (u64, u64) {
    let n = b.len();
    let p = b.as_ptr();
    unsafe {
        if n >= 8 {
            let lo = rd8(p);
            let sh = (16 - n) * 8;
            let hi = if sh == 64 { 0 } else { rd8(p.add(n - 8)) >> sh };
            (lo, hi)
        } else if n >= 4 {
            let a = rd4(p);
            let b = rd4(p.add(n - 4));
            (a | ((b << 32) >> ((8 - n) * 8)), 0)
        } else if n == 0 {
            (0, 0)
        } else {
            let a = *p as u64;
            let m = *p.add(n / 2) as u64;
            let z = *p.add(n - 1) as u64;
            (a | (m << (8 * (n / 2))) | (z << (8 * (n - 1))), 0)
        }
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
#[inline(always)]
unsafe fn load16(p: *const u8, len: usize) -> (u64, u64) {
    use std::arch::x86_64::*;
    let v = _mm_loadu_si128(p as *const __m128i);
    let m = _mm_loadu_si128(MASKS.as_ptr().add(16 - len) as *const __m128i);
    let v = _mm_and_si128(v, m);
    (_mm_cvtsi128_si64(v) as u64, _mm_cvtsi128_si64(_mm_unpackhi_epi64(v, v)) as u64)
}
pub struct Table<V: Copy, C> {
    s: Huge<Slot<V>>,
    mask: usize,
    shift: u32,
    used: usize,
    cap_used: usize,
    ring: Box<[Slot<V>]>,
    head: usize,
    pbuf: Vec<u8>,
    arena: Vec<u8>,
    _c: PhantomData<fn(C)>,
}
const RING: usize = 64;
const LAG: usize = 32;
fn load(cap: usize) -> usize {
    cap / 2
}
impl<V: Copy, C: Combine<V>> Table<V, C> {
    fn new(cap: usize) -> Self {
        Table {
            s: Huge::zeroed(cap),
            mask: cap - 1,
            shift: 64 - cap.trailing_zeros(),
            used: 0,
            cap_used: load(cap),
            ring: vec![Slot { lo: 0, hi: 0, meta: 0, v: MaybeUninit::zeroed() }; RING].into(),
            head: 0,
            pbuf: vec![],
            arena: vec![],
            _c: PhantomData,
        }
    }
    #[inline(always)]
    unsafe fn probe(&mut self, lo: u64, hi: u64, meta: u64, v: MaybeUninit<V>) {
        let mut i = (meta >> self.shift) as usize;
        loop {
            let s = &mut *self.s.p.add(i);
            if s.meta == meta && s.lo == lo && s.hi == hi {
                C::fold(s.v.assume_init_mut(), v.assume_init());
                return;
            }
            if s.meta == 0 {
                *s = Slot { lo, hi, meta, v };
                self.used += 1;
                if self.used > self.cap_used {
                    self.grow()
                }
                return;
            }
            i = (i + 1) & self.mask;
        }
    }
    #[inline(never)]
    unsafe fn probe_long(&mut self, p: *const u8, n: usize, meta: u64, v: MaybeUninit<V>) {
        let k = std::slice::from_raw_parts(p, n);
        let mut i = (meta >> self.shift) as usize;
        loop {
            let s = &mut *self.s.p.add(i);
            if s.meta == meta && s.hi == n as u64 && self.arena.get_unchecked(s.lo as usize..s.lo as usize + n) == k {
                C::fold(s.v.assume_init_mut(), v.assume_init());
                return;
            }
            if s.meta == 0 {
                let o = self.arena.len();
                self.arena.extend_from_slice(k);
                *s = Slot { lo: o as u64, hi: n as u64, meta, v };
                self.used += 1;
                if self.used > self.cap_used {
                    self.grow()
                }
                return;
            }
            i = (i + 1) & self.mask;
        }
    }
    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let cap = (self.mask + 1) * 4;
        let old = std::mem::replace(&mut self.s, Huge::zeroed(cap));
        self.mask = cap - 1;
        self.shift = 64 - cap.trailing_zeros();
        self.cap_used = load(cap);
        unsafe {
            for j in 0..old.n {
                let s = &*old.p.add(j);
                if s.meta != 0 {
                    let mut i = (s.meta >> self.shift) as usize;
                    while (*self.s.p.add(i)).meta != 0 {
                        i = (i + 1) & self.mask
                    }
                    *self.s.p.add(i) = *s;
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn run_entry(&mut self, e: Slot<V>) {
        if e.meta & 0xFF == LONG {
            let p = self.pbuf.as_ptr().add(e.lo as usize);
            self.probe_long(p, e.hi as usize, e.meta, e.v)
        } else {
            self.probe(e.lo, e.hi, e.meta, e.v)
        }
    }
    #[inline(always)]
    unsafe fn prefetch(&self, meta: u64) {
        std::arch::x86_64::_mm_prefetch(self.s.p.add((meta >> self.shift) as usize) as *const i8, std::arch::x86_64::_MM_HINT_T0)
    }
    #[inline(always)]
    unsafe fn push(&mut self, lo: u64, hi: u64, meta: u64, v: MaybeUninit<V>) {
        self.prefetch(meta);
        let k = self.head & (RING - 1);
        self.head += 1;
        *self.ring.as_mut_ptr().add(k) = Slot { lo, hi, meta, v };
        let o = (k + LAG) & (RING - 1);
        let e = *self.ring.as_ptr().add(o);
        if e.meta != 0 {
            self.run_entry(e)
        }
    }
    fn flush(&mut self) {
        unsafe {
            for i in 0..LAG {
                let j = (self.head.wrapping_sub(LAG).wrapping_add(i)) & (RING - 1);
                let e = self.ring[j];
                if e.meta != 0 {
                    self.run_entry(e)
                }
            }
            for e in self.ring.iter_mut() {
                e.meta = 0
            }
            self.head = 0;
        }
        self.pbuf.clear()
    }
    #[inline(always)]
    unsafe fn push_long(&mut self, b: &[u8], h: u64, v: MaybeUninit<V>) {
        let meta = (h & !0xFF) | LONG;
        if self.pbuf.len() > 16384 {
            self.flush()
        }
        let o = self.pbuf.len();
        self.pbuf.extend_from_slice(b);
        self.push(o as u64, b.len() as u64, meta, v)
    }
    fn key<'a>(&'a self, s: &'a Slot<V>) -> &'a [u8] {
        if s.meta & 0xFF == LONG {
            &self.arena[s.lo as usize..(s.lo + s.hi) as usize]
        } else {
            unsafe { std::slice::from_raw_parts(s as *const _ as *const u8, (s.meta & 0xFF) as usize - 1) }
        }
    }
}
pub struct Emitter<'e, J: MapReduce> {
    t: &'e mut Table<J::Value, J::Combine>,
    base: *const u8,
    limit: usize,
    scratch: Vec<u8>,
}
impl<J: MapReduce> Emitter<'_, J> {
    #[inline(always)]
    pub fn emit(&mut self, key: <J::Key as Key>::Ref<'_>, value: J::Value) {
        unsafe {
            let b: &[u8] = &*(J::Key::bytes(key, &mut self.scratch) as *const [u8]);
            if b.len() <= 16 {
                let off = (b.as_ptr() as usize).wrapping_sub(self.base as usize);
                let (lo, hi) = if off <= self.limit { load16(self.base.add(off), b.len()) } else { load_branch(b) };
                let h = mix(lo, hi);
                let meta = (h & !0xFF) | (b.len() as u64 + 1);
                self.t.push(lo, hi, meta, MaybeUninit::new(value));
            } else {
                self.long(b.as_ptr(), b.len(), value)
            }
        }
    }
    #[inline(never)]
    unsafe fn long(&mut self, p: *const u8, n: usize, v: J::Value) {
        let b = std::slice::from_raw_parts(p, n);
        let h = long_hash(b);
        self.t.push_long(b, h, MaybeUninit::new(v))
    }
}
pub const R: usize = 16;
// ---------- engine
struct Ctx<'a, J: MapReduce> {
    j: &'a J,
    bad: u64,
}
/// whole lines only
#[inline(never)]
fn run_block<J: MapReduce>(c: &mut Ctx<J>, t: &mut Table<J::Value, J::Combine>, block: &[u8], cap_end: *const u8, off: u64) {
    if simdutf8::basic::from_utf8(block).is_err() {
        eprintln!("bad utf8 near {off}");
        std::process::exit(3)
    }
    let base = block.as_ptr();
    let limit = (cap_end as usize - base as usize) - 16;
    let cur = std::cell::Cell::new(0usize); // start of the record being mapped
    let mut from = 0usize;
    loop {
        let j = c.j;
        let tt = &mut *t;
        let curr = &cur;
        let body = std::panic::AssertUnwindSafe(move || -> Result<()> {
            let mut e = Emitter::<J> { t: tt, base, limit, scratch: vec![] };
            let mut s = from;
            for nl in memchr::memchr_iter(b'\n', &block[from..]) {
                let nl = from + nl;
                curr.set(s);
                let line = unsafe { std::str::from_utf8_unchecked(block.get_unchecked(s..nl)) };
                j.map(line, &mut e)?;
                s = nl + 1;
            }
            if s < block.len() {
                curr.set(s);
                j.map(unsafe { std::str::from_utf8_unchecked(&block[s..]) }, &mut e)?;
            }
            Ok(())
        });
        let r = std::panic::catch_unwind(body);
        match r {
            Ok(Ok(())) => break,
            other => {
                // bad record at cur
                let why = match other {
                    Ok(Err(e)) => e.to_string(),
                    Err(p) => p.downcast_ref::<&str>().map(|s| s.to_string()).or(p.downcast_ref::<String>().cloned()).unwrap_or_default(),
                    _ => unreachable!(),
                };
                c.bad += 1;
                let s = cur.get();
                let n = memchr::memchr_iter(b'\n', &block[..s]).count();
                eprintln!("bad record at byte {} (line {} of its block): {why}", off + s as u64, n + 1);
                match memchr::memchr(b'\n', &block[s..]) {
                    Some(i) => from = s + i + 1,
                    None => break,
                }
            }
        }
    }
}
fn run_range<J: MapReduce>(
    c: &mut Ctx<J>,
    t: &mut Table<J::Value, J::Combine>,
    f: &std::fs::File,
    len: u64,
    lo: u64,
    hi: u64,
    buf: &mut Vec<u8>,
) {
    const BLK: usize = 256 << 10;
    const PAD: usize = 64;
    let mut pos = lo.saturating_sub(1);
    let mut n = 0usize; // buf[..n] holds file bytes starting at `pos`
    let mut skip = lo > 0;
    loop {
        let at = pos + n as u64;
        let want = if at < hi { ((hi - at) as usize).min(BLK) } else { (64 << 10).min((len - at) as usize) };
        if buf.len() < n + want + PAD {
            buf.resize(n + want + PAD, 0)
        }
        if want > 0 {
            f.read_exact_at(&mut buf[n..n + want], at).unwrap();
        }
        n += want;
        let end = pos + n as u64;
        let eof = end >= len;
        let mut s = 0;
        if skip {
            match memchr::memchr(b'\n', &buf[..n]) {
                Some(i) => {
                    s = i + 1;
                    skip = false;
                    if pos + s as u64 >= hi {
                        return;
                    }
                }
                None => {
                    if eof {
                        return;
                    }
                    pos = end;
                    if pos >= hi {
                        return;
                    }
                    n = 0;
                    continue;
                }
            }
        }
        // last complete line; lines starting at or beyond hi are not ours
        let e = if end > hi {
            // past our end: stop at first newline at or after hi-1
            let k = (hi - pos) as usize - 1;
            match memchr::memchr(b'\n', &buf[k.max(s)..n]) {
                Some(i) => k.max(s) + i + 1,
                None => {
                    if eof {
                        n
                    } else {
                        s
                    }
                }
            }
        } else if eof {
            n
        } else {
            memchr::memrchr(b'\n', &buf[s..n]).map(|i| s + i + 1).unwrap_or(s)
        };
        if e > s {
            let cap_end = unsafe { buf.as_ptr().add(buf.len()) };
            run_block(c, t, &buf[s..e], cap_end, pos + s as u64);
        }
        if eof || pos + e as u64 >= hi {
            return;
        }
        if e > 0 {
            buf.copy_within(e..n, 0);
            n -= e;
            pos += e as u64;
        }
    }
}
struct Merge<'a, J: MapReduce> {
    tabs: &'a [Table<J::Value, J::Combine>],
}
#[inline(always)]
fn be(s: u64) -> u64 {
    s.swap_bytes()
}
impl<'a, J: MapReduce> Merge<'a, J> {
    /// partition = top bits of the table's own hash: a contiguous range of every table, read in hash order
    fn run(&self, j: &J, p: usize, out: &str) -> u64 {
        let mut o = Output { b: Vec::with_capacity(1 << 18), f: std::fs::File::create(format!("{out}.{p}")).unwrap(), rows: 0 };
        let est = self.tabs.iter().map(|t| t.used).max().unwrap_or(0) / R;
        let mut m = Table::<J::Value, J::Combine>::new(((est + est / 8) * 2).next_power_of_two().max(1024));
        for t in self.tabs {
            let w = (t.mask + 1) / R;
            let (a, b) = (p * w, (p + 1) * w);
            let mut i = a;
            loop {
                let s = unsafe { &*t.s.p.add(i & t.mask) };
                if i >= b && s.meta == 0 {
                    break;
                }
                if s.meta != 0 && (s.meta >> 60) as usize == p {
                    unsafe {
                        let meta = (s.meta & !0xFF) << 4 | s.meta & 0xFF;
                        if s.meta & 0xFF == LONG {
                            let k = t.key(s);
                            m.probe_long(k.as_ptr(), k.len(), meta, s.v)
                        } else {
                            m.probe(s.lo, s.hi, meta, s.v)
                        }
                    }
                }
                i += 1;
            }
        }
        let mp = m.s.p;
        let sl = |i: u32| unsafe { &*mp.add(i as usize) };
        let pre = |s: &Slot<J::Value>| {
            if s.meta & 0xFF == LONG {
                let k = m.key(s);
                if k.len() >= 8 { be(rd8(k.as_ptr())) } else { be(load_branch(k).0) }
            } else {
                be(s.lo)
            }
        };
        let mut a: Vec<(u64, u32)> = Vec::with_capacity(m.used);
        for i in 0..=m.mask {
            let s = sl(i as u32);
            if s.meta != 0 {
                a.push((pre(s), i as u32))
            }
        }
        a.sort_unstable_by(|x, y| x.0.cmp(&y.0).then_with(|| m.key(sl(x.1)).cmp(m.key(sl(y.1)))));
        for q in 0..a.len() {
            if q + 8 < a.len() {
                unsafe { std::arch::x86_64::_mm_prefetch(mp.add(a[q + 8].1 as usize) as *const i8, std::arch::x86_64::_MM_HINT_T0) }
            }
            let s = sl(a[q].1);
            j.reduce(J::Key::read(m.key(s)), Values { v: Some(unsafe { s.v.assume_init() }), _l: PhantomData }, &mut o).unwrap()
        }
        o.f.write_all(&o.b).unwrap();
        o.rows
    }
}
pub fn run<J: MapReduce>(j: &J, path: &str, out: &str, threads: usize) -> (u64, f64, f64, u64) {
    let t0 = std::time::Instant::now();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let f = std::fs::File::open(path).unwrap();
    let len = f.metadata().unwrap().len();
    let gran: u64 = 4 << 20;
    let next = AtomicUsize::new(0);
    let nb = AtomicU64::new(0);
    let tabs: Vec<Table<J::Value, J::Combine>> = pool.broadcast(|_| {
        let mut t = Table::new(1 << 16);
        let mut c = Ctx { j, bad: 0 };
        let mut buf = vec![];
        loop {
            let g = next.fetch_add(1, Relaxed) as u64;
            let lo = g * gran;
            if lo >= len {
                break;
            }
            run_range(&mut c, &mut t, &f, len, lo, (lo + gran).min(len), &mut buf);
        }
        t.flush();
        nb.fetch_add(c.bad, Relaxed);
        t
    });
    let t1 = t0.elapsed().as_secs_f64();
    let m = Merge::<J> { tabs: &tabs };
    let rows = pool.install(|| {
        use rayon::prelude::*;
        (0..R).into_par_iter().with_max_len(1).map(|p| m.run(j, p, out)).sum::<u64>()
    });
    (rows, t1, t0.elapsed().as_secs_f64() - t1, nb.load(Relaxed))
}
pub struct WordCount;
impl MapReduce for WordCount {
    type Input = Lines;
    type Key = String;
    type Value = u64;
    type Combine = Sum;
    fn map(&self, l: &str, o: &mut Emitter<'_, Self>) -> Result {
        words(l).for_each(|w| o.emit(w, 1));
        Ok(())
    }
    fn reduce(&self, w: &str, v: Values<'_, u64>, o: &mut Output) -> Result {
        o.write_row(w, v.sum())
    }
}
pub fn main(a: &[String]) {
    let t0 = std::time::Instant::now();
    let r = run(&WordCount, &a[1], &a[2], a[3].parse().unwrap());
    println!("emit rows={} bad={} scan={:.3} merge={:.3} wall={:.3}s", r.0, r.3, r.1, r.2, t0.elapsed().as_secs_f64())
}
