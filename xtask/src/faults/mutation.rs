//! Changes to files: what disks, networks, editors and people do to them.

use std::fs;
use std::path::{Path, PathBuf};

use super::dice::Dice;
use super::failure::{Failure, broken};

/// How many of the values are numbers; they come first.
const NUMBERS: usize = 16;

/// Values that stand where another one should.
const VALUES: [&str; 32] = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "64",
    "257",
    "65536000000",
    "1000000000000",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "0.5",
    "1e300",
    "1e-300",
    "nan",
    "inf",
    "-inf",
    "true",
    "false",
    "\"\"",
    "\"auto\"",
    "\"adamw\"",
    "\"1e3\"",
    "[]",
    "[1, 2]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
    "None",
    "'\u{e9}\u{200b}'",
];

/// Damages a file in one of the ways in which files are damaged, and says how.
pub(super) fn damage(dice: &mut Dice, path: &Path) -> Result<String, Failure> {
    let failed = |what: &str| broken(format!("{what} {}", path.display()));
    let mut bytes = fs::read(path).map_err(failed("read"))?;
    let length = bytes.len();
    let at = dice.below(length.max(1));
    let what = match dice.below(8) {
        0 => {
            fs::remove_file(path).map_err(failed("remove"))?;
            return Ok("removed".into());
        }
        1 | 2 => {
            bytes.truncate(at);
            format!("cut to {at} of {length} bytes")
        }
        3 => {
            bytes.extend(b"{\"step\":1");
            "a torn line added".into()
        }
        4 => {
            let end = (at + dice.below(512)).min(length);
            bytes[at..end].fill(0);
            format!("bytes {at} to {end} zeroed")
        }
        _ if length > 0 => {
            let bit = dice.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} of {length} flipped")
        }
        _ => {
            bytes.push(0);
            "a byte added".into()
        }
    };
    fs::write(path, bytes).map_err(failed("write"))?;
    Ok(what)
}

/// Changes the first `reach` bytes of a binary file or of JSON.
pub(super) fn change_bytes(dice: &mut Dice, bytes: &mut Vec<u8>, reach: usize) -> String {
    let reach = reach.min(bytes.len());
    if reach == 0 {
        bytes.push(b'{');
        return "a byte added".into();
    }
    let at = dice.below(reach);
    match dice.below(5) {
        0 => {
            bytes.truncate(at);
            format!("cut to {at} bytes")
        }
        1 => {
            let added: Vec<u8> = (0..=dice.below(8)).map(|_| dice.within(0..256) as u8).collect();
            let text = format!("{added:?} put in at {at}");
            bytes.splice(at..at, added);
            text
        }
        2 | 3 => change_number(dice, bytes, reach),
        _ => {
            let bit = dice.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
    }
}

/// Puts another value where digits are.
fn change_number(dice: &mut Dice, bytes: &mut Vec<u8>, reach: usize) -> String {
    let is_digit = |at: usize| bytes[at].is_ascii_digit();
    let starts: Vec<usize> =
        (0..reach).filter(|&at| is_digit(at) && (at == 0 || !is_digit(at - 1))).collect();
    if starts.is_empty() {
        return "nothing changed".into();
    }
    let start = dice.pick(&starts);
    let end = (start..bytes.len()).find(|&at| !bytes[at].is_ascii_digit()).unwrap_or(bytes.len());
    let value = dice.pick(&VALUES);
    bytes.splice(start..end, value.bytes());
    format!("number at {start} is {value}")
}

/// Changes a text of keys and values.
pub(super) fn change_toml(dice: &mut Dice, text: &str) -> (String, String) {
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    let at = dice.below(lines.len());
    let line = lines[at].clone();
    let what = match dice.below(10) {
        0 => {
            lines.remove(at);
            format!("without `{line}`")
        }
        1 => {
            lines.insert(at, line.clone());
            format!("`{line}` twice")
        }
        2 => {
            let other = dice.below(lines.len());
            lines.swap(at, other);
            format!("`{line}` at line {other}")
        }
        3 | 4 => {
            let mut bytes = line.clone().into_bytes();
            let reach = bytes.len();
            change_bytes(dice, &mut bytes, reach);
            lines[at] = String::from_utf8_lossy(&bytes).into_owned();
            format!("`{line}` is `{}`", lines[at])
        }
        5 => {
            let words: Vec<&str> = line.split(' ').collect();
            let left_out = dice.below(words.len());
            let kept = words.iter().enumerate().filter(|(nth, _)| *nth != left_out);
            lines[at] = kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ");
            format!("`{line}` is `{}`", lines[at])
        }
        _ => replace_value(dice, &mut lines),
    };
    (lines.join("\n") + "\n", what)
}

/// Gives a key another value, a number mostly another number.
fn replace_value(dice: &mut Dice, lines: &mut [String]) -> String {
    let keys: Vec<usize> = (0..lines.len()).filter(|&at| lines[at].contains(" = ")).collect();
    let Some(&at) = keys.get(dice.below(keys.len().max(1))) else { return "nothing".into() };
    let line = lines[at].clone();
    let (key, value) = line.split_once(" = ").unwrap_or_default();
    let is_number = value.parse::<f64>().is_ok();
    let among = if is_number && dice.chance(80) { &VALUES[..NUMBERS] } else { &VALUES[..] };
    lines[at] = format!("{key} = {}", dice.pick(among));
    format!("`{line}` is `{}`", lines[at])
}

/// Returns the files in a folder and below, in the order of their paths.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder { &mut folders } else { &mut found }.push(entry.path());
        }
    }
    found.sort();
    found
}
