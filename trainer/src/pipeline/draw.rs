//! Pictures of a timeline, for the terminal and as SVG.

use std::fmt::Write as _;

use super::{ActionKind, Schedule, Span, Timeline};

impl Timeline {
    /// Draws one row a rank and one column a unit of time: `F0`, `B0`, `I0` and `W0` with their
    /// microbatch, `--` where an action goes on, `.` where the rank is idle. Where ranks hold
    /// several stages, the stage stands in front: `2F0`.
    pub fn to_text(&self, schedule: &Schedule) -> String {
        let has_several = schedule.num_stages() > schedule.num_ranks();
        let label = |span: &Span| {
            let text = span.action.to_string();
            if has_several {
                text
            } else {
                text.trim_start_matches(|c: char| c.is_ascii_digit()).into()
            }
        };
        let length = self.duration().ceil() as usize;
        let mut rows = Vec::new();
        for rank in 0..self.num_ranks() {
            let mut cells = vec![".".to_owned(); length];
            for span in self.rank(rank) {
                let (start, end) = (span.start.round() as usize, span.end.round() as usize);
                for cell in &mut cells[start..end] {
                    "--".clone_into(cell);
                }
                cells[start] = label(span);
            }
            rows.push(cells);
        }
        let width = rows.iter().flatten().map(String::len).max().unwrap_or(0);
        let digits = (self.num_ranks() - 1).to_string().len();
        let mut text = String::new();
        for (rank, cells) in rows.iter().enumerate() {
            let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:<width$}")).collect();
            let line = format!("rank {rank:>digits$}  {}", cells.join(" "));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Draws the same as a picture, with one color a kind of action.
    pub fn to_svg(&self, schedule: &Schedule) -> String {
        const UNIT: f64 = 28.0;
        const ROW: f64 = 26.0;
        const LEFT: f64 = 64.0;
        let (width, height) = (LEFT + self.duration() * UNIT, ROW * self.num_ranks() as f64);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"10\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        for rank in 0..self.num_ranks() {
            let top = ROW * rank as f64;
            let middle = top + ROW / 2.0 + 3.5;
            let _ = writeln!(svg, "<text x=\"4\" y=\"{middle}\">rank {rank}</text>");
            for span in self.rank(rank) {
                let (x, w) = (LEFT + span.start * UNIT, (span.end - span.start) * UNIT);
                let (h, y) = (ROW - 4.0, top + 2.0);
                let fill = color(span.action.kind, span.action.stage >= schedule.num_ranks());
                let center = x + w / 2.0;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\" stroke=\"#ffffff\"/><text x=\"{center}\" y=\"{middle}\" text-anchor=\"middle\">{}</text>",
                    span.action
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Returns the color of an action, darker on a rank's later stages.
fn color(kind: ActionKind, is_later: bool) -> &'static str {
    match (kind, is_later) {
        (ActionKind::Forward, false) => "#9ecae1",
        (ActionKind::Forward, true) => "#5aa5d6",
        (ActionKind::Backward, false) => "#a1d99b",
        (ActionKind::Backward, true) => "#62b866",
        (ActionKind::InputGradient, false) => "#fdd0a2",
        (ActionKind::InputGradient, true) => "#f6a45b",
        (_, false) => "#d5c3e8",
        (_, true) => "#b094d3",
    }
}
