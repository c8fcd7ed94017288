//! Text with everything in it that a reader of words and lines can get wrong.

use crate::random::Random;

const SPACES: [&str; 12] = [" ", " ", " ", " ", " ", "\t", "  ", "\n", "\n", "\r\n", "\u{a0}", "\u{3000}"];
const STEMS: [&str; 8] = ["tide", "Lotse", "маяк", "港", "quai,", "\"rope\"", "e\u{301}t", "a\rb\0"];

/// About `bytes` of text: some words are frequent, most are rare; white space of all kinds between them; a few words are very long.
pub fn text(seed: u64, bytes: usize) -> String {
    let mut random = Random::new(seed);
    let mut text = String::with_capacity(bytes + 512);
    while text.len() < bytes {
        let most = 1 + random.below(100_000);
        let number = random.below(most);
        text.push_str(STEMS[(number % 8) as usize]);
        text.push_str(&number.to_string());
        if random.once_in(5_000) {
            text.push_str(&"x".repeat(300));
        }
        text.push_str(random.pick::<&str>(&SPACES));
    }
    text
}

/// About `bytes` of words that are all different, 11 bytes and a separator each, for as long as one draws.
pub fn distinct_words(bytes: u64) -> impl Iterator<Item = String> {
    // Multiplied by an odd number, all are still different, and neighbours are far apart.
    (0..bytes / 12).map(|number: u64| {
        let word = format!("{:011x}", number.wrapping_mul(0x09e3_779b_97f5) & 0xfff_ffff_ffff);
        word + if number % 8 == 7 { "\n" } else { " " }
    })
}
