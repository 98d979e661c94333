//! What a styled layer computes and communicates.

use burn::tensor::{Int, Tensor};

use super::loss::vocab_parallel_cross_entropy;
use super::style::{FEATURES, SEQUENCE};
use super::{Style, overlap, vocab};
use crate::comm::ProcessGroup;
use crate::comm::differentiable::{Consumer, all_gather, all_reduce, copy, redistribute};
use crate::kernels;
use crate::mesh::{Placement, ReduceKind, shard_range};
use crate::nn::{HeadTable, LayerStyle, Linear};

const SUM: Placement = Placement::Partial(ReduceKind::Sum);

/// A layer's style on one rank.
#[derive(Debug)]
pub(super) struct StyledLayer {
    pub(super) style: Style,
    /// Whether a module above sums the gradient of the input.
    pub(super) prepared: bool,
    pub(super) group: ProcessGroup,
    /// Global size of the vocabulary, for layers that split one.
    pub(super) vocabulary: usize,
    /// Whether products run while their inputs or outputs travel.
    pub(super) overlap: bool,
}

impl StyledLayer {
    /// Brings an input to where every rank has all of it and computes something of its own from it.
    fn enter(&self, x: Tensor<3>, input: Placement) -> Tensor<3> {
        match input {
            SEQUENCE => all_gather(x, 1, Consumer::Distinct, &self.group),
            _ if self.prepared => x,
            _ => copy(x, &self.group),
        }
    }

    fn change(
        &self,
        x: Tensor<3>,
        from: Placement,
        to: Placement,
        consumer: Consumer,
    ) -> Tensor<3> {
        redistribute(x, from, to, consumer, &self.group)
            .expect("the plan was checked: its layouts are linear")
    }

    fn rowwise(
        &self,
        x: Tensor<3>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        input: Placement,
        output: Placement,
    ) -> Tensor<3> {
        let x = self.change(x, input, FEATURES, Consumer::Replicated);
        let y = if self.overlap && output == SEQUENCE {
            overlap::linear_reduce_scatter(x, weight, &self.group)
        } else {
            self.change(kernels::linear(x, weight, None), SUM, output, Consumer::Replicated)
        };
        // Once, to the sum: adding it to each term would add it as often as there are ranks.
        match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        }
    }

    /// Returns the layout in which hidden states come to this head, and whether its loss works on
    /// parts of the vocabulary.
    fn head(&self) -> (Placement, bool) {
        match self.style {
            Style::Vocab(style) => (style.head_input, style.loss_parallel),
            Style::Colwise(style) => (style.input, style.output == FEATURES),
            _ => (Placement::Replicate, true),
        }
    }
}

impl LayerStyle for StyledLayer {
    fn linear(&self, x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
        match self.style {
            Style::Colwise(style) => {
                let y = kernels::linear(self.enter(x, style.input), weight, bias);
                self.change(y, FEATURES, style.output, Consumer::Replicated)
            }
            Style::Rowwise(style) => self.rowwise(x, weight, bias, style.input, style.output),
            Style::Sequence(_) => kernels::linear(self.input(x), weight, bias),
            Style::Vocab(_) => self.logits(x, HeadTable::Projection(weight)),
            Style::Input(_) | Style::Output(_) => kernels::linear(x, weight, bias),
        }
    }

    fn embedding(&self, ids: Tensor<2, Int>, weight: Tensor<2>) -> Tensor<3> {
        match self.style {
            Style::Colwise(style) => {
                let y = kernels::embedding(weight, ids);
                self.change(y, FEATURES, style.output, Consumer::Replicated)
            }
            Style::Sequence(_) => {
                let own = shard_range(ids.dims()[1], self.group.size(), self.group.rank());
                kernels::embedding(weight, ids.narrow(1, own.start, own.len()))
            }
            _ => {
                let own = shard_range(self.vocabulary, self.group.size(), self.group.rank());
                self.change(
                    vocab::lookup(ids, weight, &own),
                    SUM,
                    self.style.output(),
                    Consumer::Replicated,
                )
            }
        }
    }

    fn input(&self, x: Tensor<3>) -> Tensor<3> {
        match self.style {
            Style::Sequence(style) => self.change(x, style.input, SEQUENCE, Consumer::Replicated),
            Style::Input(style) => self.change(x, style.input, style.desired, Consumer::Distinct),
            _ => x,
        }
    }

    fn output(&self, y: Tensor<3>) -> Tensor<3> {
        match self.style {
            Style::Output(style) => {
                self.change(y, style.output, style.desired, Consumer::Replicated)
            }
            _ => y,
        }
    }

    fn project(&self, x: Tensor<3>, layers: &[&Linear]) -> Vec<Tensor<3>> {
        match self.style {
            Style::Input(style)
                if self.overlap
                    && style.input == SEQUENCE
                    && style.desired == Placement::Replicate =>
            {
                overlap::all_gather_project(&x, layers, &self.group)
            }
            _ => {
                let x = self.input(x);
                layers.iter().map(|layer| layer.forward(x.clone())).collect()
            }
        }
    }

    fn first_token(&self, num_tokens: usize) -> usize {
        match self.style {
            Style::Sequence(_) => num_tokens * self.group.rank(),
            _ => 0,
        }
    }

    fn logits(&self, hidden: Tensor<3>, weight: HeadTable) -> Tensor<3> {
        if let Style::Sequence(_) = self.style {
            let local = kernels::linear(self.input(hidden), weight.projection(), None);
            return all_gather(local, 1, Consumer::Replicated, &self.group);
        }
        let hidden = self.enter(hidden, self.head().0);
        vocab::gather_logits(
            kernels::linear(hidden, weight.projection(), None),
            self.vocabulary,
            &self.group,
        )
    }

    fn cross_entropy(
        &self,
        hidden: Tensor<3>,
        weight: HeadTable,
        labels: Tensor<1, Int>,
    ) -> Tensor<1> {
        if let Style::Sequence(_) = self.style {
            return self.sequence_cross_entropy(hidden, weight, labels);
        }
        let (input, loss_parallel) = self.head();
        if !loss_parallel {
            let logits = self.logits(hidden, weight);
            let [b, s, v] = logits.dims();
            return kernels::cross_entropy(logits.reshape([b * s, v]), labels);
        }
        let hidden = self.enter(hidden, input);
        let [b, s, h] = hidden.dims();
        vocab_parallel_cross_entropy(
            hidden.reshape([b * s, h]),
            weight,
            labels,
            self.vocabulary,
            &self.group,
        )
    }
}

impl StyledLayer {
    /// Sums the losses of the own tokens with a whole head, then over the ranks.
    fn sequence_cross_entropy(
        &self,
        hidden: Tensor<3>,
        weight: HeadTable,
        labels: Tensor<1, Int>,
    ) -> Tensor<1> {
        let hidden = self.input(hidden);
        let [b, s, h] = hidden.dims();
        let labels =
            labels.reshape([b as i32, -1]).narrow(1, self.group.rank() * s, s).reshape([b * s]);
        let hidden = hidden.reshape([b * s, h]);
        let loss = match weight {
            HeadTable::Projection(weight) => kernels::linear_cross_entropy(hidden, weight, labels),
            HeadTable::Embedding(table) => {
                kernels::tied_linear_cross_entropy(hidden, table, labels)
            }
        };
        all_reduce(loss, Consumer::Replicated, &self.group)
    }
}
