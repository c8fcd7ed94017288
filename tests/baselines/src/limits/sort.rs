//! Sort of 100-byte records with 10-byte keys by hand.
//!
//! ```text
//! sort mem IN OUT THREADS                     the whole file in memory
//! sort ext IN OUT THREADS MEM_MIB TMPDIR      sorted runs, then a merge split by key range over the threads
//! sort check OUT                              order and content
//! ```
//!
//! A limit, not a model: it knows its one input, trusts it, bounds nothing and runs on one kind of processor.

use super::memory::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;
const R: usize = 100;
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct K {
    a: u64,
    b: u16,
    i: u32,
}
#[inline(always)]
fn key(d: &[u8], i: u32) -> K {
    K { a: u64::from_be_bytes(d[..8].try_into().unwrap()), b: u16::from_be_bytes(d[8..10].try_into().unwrap()), i }
}
/// order of the records of d: one scatter pass on the top key bits, then small comparison sorts
fn order(d: &[u8], out: &mut Vec<K>) {
    const NB: usize = 1 << 12;
    let n = d.len() / R;
    // printable keys: 95*95 leading pairs -> bucket by (c0-32)*95+(c1-32) scaled; falls back to clamped bytes for other input
    let bk = |r: &[u8]| {
        let x = (r[0] as usize).saturating_sub(32).min(94) * 95 + (r[1] as usize).saturating_sub(32).min(94);
        x * NB / 9025
    };
    let mut cnt = vec![0u32; NB + 1];
    for r in d.chunks_exact(R) {
        cnt[bk(r) + 1] += 1
    }
    for i in 0..NB {
        cnt[i + 1] += cnt[i]
    }
    let starts = cnt.clone();
    out.clear();
    out.reserve(n);
    unsafe { out.set_len(n) }
    for (i, r) in d.chunks_exact(R).enumerate() {
        let b = bk(r);
        out[cnt[b] as usize] = key(r, i as u32);
        cnt[b] += 1
    }
    for b in 0..NB {
        out[starts[b] as usize..starts[b + 1] as usize].sort_unstable()
    }
}
fn gather_write(d: &[u8], k: &[K], f: &File, mut off: u64) {
    const W: usize = 20_000;
    let mut buf = vec![0u8; W * R];
    for c in k.chunks(W) {
        for (j, x) in c.iter().enumerate() {
            unsafe {
                if let Some(y) = c.get(j + 12) {
                    let p = d.as_ptr().add(y.i as usize * R);
                    prefetch(p);
                    prefetch(p.add(64))
                }
                std::ptr::copy_nonoverlapping(d.as_ptr().add(x.i as usize * R), buf.as_mut_ptr().add(j * R), R)
            }
        }
        f.write_all_at(&buf[..c.len() * R], off).unwrap();
        off += (c.len() * R) as u64;
    }
}
fn readn(f: &File, d: &mut [u8], off: u64) {
    for (i, c) in d.chunks_mut(1 << 20).enumerate() {
        f.read_exact_at(c, off + ((i as u64) << 20)).unwrap()
    }
}
struct Cur<'a> {
    f: &'a File,
    off: u64,
    end: u64,
    buf: Vec<u8>,
    p: usize,
    n: usize,
}
impl<'a> Cur<'a> {
    fn fill(&mut self) -> bool {
        let l = ((self.end - self.off) as usize).min(self.buf.len());
        if l == 0 {
            return false;
        }
        self.f.read_exact_at(&mut self.buf[..l], self.off).unwrap();
        self.off += l as u64;
        self.p = 0;
        self.n = l;
        true
    }
    #[inline(always)]
    fn k(&self) -> u128 {
        let b = &self.buf[self.p..self.p + 16];
        u128::from_be_bytes(b.try_into().unwrap()) >> 48
    }
}
fn lower(f: &File, recs: u64, k: u128) -> u64 {
    let (mut lo, mut hi) = (0, recs);
    let mut b = [0u8; 16];
    while lo < hi {
        let m = (lo + hi) / 2;
        f.read_exact_at(&mut b, m * R as u64).unwrap();
        if u128::from_be_bytes(b) >> 48 < k { lo = m + 1 } else { hi = m }
    }
    lo
}
pub fn main(a: &[String]) {
    if a[1] == "check" {
        let m = Map::open(&a[2]);
        let mut x = 0u64;
        let mut ok = true;
        let mut prev = &m[..10];
        for r in m.chunks_exact(R) {
            if r[..10] < *prev {
                ok = false
            }
            prev = &r[..10];
            x = x.wrapping_add(u64::from_le_bytes(r[30..38].try_into().unwrap()).wrapping_mul(0x9E3779B97F4A7C15) >> 7)
        }
        println!("records={} sorted={ok} sum={x:x}", m.len / R);
        return;
    }
    let t: usize = a[4].parse().unwrap();
    let t0 = Instant::now();
    let fin = File::open(&a[2]).unwrap();
    let len = fin.metadata().unwrap().len() as usize / R * R;
    let fo = File::create(&a[3]).unwrap();
    let n = len / R;
    let (fin, fo) = (&fin, &fo);
    let phase1;
    if a[1] == "mem" {
        let mut d = Huge::<u8>::zeroed(len);
        let per = n.div_ceil(t) * R;
        // each thread: read its part and bucket it by key range; then each thread sorts and writes one range
        let splits: Vec<u128> = {
            let mut s: Vec<u128> = (0..4096u64)
                .map(|i| {
                    let mut b = [0u8; 16];
                    fin.read_exact_at(&mut b, (n as u64 * i / 4096) * R as u64).unwrap();
                    u128::from_be_bytes(b) >> 48
                })
                .collect();
            s.sort_unstable();
            (1..t).map(|i| s[4096 * i / t]).collect()
        };
        let splits = &splits;
        let parts: Vec<Vec<Vec<K>>> = std::thread::scope(|s| {
            let hs: Vec<_> = d
                .chunks_mut(per)
                .enumerate()
                .map(|(ti, c)| {
                    s.spawn(move || {
                        readn(fin, c, (ti * per) as u64);
                        let mut o: Vec<Vec<K>> = (0..t).map(|_| Vec::with_capacity(c.len() / R / t * 21 / 20)).collect();
                        for (i, r) in c.chunks_exact(R).enumerate() {
                            let k = key(r, (ti * per / R + i) as u32);
                            let kk = ((k.a as u128) << 16) | k.b as u128;
                            let p = splits.iter().filter(|x| kk >= **x).count();
                            o[p].push(k)
                        }
                        o
                    })
                })
                .collect();
            hs.into_iter().map(|h| h.join().unwrap()).collect()
        });
        phase1 = t0.elapsed().as_secs_f64();
        let (d, parts) = (&d, &parts);
        std::thread::scope(|s| {
            for p in 0..t {
                s.spawn(move || {
                    let before: usize = (0..p).map(|q| parts.iter().map(|x| x[q].len()).sum::<usize>()).sum();
                    let total: usize = parts.iter().map(|x| x[p].len()).sum();
                    // scatter on the top bits between min and max, then sort buckets
                    const NB: usize = 1 << 14;
                    let mn = parts.iter().flat_map(|x| x[p].iter()).map(|k| k.a).min().unwrap();
                    let mx = parts.iter().flat_map(|x| x[p].iter()).map(|k| k.a).max().unwrap();
                    let span = ((mx - mn) / NB as u64 + 1).max(1);
                    let mut cnt = vec![0u32; NB + 1];
                    for x in parts {
                        for k in &x[p] {
                            cnt[((k.a - mn) / span) as usize + 1] += 1
                        }
                    }
                    for i in 0..NB {
                        cnt[i + 1] += cnt[i]
                    }
                    let st = cnt.clone();
                    let mut o: Vec<K> = Vec::with_capacity(total);
                    unsafe { o.set_len(total) }
                    for x in parts {
                        for k in &x[p] {
                            let b = ((k.a - mn) / span) as usize;
                            o[cnt[b] as usize] = *k;
                            cnt[b] += 1
                        }
                    }
                    for b in 0..NB {
                        o[st[b] as usize..st[b + 1] as usize].sort_unstable()
                    }
                    gather_write(d, &o, fo, (before * R) as u64);
                });
            }
        });
    } else {
        let mem: usize = a[5].parse::<usize>().unwrap() << 20;
        let tmp = &a[6];
        // per thread: run buffer + 16 bytes per record + 2 MiB out, all threads together within mem (5% slack)
        let run = (mem * 95 / 100 / t - (8 << 20)) / 116 * R;
        let nr = len.div_ceil(run);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let next = &next;
        std::thread::scope(|s| {
            for _ in 0..t {
                s.spawn(move || {
                    let mut d = Huge::<u8>::zeroed(run);
                    let mut o = Vec::with_capacity(run / R);
                    loop {
                        let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if i >= nr {
                            break;
                        }
                        let l = run.min(len - i * run);
                        readn(fin, &mut d[..l], (i * run) as u64);
                        order(&d[..l], &mut o);
                        let f = File::create(format!("{tmp}/run.{i}")).unwrap();
                        gather_write(&d[..l], &o, &f, 0)
                    }
                });
            }
        });
        phase1 = t0.elapsed().as_secs_f64();
        let files: Vec<(File, u64)> = (0..nr)
            .map(|i| {
                let f = File::open(format!("{tmp}/run.{i}")).unwrap();
                let l = f.metadata().unwrap().len();
                (f, l / R as u64)
            })
            .collect();
        let mut smp: Vec<u128> = files
            .iter()
            .flat_map(|(f, l)| {
                (0..256u64).map(move |i| {
                    let mut b = [0u8; 16];
                    f.read_exact_at(&mut b, (l * i / 256) * R as u64).unwrap();
                    u128::from_be_bytes(b) >> 48
                })
            })
            .collect();
        smp.sort_unstable();
        let mut cuts: Vec<Vec<u64>> = vec![vec![0; nr]];
        for p in 1..t {
            let k = smp[smp.len() * p / t];
            cuts.push(files.iter().map(|(f, l)| lower(f, *l, k)).collect())
        }
        cuts.push(files.iter().map(|x| x.1).collect());
        let (files, cuts) = (&files, &cuts);
        let bs = ((mem * 9 / 10 / t / (nr + 4)).min(8 << 20) / R * R).max(R * 100);
        std::thread::scope(|s| {
            for p in 0..t {
                s.spawn(move || {
                    let mut off: u64 = cuts[p].iter().sum::<u64>() * R as u64;
                    let mut cs: Vec<Cur> = (0..nr)
                        .map(|i| Cur {
                            f: &files[i].0,
                            off: cuts[p][i] * R as u64,
                            end: cuts[p + 1][i] * R as u64,
                            buf: vec![0; bs],
                            p: 0,
                            n: 0,
                        })
                        .collect();
                    // loser tree over m leaves
                    let m = nr.next_power_of_two();
                    let mut ks: Vec<u128> = (0..m).map(|i| if i < nr && cs[i].fill() { cs[i].k() } else { u128::MAX }).collect();
                    let mut tr = vec![0usize; m];
                    let mut win = vec![0usize; 2 * m];
                    for i in 0..m {
                        win[m + i] = i
                    }
                    for i in (1..m).rev() {
                        let (x, y) = (win[2 * i], win[2 * i + 1]);
                        if ks[x] <= ks[y] {
                            win[i] = x;
                            tr[i] = y
                        } else {
                            win[i] = y;
                            tr[i] = x
                        }
                    }
                    let mut w = if m > 1 { win[1] } else { 0 };
                    let mut ob = vec![0u8; 4 << 20 / R * R];
                    let cap = (4 << 20) / R * R;
                    ob.resize(cap, 0);
                    let mut q = 0;
                    while ks[w] != u128::MAX {
                        let c = &mut cs[w];
                        unsafe { std::ptr::copy_nonoverlapping(c.buf.as_ptr().add(c.p), ob.as_mut_ptr().add(q), R) }
                        q += R;
                        if q == cap {
                            fo.write_all_at(&ob, off).unwrap();
                            off += cap as u64;
                            q = 0
                        }
                        c.p += R;
                        ks[w] = if c.p < c.n || c.fill() { c.k() } else { u128::MAX };
                        let mut i = (w + m) >> 1;
                        while i >= 1 {
                            let l = tr[i];
                            if ks[l] < ks[w] {
                                tr[i] = w;
                                w = l
                            }
                            i >>= 1
                        }
                    }
                    fo.write_all_at(&ob[..q], off).unwrap();
                });
            }
        });
        for i in 0..nr {
            std::fs::remove_file(format!("{tmp}/run.{i}")).unwrap()
        }
    }
    let s = t0.elapsed().as_secs_f64();
    println!(
        "tsort {} threads={t} {:.2} GB wall={s:.2}s (phase1 {phase1:.2}) cpu={:.2}s maxrss={}MiB {:.3} GB/s",
        a[1],
        len as f64 / 1e9,
        cpu_s(),
        maxrss_mib(),
        len as f64 / 1e9 / s
    );
}
