//! The commands, one file or folder each.

pub mod check;
pub mod demo_source;
pub(crate) mod find_files;
pub mod generate;
pub mod merge;
pub mod replay;
pub mod run;
pub mod supervisor;
pub mod test;
