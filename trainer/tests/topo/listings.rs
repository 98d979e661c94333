//! The listings of three 24-rank runs, and the reader of rank lines that checks them.

use std::collections::BTreeMap;

use crate::topo;

/// A run of 24 ranks, printed by the launcher we follow on two nodes of twelve.
struct Listing {
    flags: &'static str,
    /// Sizes of tp, cp, pp, dp as its banner prints them.
    banner: [usize; 4],
    /// The printed dimensions in their order, with their sizes.
    dims: &'static [(&'static str, usize)],
    /// `rank:indices`, one digit per dimension.
    ranks: &'static str,
}

const A: Listing = Listing {
    flags: "--tp 1 --cp 4 --pp 2",
    banner: [1, 4, 2, 3],
    dims: &[("cp", 4), ("pp", 2), ("dp", 3)],
    ranks: "0:000 1:100 2:200 3:300 4:010 5:110 6:210 7:310 8:001 9:101 10:201 11:301 12:011 \
            13:111 14:211 15:311 16:002 17:102 18:202 19:302 20:012 21:112 22:212 23:312",
};

const B: Listing = Listing {
    flags: "--tp 2 --cp 2 --pp 2",
    banner: [2, 2, 2, 3],
    dims: &[("cp", 2), ("pp", 2), ("tp", 2), ("dp", 3)],
    ranks: "0:0000 1:0010 2:1000 3:1010 4:0100 5:0110 6:1100 7:1110 8:0001 9:0011 10:1001 11:1011 \
            12:0101 13:0111 14:1101 15:1111 16:0002 17:0012 18:1002 19:1012 20:0102 21:0112 \
            22:1102 23:1112",
};

const C: Listing = Listing {
    flags: "--tp 2 --cp 2",
    banner: [2, 2, 1, 6],
    dims: &[("cp", 2), ("tp", 2), ("dp", 6)],
    ranks: "0:000 1:010 2:100 3:110 4:001 5:011 6:101 7:111 8:002 9:012 10:102 11:112 12:003 \
            13:013 14:103 15:113 16:004 17:014 18:104 19:114 20:005 21:015 22:105 23:115",
};

impl Listing {
    fn lines(&self) -> Vec<String> {
        let entries = self.ranks.split_whitespace().map(|entry| entry.split_once(':').unwrap());
        entries
            .map(|(rank, indices)| {
                let dims = self.dims.iter().zip(indices.chars());
                let dims =
                    dims.map(|((name, size), index)| format!("[{name}:{index}/{}]", size - 1));
                format!("[{rank:>2}/23]: {}", dims.collect::<String>())
            })
            .collect()
    }
}

pub(crate) type Dims = BTreeMap<String, usize>;

/// Reads rank lines in any order, with any prefix, and demands each rank exactly once.
pub(crate) fn read_ranks(text: &str) -> Result<Vec<Dims>, String> {
    let (mut ranks, mut expected) = (BTreeMap::new(), 0);
    for line in text.lines() {
        let Some((head, dims)) = line.split_once("]: ") else {
            continue;
        };
        let rank = head.rsplit_once('[').and_then(|(_, rank)| rank.split_once('/'));
        let (rank, last) = rank.ok_or_else(|| format!("no rank in `{line}`"))?;
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("`{line}`"));
        let mut indices = Dims::new();
        for dim in dims.split(['[', ']']).filter(|dim| !dim.is_empty()) {
            let (name, index) = dim.split_once(':').ok_or_else(|| format!("`{line}`"))?;
            let (index, _) = index.split_once('/').ok_or_else(|| format!("`{line}`"))?;
            indices.insert(name.to_owned(), number(index)?);
        }
        expected = number(last)? + 1;
        if ranks.insert(number(rank)?, indices).is_some() {
            return Err(format!("rank {rank} twice"));
        }
    }
    match (0..expected).find(|rank| !ranks.contains_key(rank)) {
        Some(rank) => Err(format!("rank {rank} missing")),
        None => Ok(ranks.into_values().collect()),
    }
}

#[test]
fn reproduces_the_three_listings() {
    for listing in [A, B, C] {
        let text = topo(&format!("--world-size 24 {} --mesh-order dp,pp,cp,tp", listing.flags));
        let [tp, cp, pp, dp] = listing.banner;
        let banner = format!(
            "> initializing model parallel with size {tp}\n\
             > initializing context parallel with size {cp}\n\
             > initializing pipeline with size {pp}\n\
             > initializing ddp with size {dp}\n"
        );
        assert_eq!(text, format!("{banner}{}\n", listing.lines().join("\n")));
    }
}

#[test]
fn rank_lines_are_understood_shuffled_and_checked_for_completeness() {
    let mut lines = B.lines();
    let ordered = read_ranks(&lines.join("\n")).unwrap();
    assert_eq!(ordered.len(), 24);
    assert_eq!(ordered[5], Dims::from([("cp", 0), ("pp", 1), ("tp", 1), ("dp", 0)].map(own)));
    lines.rotate_left(7);
    lines.swap(0, 11);
    let prefixed: Vec<_> = lines.iter().map(|line| format!("[00:00][INFO] - {line}")).collect();
    assert_eq!(read_ranks(&prefixed.join("\n")), Ok(ordered));
    let removed = lines.remove(3);
    assert!(read_ranks(&lines.join("\n")).unwrap_err().ends_with("missing"));
    lines.extend([removed.clone(), removed]);
    assert!(read_ranks(&lines.join("\n")).unwrap_err().ends_with("twice"));
}

pub(crate) fn own((name, index): (&str, usize)) -> (String, usize) {
    (name.to_owned(), index)
}
