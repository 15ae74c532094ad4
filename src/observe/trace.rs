//! The spans of a run: one of its own, and beneath it one for each thing that it waited for. A span
//! knows addresses and numbers, and never a token.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span as Recording};

use crate::error::Fault;

/// Begins the spans of a run. Where nobody asked for them it does nothing; clones share it.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<RunSpan>>);

/// The run's own span, and what makes those beneath it.
struct RunSpan {
    tracer: SdkTracer,
    context: Context,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_on = self.0.is_some();
        f.debug_struct("Tracer").field("is_on", &is_on).finish()
    }
}

impl Tracer {
    /// Begins the span of a run, `what` it is, beneath the one that `parent` names (`traceparent` and
    /// `tracestate`, as W3C Trace Context writes them) where it names one.
    pub(crate) fn begin(
        tracer: SdkTracer,
        what: &'static str,
        parent: &HashMap<String, String>,
    ) -> Self {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), parent);
        let run = tracer.build_with_context(SpanBuilder::from_name(what), &parent);
        let context = Context::new().with_span(run);
        Self(Some(Arc::new(RunSpan { tracer, context })))
    }

    /// Ends the run's own span. What ends later is still beneath it.
    pub(crate) fn end(&self, attributes: Vec<KeyValue>, exit_code: u8) {
        if let Some(run) = &self.0 {
            let span = run.context.span();
            span.set_attributes(attributes);
            if exit_code != 0 {
                span.set_status(Status::error(format!("exit code {exit_code}")));
            }
            span.end();
        }
    }

    /// True where spans are recorded.
    pub fn is_on(&self) -> bool {
        let run = self.0.as_deref();
        run.is_some_and(|run| run.context.span().is_recording())
    }

    /// Begins the span of something that another process is asked for. What is known of it is only
    /// put together where it is recorded.
    pub fn ask(&self, name: &'static str, known: impl FnOnce() -> Vec<KeyValue>) -> Span {
        self.begin_at(name, SystemTime::now(), known)
    }

    /// The same where it began at `start`.
    pub fn begin_at(
        &self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        start: SystemTime,
        known: impl FnOnce() -> Vec<KeyValue>,
    ) -> Span {
        let Some(run) = &self.0 else {
            return Span(None);
        };
        let mut builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Client)
            .with_start_time(start);
        if self.is_on() {
            builder = builder.with_attributes(known());
        }
        let span = run.tracer.build_with_context(builder, &run.context);
        Span(Some(Box::new(span)))
    }
}

/// Something that a run waits for. Dropped before it was ended, it was given up.
pub struct Span(Option<Box<Recording>>);

impl Span {
    /// Adds what has become known of it.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// It is over; `fault` is why it failed.
    pub fn end(mut self, fault: Option<&Fault>) {
        if let Some(mut span) = self.0.take() {
            if let Some(fault) = fault {
                span.set_attribute(KeyValue::new("error.type", fault.kind.as_str()));
                span.set_status(Status::error(fault.message.clone()));
            }
            span.end();
        }
    }

    /// The headers by which whoever is asked can put spans of its own beneath this one.
    pub fn headers(&self) -> HashMap<String, String> {
        let mut headers = HashMap::new();
        if let Some(span) = &self.0 {
            let context = Context::new().with_remote_span_context(span.span_context().clone());
            TraceContextPropagator::new().inject_context(&context, &mut headers);
            headers.retain(|_, value| !value.is_empty());
        }
        headers
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut span) = self.0.take() {
            span.set_status(Status::error("given up"));
            span.end();
        }
    }
}
