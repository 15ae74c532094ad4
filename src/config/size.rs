//! What is settled about how many tokens a run is for: SIZE, the input that it may be all of, and this
//! shard's part of it.

use std::path::PathBuf;

use crate::cli::RunArgs;
use crate::cli::value::{self, MOST, ShardArg};
use crate::config::shard::Shard;
use crate::config::{DEFAULT_SIZE, Layers, path};
use crate::error::diagnostic::{Problem, usage};
use crate::fetch::input::Input;

/// The variables in which platforms say which of several tasks this is, and how many there are. The
/// last one says only the first.
const CLOUD_RUN: (&str, &str) = ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT");
const KUBERNETES: &str = "JOB_COMPLETION_INDEX";

/// How many tokens a run is for.
#[derive(Default)]
pub(super) struct RunSize {
    /// This shard's part of SIZE; [`MOST`] for all of a pipe.
    pub size: u64,
    /// What is read instead of the source, from where this shard's part begins.
    pub input: Option<Input>,
}

impl Layers<'_> {
    /// The amount; an input is opened for it, whose tokens are at most `max_token` bytes long.
    pub(super) fn amount(&self, args: &RunArgs, max_token: usize) -> Result<RunSize, Problem> {
        let shard = self.shard(args)?;
        let Some(path) = self.input(args)? else {
            let size = shard.part(self.size(args)?);
            return Ok(RunSize { size, input: None });
        };
        let (asked, most) = self.asked(args)?;
        let input = Input::open(&path, max_token)?;
        let size = match (asked, input.count()) {
            (Some(size), _) => size,
            (None, Some(count)) => within(count, most, &input)?,
            (None, None) => return all_of(input, shard, most),
        };
        Ok(RunSize {
            size: shard.part(size),
            input: Some(input.from(shard.before(size))),
        })
    }

    /// SIZE as it was asked for, and what it must not exceed.
    fn asked(&self, args: &RunArgs) -> Result<(Option<u64>, Option<u64>), Problem> {
        let asked = self.pick(args.size, "size", value::size, self.file.run.size)?;
        let most = self.env.parse("MAX_TOKENS", value::positive)?;
        match (asked, most) {
            (Some(size), Some(most)) if size > most => Err(usage(format!(
                "SIZE {size} is above MAX_TOKENS, which is {most}"
            ))
            .hint(format!("ask for at most {most}, or raise MAX_TOKENS"))),
            both => Ok(both),
        }
    }

    /// SIZE where it does not depend on an input.
    pub(super) fn size(&self, args: &RunArgs) -> Result<u64, Problem> {
        let (asked, most) = self.asked(args)?;
        // Nobody asked for the default, so that the bound just lowers it.
        let default = most.map_or(DEFAULT_SIZE, |most| most.min(DEFAULT_SIZE));
        Ok(asked.unwrap_or(default))
    }

    pub(super) fn input(&self, args: &RunArgs) -> Result<Option<PathBuf>, Problem> {
        self.pick(args.input.clone(), "input", path, None)
    }

    pub(super) fn shard(&self, args: &RunArgs) -> Result<Shard, Problem> {
        let written = self.pick(args.shard, "shard", value::shard, self.file.run.shard)?;
        let (index, count) = match written {
            Some(ShardArg {
                index: Some(index),
                count,
            }) => (index, count),
            Some(ShardArg { index: None, count }) => {
                (self.task()?.ok_or_else(|| unnumbered(count))?, count)
            }
            None => match self.tasks()? {
                Some(tasks) => tasks,
                None => return Ok(Shard::default()),
            },
        };
        Shard::new(index, count).ok_or_else(|| {
            usage(format!(
                "there is no shard {index} of {count}; they count from 0"
            ))
            .hint("the number of shards must be that of the platform's tasks")
        })
    }

    /// Which task this is, as the platform says.
    fn task(&self) -> Result<Option<u64>, Problem> {
        let cloud_run = self.number(CLOUD_RUN.0)?;
        Ok(cloud_run.or(self.number(KUBERNETES)?))
    }

    /// Which task this is and how many there are, as the platform says.
    fn tasks(&self) -> Result<Option<(u64, u64)>, Problem> {
        let (index, count) = CLOUD_RUN;
        match (self.number(index)?, self.number(count)?) {
            (Some(task), Some(tasks)) => Ok(Some((task, tasks))),
            (None, None) if self.number(KUBERNETES)?.is_some() => Err(uncounted()),
            (None, None) => Ok(None),
            _ => Err(usage(format!("of {index} and {count} only one is set"))
                .hint("Cloud Run sets both; --shard I/N beats them")),
        }
    }

    fn number(&self, variable: &str) -> Result<Option<u64>, Problem> {
        self.env.parse(variable, value::number)
    }
}

/// All of a file, where `MAX_TOKENS` allows it.
fn within(count: u64, most: Option<u64>, input: &Input) -> Result<u64, Problem> {
    match most {
        Some(most) if count > most => Err(usage(format!(
            "the input {} holds {count} tokens, and MAX_TOKENS is {most}",
            input.name()
        ))
        .hint(format!("say SIZE, at most {most}, or raise MAX_TOKENS"))),
        _ => Ok(count),
    }
}

/// All of a pipe, of which nobody knows beforehand how much that is.
fn all_of(input: Input, shard: Shard, most: Option<u64>) -> Result<RunSize, Problem> {
    let unknown = |why| {
        let name = input.name();
        usage(format!(
            "how many tokens {name} holds is not known before its end"
        ))
        .cause(why)
        .hint("say SIZE beside --input, or give a regular file")
    };
    if !shard.is_only() {
        return Err(unknown("a shard takes its part of a known number"));
    }
    if most.is_some() {
        return Err(unknown("MAX_TOKENS bounds that number"));
    }
    Ok(RunSize {
        size: MOST,
        input: Some(input.to_its_end()),
    })
}

fn unnumbered(count: u64) -> Problem {
    let (index, _) = CLOUD_RUN;
    usage(format!("the shard /{count} does not say which one this is")).hint(format!(
        "write I/{count}, or set {index} or {KUBERNETES} as a platform does"
    ))
}

/// To go on would be to fetch SIZE once for each of them.
fn uncounted() -> Problem {
    usage(format!(
        "{KUBERNETES} is set, but not how many completions share SIZE"
    ))
    .hint("set TOKEN_SERVICE_SHARD=/N to the Job's `completions`, or 0/1 where each is to have a SIZE of its own")
}
