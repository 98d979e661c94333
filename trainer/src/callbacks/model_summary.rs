//! The modules of a model and what they hold.

use std::fmt;

use super::ParameterRow;
use crate::metrics::format;

/// A model as a table: modules down to a depth, equal neighbors in a list joined.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSummary {
    /// Modules in the model's order, parents before children.
    pub rows: Vec<ModuleRow>,
    /// The whole model.
    pub total: ModuleRow,
}

/// One module, or one of several equal ones.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleRow {
    /// Dotted path; `layers.0-31` stands for 32 equal modules.
    pub path: String,
    /// Modules the row stands for. The counts are those of one of them.
    pub num_alike: usize,
    /// Elements of all parameters.
    pub num_parameters: u64,
    /// Elements of parameters that an optimizer updates.
    pub num_trainable: u64,
    /// Bytes of all parameters.
    pub num_bytes: u64,
}

#[derive(Debug, Default, PartialEq)]
struct Node {
    num_parameters: u64,
    num_trainable: u64,
    num_bytes: u64,
    shape: Option<Vec<usize>>,
    children: Vec<(String, Node)>,
}

impl ModelSummary {
    /// Returns the table of a model down to `depth` path components.
    pub fn new(parameters: &[ParameterRow], depth: usize) -> Self {
        let mut root = Node::default();
        for row in parameters {
            root.insert(row, &row.path);
        }
        let mut rows = Vec::new();
        root.collect("", depth, &mut rows);
        Self { rows, total: root.row("total".to_owned(), 1) }
    }
}

impl Node {
    fn insert(&mut self, row: &ParameterRow, path: &str) {
        let num_parameters = row.shape.iter().map(|&size| size as u64).product();
        self.num_parameters += num_parameters;
        self.num_trainable += if row.trainable { num_parameters } else { 0 };
        self.num_bytes += num_parameters * row.element_bytes as u64;
        if path.is_empty() {
            self.shape = Some(row.shape.clone());
            return;
        }
        let (name, rest) = path.split_once('.').unwrap_or((path, ""));
        let known = self.children.iter().position(|(child, _)| child == name);
        let position = known.unwrap_or_else(|| {
            self.children.push((name.to_owned(), Self::default()));
            self.children.len() - 1
        });
        self.children[position].1.insert(row, rest);
    }

    fn row(&self, path: String, num_alike: usize) -> ModuleRow {
        let Self { num_parameters, num_trainable, num_bytes, .. } = *self;
        ModuleRow { path, num_alike, num_parameters, num_trainable, num_bytes }
    }

    /// Adds the rows below this module, `depth` levels of them.
    fn collect(&self, prefix: &str, depth: usize, rows: &mut Vec<ModuleRow>) {
        if depth == 0 {
            return;
        }
        let modules = self.modules(prefix.is_empty());
        for alike in
            modules.chunk_by(|(left, a), (right, b)| index(left) + 1 == index(right) && a == b)
        {
            let (first, node) = alike[0];
            let path = match alike {
                [_] => format!("{prefix}{first}"),
                [.., (last, _)] => format!("{prefix}{first}-{last}"),
                [] => continue,
            };
            let below = format!("{path}.");
            rows.push(node.row(path, alike.len()));
            node.collect(&below, depth - 1, rows);
        }
    }

    /// Returns the children that are modules, list elements by index; parameters of the root itself
    /// have no module to be counted in.
    fn modules(&self, is_root: bool) -> Vec<(&str, &Self)> {
        let children = self.children.iter().filter(|(_, node)| is_root || node.shape.is_none());
        let mut modules: Vec<_> = children.map(|(name, node)| (name.as_str(), node)).collect();
        // Paths sorted as text have element 10 before element 2. Names keep their place: the sort
        // is stable.
        modules.sort_by_key(|(name, _)| index(name));
        modules
    }
}

/// Returns the index of a list element, 0 for what is not one; offset so that names never look like
/// neighbors.
fn index(name: &str) -> u64 {
    name.parse::<u64>().map_or(0, |index| index.saturating_add(2))
}

impl ModuleRow {
    fn cells(&self) -> [String; 4] {
        let parameters = format::count(self.num_parameters);
        let trainable = match self.num_trainable {
            0 => "none".to_owned(),
            all if all == self.num_parameters => "all".to_owned(),
            some => format::percent(some as f64 / self.num_parameters as f64),
        };
        let times = match self.num_alike {
            1 => String::new(),
            alike => format!("{alike} x "),
        };
        [self.path.clone(), times + &parameters, trainable, format::bytes(self.num_bytes)]
    }
}

impl fmt::Display for ModelSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["module", "parameters", "trainable", "bytes"].map(str::to_owned);
        let rows = self.rows.iter().chain([&self.total]).map(ModuleRow::cells);
        let table: Vec<_> = [head].into_iter().chain(rows).collect();
        let [module, parameters, trainable, bytes] =
            [0, 1, 2, 3].map(|column| table.iter().map(|row| row[column].len()).max().unwrap_or(0));
        for (number, row) in table.iter().enumerate() {
            let [a, b, c, d] = row;
            let end = if number + 1 < table.len() { "\n" } else { "" };
            write!(f, "{a:<module$}  {b:>parameters$}  {c:>trainable$}  {d:>bytes$}{end}")?;
        }
        Ok(())
    }
}
