//! The law of resharding: whatever partition goes in, any block comes out.

use dream_trainer::checkpoint::{Block, CheckpointStore};
use proptest::prelude::*;

use crate::fixture::{counted, save};

/// Cuts `block` in two at each choice that names a possible cut, depth first.
fn partition(block: Block, choices: &mut impl Iterator<Item = (usize, usize)>) -> Vec<Block> {
    let Some((dim, at)) = choices.next() else {
        return vec![block];
    };
    if block.shape.is_empty() {
        return vec![block];
    }
    let dim = dim % block.shape.len();
    let at = at % (block.shape[dim] + 1);
    if at == 0 || at == block.shape[dim] {
        return vec![block];
    }
    let (mut low, mut high) = (block.clone(), block);
    low.shape[dim] = at;
    high.offset[dim] += at;
    high.shape[dim] -= at;
    let mut blocks = partition(low, choices);
    blocks.extend(partition(high, choices));
    blocks
}

fn tensors() -> impl Strategy<Value = (Vec<usize>, Vec<Block>)> {
    let shape = prop::collection::vec(1_usize..7, 0..4);
    let choices = prop::collection::vec((0_usize..4, 0_usize..8), 0..12);
    (shape, choices).prop_map(|(shape, choices)| {
        let blocks = partition(Block::whole(&shape), &mut choices.into_iter());
        (shape, blocks)
    })
}

fn block_within(shape: Vec<usize>) -> impl Strategy<Value = Block> {
    let dim = |len: usize| (0..=len).prop_flat_map(move |at| (Just(at), 0..=len - at));
    let dims: Vec<_> = shape.into_iter().map(dim).collect();
    dims.prop_map(|dims| {
        let (offset, shape): (Vec<usize>, Vec<usize>) = dims.into_iter().unzip();
        Block::new(offset, shape)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_partition_in_any_block_out(
        (shape, blocks, wanted) in tensors().prop_flat_map(|(shape, blocks)| {
            let wanted = block_within(shape.clone());
            (Just(shape), Just(blocks), wanted)
        })
    ) {
        let directory = tempfile::tempdir().unwrap();
        let checkpoint = save(&CheckpointStore::new(directory.path()), 1, 3, &shape, &blocks);
        let read = checkpoint.read_block("model/w", &wanted).unwrap();
        prop_assert_eq!(read, counted(&shape, &wanted));
        let whole = checkpoint.read("model/w").unwrap();
        prop_assert_eq!(whole, counted(&shape, &Block::whole(&shape)));
    }

    #[test]
    fn a_flat_range_is_cut_into_few_blocks_in_order(
        shape in prop::collection::vec(1_usize..6, 0..4),
        (start, len) in (0_usize..130, 0_usize..130),
    ) {
        let total = shape.iter().product::<usize>();
        let start = start.min(total);
        let range = start..(start + len).min(total);
        let blocks = Block::cover_flat_range(&shape, range.clone());
        prop_assert!(blocks.len() < (2 * shape.len()).max(2));
        let elements = blocks.iter().flat_map(|b| counted(&shape, b).try_to_vec::<f32>().unwrap());
        let expected: Vec<f32> = range.map(|i| i as f32).collect();
        prop_assert_eq!(elements.collect::<Vec<_>>(), expected);
    }
}
