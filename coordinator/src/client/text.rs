//! Small pieces of text: quantities, tables, and words that came from strangers.

use std::time::Duration;

use comfy_table::{Table, presets};
use indicatif::HumanBytes;

/// A text that came from elsewhere, without anything that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() && c != '\n' && c != '\t' { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A number of bytes.
pub(crate) fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A duration, to the digits that matter: `0.042 s`, `12.3 s`, `4 min 05 s`, `1 h 02 min`.
pub(crate) fn duration(ms: u64) -> String {
    let elapsed = Duration::from_millis(ms);
    match elapsed.as_secs() {
        0..10 => format!("{:.3} s", elapsed.as_secs_f64()),
        10..60 => format!("{:.1} s", elapsed.as_secs_f64()),
        seconds @ 60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A number of things: `1 file`, `2 files`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A table without lines, as wide as what is in it.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)).to_vec());
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_digits_that_matter() {
        let shown = [42, 12_345, 245_000, 3_725_000].map(duration);
        assert_eq!(shown, ["0.042 s", "12.3 s", "4 min 05 s", "1 h 02 min"]);
    }

    #[test]
    fn a_terminal_is_not_told_anything_by_strangers() {
        assert_eq!(plain("a\u{1b}[2Jb\rc\td"), "a\\u{1b}[2Jb\\rc\td");
        assert!(!table(["NAME"], [["\u{1b}[31m".to_owned()]]).contains('\u{1b}'));
    }
}
