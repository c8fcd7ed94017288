//! Text: compressed, cut short, with and without a byte order mark, from files, folders and patterns.

use shardmill_tests::oracle::word_count;
use shardmill_tests::text::text;
use shardmill_tests::{Job, Place};

use crate::write::{bzip2, gzip, zstd};

/// Counts the words of everything that `inputs` name, by a run in `place`.
fn count(place: &Place, inputs: &[&str]) -> Vec<Vec<String>> {
    let job = Job::new("word-count", &place.path("out")).with("--overwrite --threads 3");
    let (_, output) = inputs.iter().fold(job, |job, input| job.input(place.path(input))).run().success();
    output.csv_parts().1.concat()
}

#[test]
fn compressed_text_is_the_text_all_its_members_included() {
    let texts = [text(30, 100_000), text(31, 100), text(32, 100_000)];
    let pieces = texts.each_ref().map(String::as_str);
    let expected = word_count([texts.concat().as_str()]);
    for (name, content) in [("text.gz", gzip(&pieces)), ("text.txt.zst", zstd(&pieces)), ("text.bz2", bzip2(&pieces))] {
        let place = Place::new();
        place.write(name, &content);
        assert_eq!(count(&place, &[name]), expected, "{name}");
    }
}

#[test]
fn compressed_text_that_is_cut_short_is_an_error_and_no_output() {
    let text = text(33, 300_000);
    for (name, content) in [("text.gz", gzip(&[&text])), ("text.zst", zstd(&[&text])), ("text.bz2", bzip2(&[&text]))] {
        for kept in [content.len() - 1, content.len() / 2] {
            let place = Place::new();
            let input = place.write(name, &content[..kept]);
            let told = Job::new("word-count", &place.path("out")).input(&input).run().failure(1);
            assert!(told.contains(input.to_str().unwrap()), "{told}");
            assert_eq!(place.names(), [name]);
        }
    }
}

#[test]
fn compressed_text_that_is_damaged_is_an_error_and_no_output() {
    let place = Place::new();
    let mut content = gzip(&[&text(34, 100_000)]);
    let middle = content.len() / 2;
    content[middle] ^= 0xff;
    let input = place.write("text.gz", content);
    let told = Job::new("word-count", &place.path("out")).input(&input).run().failure(1);
    assert!(told.contains(input.to_str().unwrap()), "{told}");
}

#[test]
fn a_file_that_expands_without_end_is_stopped() {
    let place = Place::new();
    // What gzip packs hundreds of times and bzip2 a hundred thousand times.
    let word = "0".repeat(1023);
    let zeros = format!("{word}\n").repeat(20 << 10);
    for (name, content) in [("bomb.gz", gzip(&[&zeros])), ("bomb.bz2", bzip2(&[&zeros]))] {
        let input = place.write(name, content);
        let job = || Job::new("word-count", &place.path(&format!("of-{name}"))).input(&input);
        let told = job().run().failure(1);
        assert!(told.contains(name) && told.contains("200 times its size") && told.contains("--max-expansion"), "{told}");
        let (_, output) = job().with("--max-expansion 100000").run().success();
        assert_eq!(output.text(), format!("word,count\n{word},20480\n"));
    }
}

#[test]
fn a_line_that_is_too_long_is_an_error_that_says_so() {
    let place = Place::new();
    let input = place.write("text.txt", "short\n".to_owned() + &"xyz ".repeat(25_000) + "\nshort");
    let told = Job::new("word-count", &place.path("out")).input(&input).with("--max-record-bytes 50KiB").run().failure(1);
    assert!(told.contains("text.txt") && told.contains("51200") && told.contains('6'), "{told}");
    let (_, output) = Job::new("word-count", &place.path("out")).input(&input).with("--max-record-bytes 100001").run().success();
    assert!(output.text().contains("short,2"));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_word_and_line_ends_are_of_none() {
    let place = Place::new();
    place.write("in/bom.txt", "\u{feff}one two\r\ntwo\rthree\nthree\r\n\r\nthree");
    place.write("in/only.txt", "\u{feff}");
    let expected = [["one", "1"], ["three", "3"], ["two", "2"]];
    assert_eq!(count(&place, &["in"]), expected);
}

#[test]
fn empty_files_count_as_files_and_an_input_of_them_alone_gives_empty_parts() {
    let place = Place::new();
    place.write("in/a.txt", "");
    place.write("in/b.txt", "");
    let job = Job::new("word-count", &place.path("out")).input(place.path("in")).with("--partitions 3");
    let (summary, output) = job.run().success();
    assert_eq!((summary.input_files, summary.input_records, summary.output_records), (2, 0, 0));
    assert_eq!(output.parts(), [b"word,count\n"; 3]);
    place.write("in/c.txt", "word");
    assert_eq!(count(&place, &["in"]), [["word", "1"]]);
}

#[test]
fn files_folders_and_patterns_name_each_file_once() {
    let place = Place::new();
    for name in ["in/a.txt", "in/b.log", "in/deep/er/c.txt", "in/_temporary/d.txt", "in/.hidden/e.txt", "in/_SUCCESS", "in/.f.txt"] {
        place.write(name, name.rsplit('/').next().unwrap());
    }
    let words = |inputs: &[&str]| count(&place, inputs).into_iter().map(|row| row.join(" ")).collect::<Vec<_>>();
    assert_eq!(words(&["in"]), ["a.txt 1", "b.log 1", "c.txt 1"]);
    assert_eq!(words(&["in/*.txt"]), ["a.txt 1"]);
    assert_eq!(words(&["in/**/*.txt"]), ["a.txt 1", "c.txt 1"]);
    assert_eq!(words(&["in/{a,b}.*"]), ["a.txt 1", "b.log 1"]);
    assert_eq!(words(&["in", "in/a.txt", "in/*.txt", "in/deep/../a.txt"]), ["a.txt 1", "b.log 1", "c.txt 1"]);
    assert_eq!(words(&["in/_temporary/d.txt"]), ["d.txt 1"], "what is named is read, whatever it is called");
}

#[test]
fn links_that_go_in_circles_are_followed_once() {
    let place = Place::new();
    place.write("in/a.txt", "a");
    place.write("in/deep/b.txt", "b");
    std::os::unix::fs::symlink(place.path("in"), place.path("in/deep/up")).unwrap();
    assert_eq!(count(&place, &["in"]), [["a", "1"], ["b", "1"]]);
}
