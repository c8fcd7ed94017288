//! Group-by over the Parquet file by hand, on the arrow reader: `groups-parquet q1|q2 IN OUT THREADS`.
//!
//! Row groups are shared by the threads.
//!
//! A limit, not a model: it knows its one input, trusts it, bounds nothing and runs on one kind of processor.

use super::memory::*;
use arrow::array::*;
use arrow::datatypes::*;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::*;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
type H = foldhash::fast::FixedState;
#[derive(Clone, Copy)]
#[repr(C)]
struct G2 {
    lo: u64,
    hi: u64,
    n: u64,
    rev: f64,
}
struct T {
    s: Huge<G2>,
    mask: usize,
    used: usize,
}
impl T {
    fn new(c: usize) -> T {
        T { s: Huge::zeroed(c), mask: c - 1, used: 0 }
    }
    #[inline(always)]
    fn add(&mut self, lo: u64, hi: u64, h: u64, n: u64, r: f64) {
        let mut i = h as usize & self.mask;
        loop {
            let s = &mut self.s[i];
            if s.n != 0 && s.lo == lo && s.hi == hi {
                s.n += n;
                s.rev += r;
                return;
            }
            if s.n == 0 {
                *s = G2 { lo, hi, n, rev: r };
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
}
pub fn main(a: &[String]) {
    let t: usize = a[4].parse().unwrap();
    let t0 = std::time::Instant::now();
    let q1 = a[1] == "q1";
    let f = std::fs::File::open(&a[2]).unwrap();
    let base = ArrowReaderMetadata::load(&f, Default::default()).unwrap();
    let sch = base.schema().clone();
    let dict = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let fs: Vec<_> = sch
        .fields()
        .iter()
        .map(|x| {
            if x.name() == "city" || x.name() == "category" {
                Arc::new(Field::new(x.name(), dict.clone(), true))
            } else if x.name() == "customer" {
                Arc::new(Field::new(x.name(), DataType::Utf8View, true))
            } else {
                x.clone()
            }
        })
        .collect();
    let sch2 = Arc::new(Schema::new_with_metadata(fs, sch.metadata().clone()));
    let md = ArrowReaderMetadata::load(&f, ArrowReaderOptions::new().with_schema(sch2)).unwrap();
    let nrg = md.metadata().num_row_groups();
    let next = AtomicUsize::new(0);
    let (md, next, path) = (&md, &next, &a[2]);
    let cols: &[&str] = if q1 { &["city", "category", "quantity", "price", "discount"] } else { &["customer", "quantity", "price"] };
    let open = |g: usize| {
        let b = ParquetRecordBatchReaderBuilder::new_with_metadata(std::fs::File::open(path).unwrap(), md.clone());
        let m = ProjectionMask::columns(b.parquet_schema(), cols.iter().copied());
        b.with_projection(m).with_row_groups(vec![g]).with_batch_size(8192).build().unwrap()
    };
    let open = &open;
    let (mut groups, mut rows) = (0usize, 0u64);
    if q1 {
        type M = hashbrown::HashMap<(String, String), (u64, i64, f64, f64, f64), H>;
        let ms: Vec<M> = std::thread::scope(|s| {
            let hs: Vec<_> = (0..t)
                .map(|_| {
                    s.spawn(move || {
                        let mut m: M = Default::default();
                        let mut g: Vec<(u64, i64, f64, f64, f64)> = vec![];
                        loop {
                            let r = next.fetch_add(1, Relaxed);
                            if r >= nrg {
                                break;
                            }
                            for b in open(r) {
                                let b = b.unwrap();
                                let (c, k) = (
                                    b.column_by_name("city").unwrap().as_dictionary::<Int32Type>(),
                                    b.column_by_name("category").unwrap().as_dictionary::<Int32Type>(),
                                );
                                let (q, p, d) = (
                                    b.column_by_name("quantity").unwrap().as_primitive::<Int32Type>().values(),
                                    b.column_by_name("price").unwrap().as_primitive::<Float64Type>().values(),
                                    b.column_by_name("discount").unwrap().as_primitive::<Float64Type>().values(),
                                );
                                let nk = k.values().len();
                                g.clear();
                                g.resize(c.values().len() * nk, (0, 0, 0.0, 0.0, f64::MIN));
                                let (ck, kk) = (c.keys().values(), k.keys().values());
                                for i in 0..b.num_rows() {
                                    let e = &mut g[ck[i] as usize * nk + kk[i] as usize];
                                    e.0 += 1;
                                    e.1 += q[i] as i64;
                                    e.2 += p[i] * q[i] as f64;
                                    e.3 += d[i];
                                    e.4 = e.4.max(p[i])
                                }
                                let (cv, kv) = (c.values().as_string::<i32>(), k.values().as_string::<i32>());
                                for (i, e) in g.iter().enumerate() {
                                    if e.0 > 0 {
                                        let x = m.entry((cv.value(i / nk).into(), kv.value(i % nk).into())).or_insert((
                                            0,
                                            0,
                                            0.0,
                                            0.0,
                                            f64::MIN,
                                        ));
                                        x.0 += e.0;
                                        x.1 += e.1;
                                        x.2 += e.2;
                                        x.3 += e.3;
                                        x.4 = x.4.max(e.4)
                                    }
                                }
                            }
                        }
                        m
                    })
                })
                .collect();
            hs.into_iter().map(|h| h.join().unwrap()).collect()
        });
        let mut it = ms.into_iter();
        let mut m = it.next().unwrap();
        for o in it {
            for (k, e) in o {
                let x = m.entry(k).or_insert((0, 0, 0.0, 0.0, f64::MIN));
                x.0 += e.0;
                x.1 += e.1;
                x.2 += e.2;
                x.3 += e.3;
                x.4 = x.4.max(e.4)
            }
        }
        let mut w = std::io::BufWriter::new(std::fs::File::create(&a[3]).unwrap());
        groups = m.len();
        for ((c, k), e) in &m {
            rows += e.0;
            writeln!(w, "{c},{k},{},{},{:.2},{:.6},{}", e.0, e.1, e.2, e.3 / e.0 as f64, e.4).unwrap()
        }
    } else {
        let ts: Vec<T> = std::thread::scope(|s| {
            let hs: Vec<_> = (0..t)
                .map(|_| {
                    s.spawn(move || {
                        let mut tb = T::new(1 << 16);
                        let mut kb: Vec<(u64, u64, u64)> = vec![];
                        loop {
                            let r = next.fetch_add(1, Relaxed);
                            if r >= nrg {
                                break;
                            }
                            for b in open(r) {
                                let b = b.unwrap();
                                let c = b.column_by_name("customer").unwrap().as_string_view();
                                let (q, p) = (
                                    b.column_by_name("quantity").unwrap().as_primitive::<Int32Type>().values(),
                                    b.column_by_name("price").unwrap().as_primitive::<Float64Type>().values(),
                                );
                                kb.clear();
                                for i in 0..b.num_rows() {
                                    let v = c.value(i).as_bytes();
                                    let mut k = [0u8; 16];
                                    k[..v.len()].copy_from_slice(v);
                                    let lo = u64::from_le_bytes(k[..8].try_into().unwrap());
                                    let hi = u64::from_le_bytes(k[8..].try_into().unwrap());
                                    kb.push((lo, hi, mix(lo, hi)))
                                }
                                for i in 0..kb.len() {
                                    if let Some(n) = kb.get(i + 16) {
                                        unsafe { prefetch(tb.s.as_ptr().add(n.2 as usize & tb.mask)) }
                                    }
                                    let (lo, hi, h) = kb[i];
                                    tb.add(lo, hi, h, 1, p[i] * q[i] as f64)
                                }
                            }
                        }
                        tb
                    })
                })
                .collect();
            hs.into_iter().map(|h| h.join().unwrap()).collect()
        });
        let (ts, out) = (&ts, &a[3]);
        let r: Vec<(usize, u64)> = std::thread::scope(|s| {
            let hs: Vec<_> = (0..t)
                .map(|p| {
                    s.spawn(move || {
                        let mut m = T::new((ts.iter().map(|x| x.used).max().unwrap() * 4 / t).next_power_of_two());
                        let mut n = 0;
                        for tb in ts {
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
                                let c = (g.rev * 100.0).round() as u64;
                                writeln!(w, ",{},{}.{:02}", g.n, c / 100, c % 100).unwrap()
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
            rows += n
        }
    }
    let s = t0.elapsed().as_secs_f64();
    let len = std::fs::metadata(&a[2]).unwrap().len() as f64;
    println!(
        "parquet gb {} threads={t} rows={rows} groups={groups} wall={s:.3}s cpu={:.2}s rss={}MiB {:.3} GB/s of file, {:.1} M rows/s",
        a[1],
        cpu_s(),
        maxrss_mib(),
        len / 1e9 / s,
        rows as f64 / 1e6 / s
    );
}
