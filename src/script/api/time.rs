//! `now`: the time of day by the run's clock.
#![allow(clippy::unwrap_used, reason = "code that the engine's macro generates")]

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rhai::{INT, NativeCallContext, export_module};

use crate::script::api::RhaiResultOf;
use crate::script::host::ScriptHost;

/// A date and a time of day in UTC.
#[derive(Clone)]
pub struct Time(Timestamp);

impl Time {
    fn civil(&self) -> DateTime {
        TimeZone::UTC.to_datetime(self.0)
    }
}

impl fmt::Display for Time {
    /// Writes the RFC 3339 form, to the millisecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

/// `now` and the properties of its result.
#[export_module]
pub mod functions {
    /// Returns the date and the time of day in UTC.
    ///
    /// In a pipeline test it is the time of the test's clock, which starts on 1970-01-01.
    ///
    /// # Example
    ///
    /// ```rhai
    /// emit(`# ${now().rfc3339()}: ${SIZE} tokens`);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn now(context: NativeCallContext) -> RhaiResultOf<Time> {
        let host = ScriptHost::of(&context)?;
        Ok(Time(host.run_context().now_utc()))
    }
}

/// Methods and properties of a time.
#[export_module]
pub mod members {
    /// Returns the time in the form of RFC 3339, such as `2026-11-30T09:24:14.120Z`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(now().rfc3339());
    /// ```
    #[rhai_fn(name = "rfc3339", name = "to_string", name = "to_debug", pure)]
    pub fn rfc3339(time: &mut Time) -> String {
        time.to_string()
    }

    /// The year.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(now().year);
    /// ```
    #[rhai_fn(get = "year", pure)]
    pub fn year(time: &mut Time) -> INT {
        time.civil().year().into()
    }

    /// The month, from 1 to 12.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(now().month);
    /// ```
    #[rhai_fn(get = "month", pure)]
    pub fn month(time: &mut Time) -> INT {
        time.civil().month().into()
    }

    /// The day of the month, from 1 to 31.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(now().day);
    /// ```
    #[rhai_fn(get = "day", pure)]
    pub fn day(time: &mut Time) -> INT {
        time.civil().day().into()
    }

    /// The hour, from 0 to 23.
    ///
    /// # Example
    ///
    /// ```rhai
    /// if now().hour < 6 { log_info("a nightly run"); }
    /// ```
    #[rhai_fn(get = "hour", pure)]
    pub fn hour(time: &mut Time) -> INT {
        time.civil().hour().into()
    }

    /// The minute, from 0 to 59.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(now().minute);
    /// ```
    #[rhai_fn(get = "minute", pure)]
    pub fn minute(time: &mut Time) -> INT {
        time.civil().minute().into()
    }

    /// The second, from 0 to 59.
    ///
    /// # Example
    ///
    /// ```rhai
    /// print(now().second);
    /// ```
    #[rhai_fn(get = "second", pure)]
    pub fn second(time: &mut Time) -> INT {
        time.civil().second().into()
    }

    /// The day of the week, from 1 (Monday) to 7 (Sunday).
    ///
    /// # Example
    ///
    /// ```rhai
    /// if now().weekday > 5 { log_info("a run at the weekend"); }
    /// ```
    #[rhai_fn(get = "weekday", pure)]
    pub fn weekday(time: &mut Time) -> INT {
        time.civil().weekday().to_monday_one_offset().into()
    }
}
