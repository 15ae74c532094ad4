//! Resolves the number of tokens of a run: SIZE, or all tokens of an input, and this shard's part of
//! it.

use crate::cli::options::{INPUT, SHARD, SIZE};
use crate::cli::value::{self, MAX_SIZE, ShardArg};
use crate::config::keys::MAX_TOKENS;
use crate::config::layers::Layers;
use crate::config::shard::Shard;
use crate::error::{Error, usage};
use crate::fetch::input::Input;

/// The variables of Cloud Run for the index of this task and the number of tasks.
const CLOUD_RUN: (&str, &str) = ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT");
/// The variable of Kubernetes for the index of this pod; Kubernetes does not set the number of pods.
const KUBERNETES: &str = "JOB_COMPLETION_INDEX";

/// The number of tokens of a run, and the input.
#[derive(Default)]
pub(super) struct RunSize {
    /// This shard's part of SIZE; [`MAX_SIZE`] for all tokens of a pipe.
    pub size: u64,
    /// The input to read instead of the source, from the beginning of this shard's part.
    pub input: Option<Input>,
    /// The number of runs that share SIZE.
    pub shards: u64,
}

impl RunSize {
    /// Returns the size of a run that is no shard and has no input.
    pub(super) fn of_one_run(size: u64) -> Self {
        Self {
            size,
            input: None,
            shards: 1,
        }
    }
}

impl Layers<'_> {
    /// Resolves the size, and opens the input; its tokens are at most `max_token` bytes long.
    pub(super) fn run_size(&self, max_token: usize) -> Result<RunSize, Error> {
        let shard = self.collect(self.shard());
        let Some(path) = self.get(&INPUT) else {
            let size = shard.part(self.size()?);
            return Ok(RunSize {
                size,
                input: None,
                shards: shard.count(),
            });
        };
        let (requested, max) = self.requested_size()?;
        let input = Input::open(&path, max_token)?;
        let size = match (requested, input.count()) {
            (Some(size), _) => size,
            (None, Some(count)) => size_of_file(count, max, &input)?,
            (None, None) => return size_of_pipe(input, shard, max),
        };
        Ok(RunSize {
            size: shard.part(size),
            input: Some(input.from(shard.offset(size))),
            shards: shard.count(),
        })
    }

    /// Returns SIZE if it is set, and its maximum.
    fn requested_size(&self) -> Result<(Option<u64>, Option<u64>), Error> {
        match (self.get(&SIZE), self.get(&MAX_TOKENS)) {
            (Some(size), Some(max)) if size > max => Err(usage(format!(
                "SIZE {size} exceeds MAX_TOKENS, which is {max}"
            ))
            .hint(format!("set SIZE to at most {max}, or raise MAX_TOKENS"))),
            both => Ok(both),
        }
    }

    /// Returns SIZE without regard to an input.
    pub(super) fn size(&self) -> Result<u64, Error> {
        let (requested, max) = self.requested_size()?;
        // The user did not set the default, so the maximum lowers it without an error.
        let default = SIZE.default().min(max.unwrap_or(u64::MAX));
        Ok(requested.unwrap_or(default))
    }

    pub(super) fn shard(&self) -> Result<Shard, Error> {
        let (index, count) = match self.get(&SHARD) {
            Some(ShardArg {
                index: Some(index),
                count,
            }) => (index, count),
            Some(ShardArg { index: None, count }) => (
                self.task_index()?.ok_or_else(|| missing_index(count))?,
                count,
            ),
            None => match self.task_index_and_count()? {
                Some(tasks) => tasks,
                None => return Ok(Shard::default()),
            },
        };
        Shard::new(index, count).ok_or_else(|| {
            usage(format!(
                "shard {index} of {count} does not exist; shards count from 0"
            ))
            .hint("set the number of shards to the platform's number of tasks")
        })
    }

    /// Returns the platform's index of this task.
    fn task_index(&self) -> Result<Option<u64>, Error> {
        let cloud_run = self.number(CLOUD_RUN.0)?;
        Ok(cloud_run.or(self.number(KUBERNETES)?))
    }

    /// Returns the platform's index of this task and number of tasks.
    fn task_index_and_count(&self) -> Result<Option<(u64, u64)>, Error> {
        let (index, count) = CLOUD_RUN;
        match (self.number(index)?, self.number(count)?) {
            (Some(task), Some(tasks)) => Ok(Some((task, tasks))),
            (None, None) if self.number(KUBERNETES)?.is_some() => Err(missing_count()),
            (None, None) => Ok(None),
            _ => Err(usage(format!("only one of {index} and {count} is set"))
                .hint("Cloud Run sets both; --shard I/N overrides them")),
        }
    }

    fn number(&self, variable: &str) -> Result<Option<u64>, Error> {
        self.env.parse(variable, value::number)
    }
}

/// Returns the number of tokens of a file, or an error if it exceeds `MAX_TOKENS`.
fn size_of_file(count: u64, max: Option<u64>, input: &Input) -> Result<u64, Error> {
    match max {
        Some(max) if count > max => Err(usage(format!(
            "the input {} has {count} tokens, which exceeds MAX_TOKENS, {max}",
            input.name()
        ))
        .hint(format!("set SIZE to at most {max}, or raise MAX_TOKENS"))),
        _ => Ok(count),
    }
}

/// Returns the unlimited size of a pipe, or an error if a shard or `MAX_TOKENS` needs the number.
fn size_of_pipe(input: Input, shard: Shard, max: Option<u64>) -> Result<RunSize, Error> {
    let unknown = |cause| {
        let name = input.name();
        usage(format!(
            "the number of tokens in {name} is not known before its end"
        ))
        .cause(cause)
        .hint("set SIZE, or pass a regular file to --input")
    };
    if !shard.is_only() {
        return Err(unknown("a shard needs this number to compute its part"));
    }
    if max.is_some() {
        return Err(unknown("MAX_TOKENS limits this number"));
    }
    Ok(RunSize {
        size: MAX_SIZE,
        input: Some(input.until_end()),
        shards: 1,
    })
}

fn missing_index(count: u64) -> Error {
    let (index, _) = CLOUD_RUN;
    usage(format!("the shard /{count} has no index")).hint(format!(
        "write I/{count}, or set {index} or {KUBERNETES} to the index"
    ))
}

/// Returns an error, because each pod would otherwise fetch the whole SIZE.
fn missing_count() -> Error {
    usage(format!(
        "{KUBERNETES} is set, but the number of completions that share SIZE is not"
    ))
    .hint("set TOKEN_SERVICE_SHARD=/N to the Job's `completions`, or 0/1 if each pod is to fetch SIZE tokens")
}
