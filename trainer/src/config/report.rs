//! Shows configuration errors: the line, a label at the value, and what to do.

use std::fmt;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode,
    ThemeCharacters, ThemeStyles,
};

use super::{
    error::{ConfigError, ConfigErrorKind, ConfigErrors},
    source::{Place, SourceKind},
};

/// How a report looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportStyle {
    /// Colors, for terminals that show them.
    pub is_colored: bool,
    /// Lines and arrows beyond ASCII.
    pub is_unicode: bool,
    /// Columns after which text wraps.
    pub width: usize,
}

impl ReportStyle {
    /// Returns the style for files and pipes: no color, ASCII only.
    pub const fn plain(width: usize) -> Self {
        Self { is_colored: false, is_unicode: false, width }
    }
}

/// Returns the text that shows all errors, one after the other.
pub fn render(errors: &ConfigErrors, style: ReportStyle) -> String {
    let theme = GraphicalTheme {
        characters: if style.is_unicode {
            ThemeCharacters::unicode()
        } else {
            ThemeCharacters::ascii()
        },
        styles: if style.is_colored { ThemeStyles::ansi() } else { ThemeStyles::none() },
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(style.width)
        .with_context_lines(1)
        .with_links(false)
        .without_syntax_highlighting();
    let mut text = String::new();
    for (position, error) in errors.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        if handler.render_report(&mut text, &Report::new(error)).is_err() {
            // Writing to a string does not fail; the plain line still says everything.
            text.push_str(&error.to_string());
        }
    }
    text
}

/// An error in the form miette draws.
#[derive(Debug)]
struct Report<'a> {
    error: &'a ConfigError,
    source: Option<NamedSource<String>>,
}

impl<'a> Report<'a> {
    fn new(error: &'a ConfigError) -> Self {
        let source = error.places.first().map(|place| {
            let name = match place.source.kind {
                SourceKind::File | SourceKind::Set => place.source.name.clone(),
                SourceKind::Environment => "environment".into(),
            };
            NamedSource::new(name, place.source.text.clone())
        });
        Self { error, source }
    }

    /// Splits the places into those in the text that is shown and those elsewhere.
    fn elsewhere(&self) -> impl Iterator<Item = &Place> {
        let shown = self.error.places.first();
        self.error
            .places
            .iter()
            .filter(move |place| shown.is_some_and(|first| first.source != place.source))
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.kind.fmt(f)
    }
}

impl std::error::Error for Report<'_> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.kind.source()
    }
}

impl Diagnostic for Report<'_> {
    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        let mut lines: Vec<String> =
            self.elsewhere().map(|place| format!("see also {place}")).collect();
        lines.extend(self.error.kind.help());
        (!lines.is_empty()).then(|| Box::new(lines.join("\n")) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let first = self.error.places.first()?;
        let shown = self.error.places.iter().filter(|place| place.source == first.source);
        Some(Box::new(shown.enumerate().map(|(position, place)| {
            let label = (position == 0).then(|| label(&self.error.kind)).flatten();
            LabeledSpan::new_with_span(label, place.extent())
        })))
    }
}

/// Returns the few words beside the place; the message above already says the rest.
fn label(kind: &ConfigErrorKind) -> Option<String> {
    let words = match kind {
        ConfigErrorKind::UnknownKey { .. } => "no such key",
        ConfigErrorKind::Syntax { .. } => "here",
        ConfigErrorKind::Missing { .. } => "needed for this",
        _ => return None,
    };
    Some(words.to_owned())
}
