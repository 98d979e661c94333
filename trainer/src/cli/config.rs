//! `dream-train config`: the JSON schema and the reference page of all keys.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use crate::config::{ModelSchemas, file_schema, reference_page};

/// Arguments of `dream-train config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to write.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `dream-train config` writes.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Writes the JSON schema of configuration files, for editors.
    Schema {
        /// File to write instead of standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Writes the reference of all keys in Markdown.
    Docs {
        /// File to write instead of standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

impl ConfigArgs {
    /// Writes what was asked for, to its file or to `out`.
    ///
    /// # Errors
    /// Returns what the system says when writing fails.
    pub fn run(&self, models: &ModelSchemas, out: &mut dyn Write) -> io::Result<()> {
        match &self.command {
            ConfigCommand::Schema { output } => {
                let schema = file_schema(models);
                write(output.as_deref(), &format!("{schema:#}\n"), out)
            }
            ConfigCommand::Docs { output } => {
                write(output.as_deref(), &reference_page(models), out)
            }
        }
    }
}

fn write(file: Option<&Path>, text: &str, out: &mut dyn Write) -> io::Result<()> {
    match file {
        Some(path) => fs::write(path, text),
        None => out.write_all(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_to_the_given_file_or_the_given_output() {
        let models = ModelSchemas::new();
        let mut out = Vec::new();
        let schema = ConfigArgs { command: ConfigCommand::Schema { output: None } };
        schema.run(&models, &mut out).expect("writing to memory");
        let value: serde_json::Value = serde_json::from_slice(&out).expect("a schema is JSON");
        assert!(value["properties"]["optimizer"].is_object());

        let folder = tempfile::tempdir().expect("a folder for the test");
        let file = folder.path().join("page.md");
        let docs = ConfigArgs { command: ConfigCommand::Docs { output: Some(file.clone()) } };
        let mut out = Vec::new();
        docs.run(&models, &mut out).expect("the folder can be written");
        assert!(out.is_empty());
        assert_eq!(
            fs::read_to_string(file).expect("the page was written"),
            reference_page(&models)
        );
    }
}
