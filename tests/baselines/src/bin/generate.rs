//! Data for the benchmarks: the same arguments give the same bytes, whatever the number of threads.
//!
//! ```text
//! generate text OUT MIB VOCABULARY ZIPF_S SEED    words by Zipf's law, lines of about 80 characters
//! generate csv  OUT MIB SEED                      sales, 10 columns, some quoted fields with , " and newlines
//! generate tera OUT MIB SEED                      100-byte records, 10-byte printable keys (the shape of gensort -a)
//! ```
//!
//! Every block is seeded by its own number and blocks are written in order. Prints the size and an xxh3 of what it wrote.
#![allow(clippy::all)]

use std::fs::File;
use std::io::Write;
use std::sync::mpsc::sync_channel;
use xxhash_rust::xxh3::Xxh3;

#[derive(Clone)]
struct Rng(u64);
impl Rng {
    fn new(seed: u64, stream: u64) -> Self {
        // the stream index goes through the mixer twice: neighbouring streams must not be shifts of one another
        let a = Rng(seed.wrapping_mul(0xD1342543DE82EF95) ^ 0x5851F42D4C957F2D).next();
        let b = Rng(stream ^ a).next();
        Rng(b ^ Rng(a ^ stream.rotate_left(32)).next().rotate_left(17))
    }
    #[inline]
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E3779B97F4A7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
        z ^ (z >> 31)
    }
    #[inline]
    fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }
    #[inline]
    fn f(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Walker alias table for a Zipf(s) law over n ranks.
struct Alias {
    t: Vec<(u64, u32)>,
}
impl Alias {
    fn zipf(n: usize, s: f64) -> Self {
        let w: Vec<f64> = (1..=n).map(|i| (i as f64).powf(-s)).collect();
        let sum: f64 = w.iter().sum();
        let mut p: Vec<f64> = w.iter().map(|x| x * n as f64 / sum).collect();
        let (mut small, mut large) = (vec![], vec![]);
        for (i, &x) in p.iter().enumerate() {
            if x < 1.0 { small.push(i) } else { large.push(i) }
        }
        let mut t = vec![(u64::MAX, 0u32); n];
        while let (Some(&s_), Some(&l)) = (small.last(), large.last()) {
            small.pop();
            t[s_] = ((p[s_] * u64::MAX as f64) as u64, l as u32);
            p[l] -= 1.0 - p[s_];
            if p[l] < 1.0 {
                large.pop();
                small.push(l);
            }
        }
        Alias { t }
    }
    #[inline]
    fn sample(&self, r: &mut Rng) -> usize {
        let i = r.below(self.t.len() as u64) as usize;
        let (p, a) = self.t[i];
        if r.next() < p { i } else { a as usize }
    }
}

fn vocab(n: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut r = Rng::new(seed, 0xABCDEF);
    let mut seen = std::collections::HashSet::new();
    let letters = b"etaoinshrdlucmfwypvbgkjqxz";
    let utf = ["é", "ü", "ñ", "ø", "ß", "ç", "я", "ж", "д", "λ", "東", "京", "語"];
    let mut v = Vec::with_capacity(n);
    while v.len() < n {
        let rank = v.len();
        let len = if rank < 200 {
            2 + r.below(3)
        } else if rank < 5000 {
            3 + r.below(6)
        } else {
            4 + r.below(9)
        };
        let mut w = Vec::new();
        let multi = rank >= 200 && r.below(100) < 4;
        for i in 0..len {
            if multi && r.below(4) == 0 {
                w.extend_from_slice(utf[r.below(utf.len() as u64) as usize].as_bytes());
                continue;
            }
            // skew letters a little so prefixes repeat
            let x = r.below(26).min(r.below(26)) as usize;
            let mut c = letters[x];
            if i == 0 && r.below(20) == 0 {
                c = c.to_ascii_uppercase();
            }
            w.push(c);
        }
        if seen.insert(w.clone()) {
            v.push(w);
        }
    }
    v
}

/// run `blocks` block makers on 2 threads, write in order, print size and xxh3.
fn drive(out: &str, limit: u64, blocks: u64, mk: impl Fn(u64) -> Vec<u8> + Sync) {
    let mut f = File::create(out).unwrap();
    let mut h = Xxh3::new();
    let mut total = 0u64;
    const T: u64 = 2;
    std::thread::scope(|s| {
        let rx: Vec<_> = (0..T)
            .map(|t| {
                let (tx, rx) = sync_channel::<Vec<u8>>(2);
                let mk = &mk;
                s.spawn(move || {
                    let mut b = t;
                    while b < blocks {
                        if tx.send(mk(b)).is_err() {
                            return;
                        }
                        b += T;
                    }
                });
                rx
            })
            .collect();
        for b in 0..blocks {
            let mut v = match rx[(b % T) as usize].recv() {
                Ok(v) => v,
                Err(_) => break,
            };
            if total + v.len() as u64 > limit {
                // cut at the last line end that fits
                let room = (limit - total) as usize;
                let (mut cut, mut quoted) = (0, false);
                for (i, &c) in v[..room].iter().enumerate() {
                    if c == b'"' {
                        quoted = !quoted
                    } else if c == b'\n' && !quoted {
                        cut = i + 1
                    }
                }
                v.truncate(cut);
            }
            h.update(&v);
            f.write_all(&v).unwrap();
            total += v.len() as u64;
        }
    });
    println!("{} bytes={} xxh3_64={:016x}", std::path::Path::new(out).file_name().unwrap().to_string_lossy(), total, h.digest());
}

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n = |i: usize| a[i].parse::<u64>().unwrap();
    match a[1].as_str() {
        "text" => {
            let (mib, vn, s, seed) = (n(3), n(4) as usize, a[5].parse::<f64>().unwrap(), n(6));
            let v = vocab(vn, seed);
            // flatten
            let mut off = Vec::with_capacity(vn + 1);
            let mut arena = Vec::new();
            for w in &v {
                off.push(arena.len() as u32);
                arena.extend_from_slice(w);
            }
            off.push(arena.len() as u32);
            drop(v);
            let al = Alias::zipf(vn, s);
            drive(&a[2], mib << 20, mib, |b| {
                let mut r = Rng::new(seed, b + 1);
                let mut o = Vec::with_capacity((1 << 20) + 128);
                let mut col = 0usize;
                let mut width = 70 + r.below(21) as usize;
                while o.len() < 1 << 20 {
                    let i = al.sample(&mut r);
                    let w = &arena[off[i] as usize..off[i + 1] as usize];
                    o.extend_from_slice(w);
                    col += w.len();
                    let p = r.below(100);
                    if p < 3 {
                        o.push(b',');
                        col += 1
                    } else if p < 5 {
                        o.push(b'.');
                        col += 1
                    } else if p == 5 {
                        o.push(b";:!?"[(r.below(4)) as usize]);
                        col += 1
                    }
                    if col >= width {
                        o.push(b'\n');
                        col = 0;
                        width = 70 + r.below(21) as usize
                    } else {
                        o.push(b' ');
                        col += 1
                    }
                }
                // 1 MiB blocks end at exactly 2^20 bytes with a newline
                o.truncate(1 << 20);
                *o.last_mut().unwrap() = b'\n';
                // never leave half a UTF-8 sequence before the newline
                let mut e = o.len() - 2;
                while o[e] & 0xC0 == 0x80 {
                    e -= 1
                }
                if o[e] >= 0xC0 {
                    let need = if o[e] >= 0xE0 { 3 } else { 2 };
                    if o.len() - 1 - e < need {
                        for x in e..o.len() - 1 {
                            o[x] = b'x'
                        }
                    }
                }
                o
            });
        }
        "csv" => {
            let (mib, seed) = (n(3), n(4));
            let cities: Vec<String> = (0..200)
                .map(|i| format!("{}{}", ["Aarhus", "Bergen", "Cádiz", "Dover", "Essen", "Faro", "Gent", "Hull"][i % 8], i / 8))
                .collect();
            let cats = [
                "grocery", "toys", "books", "garden", "sport", "music", "home", "auto", "beauty", "health", "office", "pets", "shoes",
                "baby", "games", "tools", "video", "phone", "watch", "travel",
            ];
            let cz = Alias::zipf(200, 0.8);
            let rows_per = 8192u64;
            let head = b"id,ts,vendor,city,category,quantity,price,discount,customer,note\n".to_vec();
            let blocks = (mib << 20) / (rows_per * 80) + 2;
            drive(&a[2], mib << 20, blocks, |b| {
                let mut r = Rng::new(seed, b + 1);
                let mut o = if b == 0 { head.clone() } else { Vec::new() };
                for k in 0..rows_per {
                    let id = b * rows_per + k;
                    let day = r.below(730);
                    let (mut y, mut d) = (2023, day);
                    if d >= 365 {
                        y = 2024;
                        d -= 365;
                    }
                    let ml = [31, if y == 2024 { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
                    let mut m = 0;
                    while d >= ml[m] {
                        d -= ml[m];
                        m += 1;
                    }
                    let sec = r.below(86400);
                    let cust = r.below(5_000_000).wrapping_mul(2654435761) % 5_000_011;
                    let price = r.below(1_000_000);
                    write!(
                        o,
                        "{},{}-{:02}-{:02} {:02}:{:02}:{:02},{},{},{},{},{}.{:02},{:.3},C{:08}-{:02x},",
                        id,
                        y,
                        m + 1,
                        d + 1,
                        sec / 3600,
                        sec / 60 % 60,
                        sec % 60,
                        1 + r.below(8),
                        cities[cz.sample(&mut r)],
                        cats[r.below(20) as usize],
                        1 + r.below(20),
                        price / 100,
                        price % 100,
                        r.f() * 0.3,
                        cust,
                        (cust * 31) & 255
                    )
                    .unwrap();
                    match r.below(100) {
                        0..=5 => write!(o, "\"left at door, ring {} times\"", r.below(9)).unwrap(),
                        6..=7 => write!(o, "\"line one\nline two, \"\"quoted\"\" {}\"", r.below(99)).unwrap(),
                        8..=59 => {}
                        _ => write!(o, "note {}", r.below(100_000)).unwrap(),
                    }
                    o.push(b'\n');
                }
                o
            });
        }
        "tera" => {
            let (mib, seed) = (n(3), n(4));
            let recs = (mib << 20) / 100;
            let per = 10_000u64;
            drive(&a[2], recs * 100, recs.div_ceil(per), |b| {
                let mut r = Rng::new(seed, b + 1);
                let cnt = per.min(recs - b * per);
                let mut o = Vec::with_capacity(per as usize * 100);
                for k in 0..cnt {
                    let (mut x, mut y) = (r.next(), r.next());
                    for _ in 0..5 {
                        o.push(b' ' + (x % 95) as u8);
                        x /= 95
                    }
                    for _ in 0..5 {
                        o.push(b' ' + (y % 95) as u8);
                        y /= 95
                    }
                    write!(o, "  {:032X}  ", b * per + k).unwrap();
                    let z = r.next();
                    for j in 0..13 {
                        let c = b"0123456789ABCDEF"[((z >> (4 * j)) & 15) as usize];
                        o.extend_from_slice(&[c; 4]);
                    }
                    o.extend_from_slice(b"\r\n");
                }
                o
            });
        }
        _ => panic!("unknown kind"),
    }
}
