//! The OpenTelemetry spans of a run: a root span, and a child span per operation that the run waits
//! for. Spans contain addresses and numbers, never tokens.

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

use crate::error::Error;

/// Starts the spans of a run; does nothing if traces are off. Clones share its state.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<RunSpan>>);

/// The run's root span, and the tracer of its children.
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
    /// Starts the root span of a run, with the given name.
    ///
    /// `parent` holds `traceparent` and `tracestate` (W3C Trace Context), if there is a parent span.
    pub(crate) fn begin(
        tracer: SdkTracer,
        name: &'static str,
        parent: &HashMap<String, String>,
    ) -> Self {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), parent);
        let run = tracer.build_with_context(SpanBuilder::from_name(name), &parent);
        let context = Context::new().with_span(run);
        Self(Some(Arc::new(RunSpan { tracer, context })))
    }

    /// Ends the root span. Child spans may end later.
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

    /// Returns true if spans are recorded.
    pub fn is_on(&self) -> bool {
        let run = self.0.as_deref();
        run.is_some_and(|run| run.context.span().is_recording())
    }

    /// Starts a client span now. `attributes` is called only if the span is recorded.
    pub fn client_span(
        &self,
        name: &'static str,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Span {
        self.client_span_at(name, SystemTime::now(), attributes)
    }

    /// Starts a client span that began at `start`.
    pub fn client_span_at(
        &self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        start: SystemTime,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Span {
        let Some(run) = &self.0 else {
            return Span(None);
        };
        let mut builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Client)
            .with_start_time(start);
        if self.is_on() {
            builder = builder.with_attributes(attributes());
        }
        let span = run.tracer.build_with_context(builder, &run.context);
        Span(Some(Box::new(span)))
    }
}

/// A span in progress. If it is dropped before its end, its operation was cancelled, which is no error.
pub struct Span(Option<Box<Recording>>);

impl Span {
    /// Sets an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Ends the span; `error` is why the operation failed, if it did.
    pub fn end(mut self, error: Option<&Error>) {
        if let Some(mut span) = self.0.take() {
            if let Some(error) = error {
                // OpenTelemetry's name for an error without a name.
                let kind = Some(error.kind_name()).filter(|kind| !kind.is_empty());
                let kind = kind.unwrap_or("_OTHER").to_owned();
                span.set_attribute(KeyValue::new("error.type", kind));
                span.set_status(Status::error(error.message.clone()));
            }
            span.end();
        }
    }

    /// Returns the headers that propagate the span's context to the called service.
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
