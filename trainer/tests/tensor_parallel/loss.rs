//! Embedding, head and loss over parts of a vocabulary, against the whole.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_trainer::comm::ProcessGroup;
use dream_trainer::kernels::{
    IGNORE_INDEX, linear_cross_entropy, measure_saved_bytes, tied_linear_cross_entropy,
};
use dream_trainer::mesh::Placement;
use dream_trainer::nn::{Embedding, EmbeddingConfig, HeadTable, Linear, LinearConfig, Scope};
use dream_trainer::tensor_parallel::{
    ColwiseParallel, Plan, SEQUENCE, TensorParallel, TensorParallelOptions, VocabParallel,
    vocab_parallel_cross_entropy,
};

use crate::harness::{
    Piece, assemble, assert_close, assert_gradients, device, pieces, ranks, read, tensor,
};
use crate::tolerance::{PAIR, SHADER};

/// The tolerance of sums over a vocabulary of thousands, which a shader adds up one after the other.
fn long_sum() -> f64 {
    if device().inner() == Device::flex() { PAIR } else { SHADER }
}

/// Divides by none of the numbers of ranks.
const VOCABULARY: usize = 23;
const TOKENS: [usize; 2] = [2, 8];

#[derive(Module, Debug)]
struct Bigram {
    table: Embedding,
    head: Option<Linear>,
}

impl Bigram {
    fn new(scope: &Scope, tied: bool) -> Self {
        let head = || LinearConfig::new(12, VOCABULARY).init(&scope.child("head"));
        Self {
            table: EmbeddingConfig::new(VOCABULARY, 12).init(&scope.child("table")),
            head: (!tied).then(head),
        }
    }

    fn loss(&self, ids: Tensor<2, Int>, labels: Tensor<1, Int>) -> Tensor<1> {
        let hidden = self.table.forward(ids);
        match &self.head {
            Some(head) => head.cross_entropy(hidden, labels),
            None => self.table.cross_entropy(hidden, labels),
        }
    }

    fn logits(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let hidden = self.table.forward(ids);
        self.head
            .as_ref()
            .map_or_else(|| self.table.logits(hidden.clone()), |head| head.logits(hidden.clone()))
    }
}

fn batch() -> (Tensor<2, Int>, Tensor<1, Int>) {
    let ids: Vec<i32> = (0..16).map(|i| (i * 7 + 22) % VOCABULARY as i32).collect();
    // The last id is a label; a few labels are padding.
    let label =
        |i: i32| if i % 5 == 3 { IGNORE_INDEX as i32 } else { (i * 11 + 22) % VOCABULARY as i32 };
    let labels: Vec<i32> = (0..16).map(label).collect();
    let device = device().inner();
    (
        Tensor::from_data(TensorData::new(ids, TOKENS), &device),
        Tensor::from_data(TensorData::new(labels, [16]), &device),
    )
}

fn run(plan: Option<&Plan>, tied: bool, group: &ProcessGroup) -> (f64, Vec<f64>, Vec<Piece>) {
    let scope = Scope::root(device(), 5);
    let mut model = Bigram::new(&scope, tied);
    if let Some(plan) = plan {
        let tp =
            TensorParallel::new(scope.clone(), group.clone(), TensorParallelOptions::default());
        model = tp.parallelize(model, plan).expect("the plan fits");
    }
    let (ids, labels) = batch();
    let loss = model.loss(ids.clone(), labels);
    let grads = loss.clone().backward();
    (read(loss)[0], read(model.logits(ids)), pieces(&model, &scope, grads))
}

#[test]
fn split_vocabularies_give_the_loss_logits_and_gradients_of_the_whole() {
    for tied in [false, true] {
        let (loss, logits, gradients) = ranks(1, |group| run(None, tied, group)).remove(0);
        let expected = assemble(vec![gradients]);
        let last_row = &expected["table.weight"][(VOCABULARY - 1) * 12..];
        assert!(last_row.iter().any(|g| *g != 0.0), "the last id learns");
        for n in [2, 4, 8] {
            for between in [Placement::Replicate, SEQUENCE] {
                for loss_parallel in [false, true] {
                    let what =
                        format!("{n} ranks, tied {tied}, {between}, loss parallel {loss_parallel}");
                    let style = VocabParallel::default()
                        .with_output(between)
                        .with_head_input(between)
                        .with_loss_parallel(loss_parallel);
                    let plan = Plan::new().style("table", style);
                    let plan =
                        if tied { plan } else { plan.style("head", style).flow(["table", "head"]) };
                    let mut pieces = Vec::new();
                    for (rank_loss, rank_logits, gradients) in
                        ranks(n, |group| run(Some(&plan), tied, group))
                    {
                        assert_close(&format!("{what}: loss"), &[rank_loss], &[loss], PAIR);
                        assert_close(&format!("{what}: logits"), &rank_logits, &logits, PAIR);
                        pieces.push(gradients);
                    }
                    assert_gradients(&what, &assemble(pieces), &expected, PAIR);
                }
            }
        }
    }
}

#[test]
fn a_known_row_has_the_known_loss_and_gradient() {
    let results = ranks(2, |group| {
        // A weight of the identity's columns makes the hidden states the logits.
        let scale =
            |row: usize, column: usize| f32::from(u8::from(row == column + 2 * group.rank()));
        let weight: Vec<f32> = (0..8).map(|i| scale(i / 2, i % 2)).collect();
        let weight =
            Tensor::<2>::from_data(TensorData::new(weight, [4, 2]), &device()).require_grad();
        let rows = [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]];
        let hidden = Tensor::<2>::from_data(rows, &device()).require_grad();
        let labels = Tensor::from_data([2, IGNORE_INDEX], &device().inner());
        let calls = group.counters().of("all_reduce");
        let loss = vocab_parallel_cross_entropy(
            hidden.clone(),
            HeadTable::Projection(weight.clone()),
            labels,
            4,
            group,
        );
        let used = group.counters().of("all_reduce");
        let mut grads = loss.clone().backward();
        let dx = read(hidden.grad_remove(&mut grads).expect("a leaf"));
        (read(loss), dx, used.calls - calls.calls, used.bytes - calls.bytes)
    });
    let parts: [&[f64]; 2] =
        [&[0.032_058_6, 0.087_144_3, 0.0, 0.0], &[0.0, 0.0, -0.763_117_2, 0.643_914_3]];
    for ((loss, dx, calls, _), expected) in results.into_iter().zip(parts) {
        assert_close("loss", &loss, &[1.440_189_7], PAIR);
        assert_close("gradient of the row", &dx[..4], expected, PAIR);
        assert_eq!(dx[4..], [0.0; 4], "an ignored row has no gradient at all");
        assert_eq!(calls, 3);
    }
}

#[test]
fn logits_that_are_made_block_by_block_give_the_same_loss() {
    // 8195 columns on each of two ranks leave 128 tokens to a block.
    const COLUMNS: usize = 16_390;
    const ROWS: usize = 160;
    let (hidden, whole) = (tensor::<2>(1, [ROWS, 4]), tensor::<2>(2, [4, COLUMNS]));
    let label = |i: usize| {
        if i.is_multiple_of(7) {
            IGNORE_INDEX as i32
        } else {
            ((i * 331 + COLUMNS - 1) % COLUMNS) as i32
        }
    };
    let labels: Vec<i32> = (0..ROWS).map(label).collect();
    let labels = || {
        let data = TensorData::new(labels.clone(), [ROWS]);
        Tensor::<1, Int>::from_data(data, &device().inner())
    };
    let leaves = || (hidden.clone().detach().require_grad(), whole.clone().detach().require_grad());
    let (x, w) = leaves();
    let loss = linear_cross_entropy(x.clone(), w.clone(), labels());
    let mut grads = loss.clone().backward();
    let dx = read(x.grad_remove(&mut grads).expect("a leaf"));
    let dw = w.grad_remove(&mut grads).expect("a leaf");
    let (values, shards) = (read(hidden.clone()), whole.clone().inner().into_data());
    let parts = ranks(2, |group| {
        let weight = Tensor::<2>::from_data(shards.clone(), &device().inner());
        let weight = weight.narrow(1, group.rank() * COLUMNS / 2, COLUMNS / 2);
        let weight = weight.autodiff().require_grad();
        let hidden: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        let hidden = Tensor::<2>::from_data(TensorData::new(hidden, [ROWS, 4]), &device());
        let hidden = hidden.require_grad();
        let table = HeadTable::Projection(weight.clone());
        let loss = vocab_parallel_cross_entropy(hidden.clone(), table, labels(), COLUMNS, group);
        let mut grads = loss.clone().backward();
        let dx = read(hidden.grad_remove(&mut grads).expect("a leaf"));
        (read(loss), dx, read(weight.grad_remove(&mut grads).expect("a leaf")))
    });
    let sum: Vec<f64> = parts[0].1.iter().zip(&parts[1].1).map(|(a, b)| a + b).collect();
    assert_close("gradient of the hidden states", &sum, &dx, long_sum());
    for (rank, (value, _, gradient)) in parts.iter().enumerate() {
        assert_close("loss", value, &read(loss.clone()), PAIR);
        let expected = read(dw.clone().narrow(1, rank * COLUMNS / 2, COLUMNS / 2));
        assert_close("gradient of the weight", gradient, &expected, PAIR);
    }
}

#[test]
fn a_vocabulary_too_small_for_its_ranks_is_an_error() {
    let scope = Scope::root(device(), 5);
    let model = EmbeddingConfig::new(5, 4).init(&scope.child("table"));
    let tp = TensorParallel::planned(scope, 4, TensorParallelOptions::default());
    let error = tp
        .parallelize(model, &Plan::new().style("table", VocabParallel::default()))
        .expect_err("rank 3 has none");
    assert_eq!(
        error.to_string(),
        "the vocabulary of `table.weight` has 5 rows, too few to give each of 4 ranks at least one"
    );
}

#[test]
fn a_columnwise_head_has_the_loss_its_output_layout_says() {
    let dense = ranks(1, |group| run(None, false, group)).remove(0).0;
    for output in [Placement::Replicate, dream_trainer::tensor_parallel::FEATURES] {
        let losses = ranks(1, |group| {
            let plan = Plan::new().style("head", ColwiseParallel::default().with_output(output));
            run(Some(&plan), false, group).0
        });
        assert_close("loss", &losses, &[dense], PAIR);
    }
}

#[test]
fn several_blocks_of_tokens_give_the_loss_of_all_and_never_hold_their_logits() {
    const WIDTH: usize = 6;
    /// More than two blocks of 128 tokens, which is the smallest one.
    const MANY: usize = 300;
    /// So large that a block of more tokens would hold too many logits.
    const IDS: usize = 20_001;
    let labels = || {
        let label =
            |i: usize| if i.is_multiple_of(7) { IGNORE_INDEX } else { (i * 67 % IDS) as i64 };
        let labels: Vec<i64> = (0..MANY).map(label).collect();
        Tensor::<1, Int>::from_data(TensorData::new(labels, [MANY]), &device().inner())
    };
    let leaf = |seed: u64, shape| tensor::<2>(seed, shape).detach().require_grad();
    let (x, table) = (leaf(1, [MANY, WIDTH]), leaf(2, [IDS, WIDTH]));
    let dense = tied_linear_cross_entropy(x.clone(), table.clone(), labels());
    let mut grads = dense.clone().backward();
    let [dx, dw] = [x, table].map(|leaf| read(leaf.grad_remove(&mut grads).expect("a leaf")));
    let dense = read(dense);
    for n in [2, 4] {
        let (mut sum, mut parts) = (vec![0.0; MANY * WIDTH], Vec::new());
        for (loss, x, part, saved) in ranks(n, |group| {
            let rows = IDS.div_ceil(n);
            let own = group.rank() * rows..IDS.min((group.rank() + 1) * rows);
            let x = leaf(1, [MANY, WIDTH]);
            let whole = tensor::<2>(2, [IDS, WIDTH]);
            let part = whole.narrow(0, own.start, own.len()).detach().require_grad();
            let head = HeadTable::Embedding(part.clone());
            let (loss, saved) = measure_saved_bytes(|| {
                vocab_parallel_cross_entropy(x.clone(), head, labels(), IDS, group)
            });
            let mut grads = loss.clone().backward();
            let mut gradient =
                |leaf: Tensor<2>| read(leaf.grad_remove(&mut grads).expect("a leaf"));
            (read(loss), gradient(x), gradient(part), saved)
        }) {
            assert_close(&format!("{n} ranks: loss"), &loss, &dense, PAIR);
            sum.iter_mut().zip(x).for_each(|(sum, term)| *sum += term);
            // Only buffers of the host are measured.
            if device().inner() == Device::flex() {
                let gradients = 4 * (MANY * WIDTH + part.len());
                assert_eq!(saved, gradients, "{n} ranks: the tape holds gradients and no logits");
            }
            parts.extend(part);
        }
        assert_close(&format!("{n} ranks: hidden states"), &sum, &dx, long_sum());
        assert_close(&format!("{n} ranks: table"), &parts, &dw, PAIR);
    }
}
