//! The settings of the commands about receipts: `schema`, which needs no database, `audit`, and
//! `receipts prune`.

use std::time::Duration;

use crate::cli::env::Env;
use crate::cli::options::RECEIPTS;
use crate::cli::value::RunId;
use crate::cli::{AuditArgs, PruneArgs, SchemaArgs};
use crate::config::keys::{COLUMN, TABLE};
use crate::config::layers::Layers;
use crate::config::no_database;
use crate::config::settings::{
    AuditSettings, AuditedFile, FileKind, PruneSettings, ReceiptsSettings, SchemaSettings,
};
use crate::error::{Error, usage};
use crate::pipeline::identifier::TableName;
use crate::store::DatabaseTarget;
use crate::store::receipts::Receipts;
use crate::store::receipts::ddl::{Grants, MAX_PARTITIONED_NAME, ReceiptsDdl};
use crate::store::receipts::prune::PruneSelection;

/// Returns the settings of `schema`, or all errors of the configuration.
pub fn load_for_schema(args: &SchemaArgs, env: &Env) -> Result<SchemaSettings, Vec<Error>> {
    let layers = Layers::of(&args.options.0, env);
    let receipts = layers.receipts_table();
    if args.partitioned && receipts.table.len() > MAX_PARTITIONED_NAME {
        let error = usage(format!(
            "the name of a partitioned table must have at most {MAX_PARTITIONED_NAME} bytes"
        ));
        let length = receipts.table.len();
        layers.fail(
            error
                .cause(format!(
                    "the name has {length} bytes, and each partition adds 4"
                ))
                .hint("set a shorter name with --receipts or database.receipts"),
        );
    }
    let grants = args.role.as_ref().map(|role| Grants {
        role: role.clone(),
        tokens: layers.value(&TABLE),
        column: layers.value(&COLUMN),
    });
    let ddl = if args.sqlite {
        ReceiptsDdl::Sqlite { receipts }
    } else {
        ReceiptsDdl::Postgres {
            receipts,
            is_partitioned: args.partitioned,
            grants,
        }
    };
    let log = layers.log();
    layers.finish(SchemaSettings { ddl, log })
}

/// Returns the settings of `audit`, or all errors of the configuration.
pub fn load_for_audit(args: &AuditArgs, env: &Env) -> Result<AuditSettings, Vec<Error>> {
    let layers = Layers::of(&args.options.0, env);
    let (path, kind) = match &args.journal {
        Some(journal) => (Some(journal), FileKind::Journal),
        None => (args.report.as_ref(), FileKind::Report),
    };
    let settings = AuditSettings {
        receipts: layers.receipts(env),
        run: args.run.map(|RunId(id)| id),
        file: path.cloned().map(|path| AuditedFile { path, kind }),
        format: args.format,
    };
    layers.finish(settings)
}

/// Returns the settings of `receipts prune`, or all errors of the configuration.
pub fn load_for_prune(args: &PruneArgs, env: &Env) -> Result<PruneSettings, Vec<Error>> {
    let layers = Layers::of(&args.options.0, env);
    let settings = PruneSettings {
        receipts: layers.receipts(env),
        selection: PruneSelection {
            age: args.older_than,
            run: args.run.map(|RunId(id)| id),
        },
    };
    layers.finish(settings)
}

impl Layers<'_> {
    /// Returns the database and its table of receipts.
    fn receipts(&self, env: &Env) -> ReceiptsSettings {
        let target = self.database();
        // With another error, the database may be missing because of it.
        if target.is_none() && self.count_errors() == 0 {
            self.fail(no_database(env));
        }
        let mut store = self.store(target.unwrap_or(DatabaseTarget::Demo));
        // A count of a large table takes longer than an insert.
        store.statement_timeout = Duration::ZERO;
        ReceiptsSettings {
            store,
            table: self.receipts_table(),
            log: self.log(),
        }
    }

    /// Returns the table of receipts, which has a default in these commands.
    fn receipts_table(&self) -> TableName {
        let configured = self.get(&RECEIPTS);
        configured.unwrap_or_else(|| TableName::plain(Receipts::DEFAULT_TABLE))
    }
}
