//! Spans on their way to the collector: gathered while the run goes on, delivered together now and then,
//! dropped where there are too many. Nothing here holds up the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::observe::otel::OtlpEndpoint;
use crate::observe::otel::otlp_client::Collector;

// These three are the defaults of OpenTelemetry's own batch processor.
/// The most spans that wait.
const MOST_WAITING: usize = 2048;
/// So many are delivered at a time.
const BATCH: usize = 512;
/// The longest that a span waits for company.
const PAUSE: Duration = Duration::from_secs(5);

/// The beginning of the way: takes a span that has ended.
#[derive(Debug)]
pub(crate) struct SpanQueue {
    spans: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
}

/// The rest of the way.
pub(crate) struct SpanExporter {
    spans: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
}

/// Both.
pub(crate) fn way() -> (SpanQueue, SpanExporter) {
    let (sender, spans) = mpsc::channel(MOST_WAITING);
    let dropped = Arc::new(AtomicU64::new(0));
    let span_queue = SpanQueue {
        spans: sender,
        dropped: Arc::clone(&dropped),
    };
    (span_queue, SpanExporter { spans, dropped })
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl SpanExporter {
    /// Delivers what comes until `ending`, and then what is there.
    pub(crate) async fn run(
        mut self,
        collector: Arc<Collector>,
        target: OtlpEndpoint,
        resource: Arc<ResourceAttributesWithSchema>,
        ending: CancellationToken,
    ) {
        let mut due = tokio::time::interval_at(Instant::now() + PAUSE, PAUSE);
        let mut batch = Vec::new();
        loop {
            let room = BATCH - batch.len();
            let is_last = tokio::select! {
                _ = self.spans.recv_many(&mut batch, room) => false,
                _ = due.tick() => true,
                () = ending.cancelled() => break,
            };
            if batch.len() == BATCH || (is_last && !batch.is_empty()) {
                deliver(&collector, &target, &resource, std::mem::take(&mut batch)).await;
            }
        }
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            deliver(&collector, &target, &resource, batch).await;
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            collector.dropped(dropped);
        }
    }
}

async fn deliver(
    collector: &Collector,
    target: &OtlpEndpoint,
    resource: &ResourceAttributesWithSchema,
    spans: Vec<SpanData>,
) {
    let resource_spans = group_spans_by_resource_and_scope(spans, resource);
    let message = ExportTraceServiceRequest { resource_spans };
    collector.take(target, &message).await;
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[test]
    fn what_nobody_fetches_is_dropped_and_counted() {
        let (span_queue, mut delivery) = way();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(span_queue)
            .build();
        let tracer = provider.tracer("test");
        for _ in 0..MOST_WAITING + 3 {
            tracer.start("x").end();
        }
        assert_eq!(delivery.dropped.load(Ordering::Relaxed), 3);
        let mut waiting = 0;
        while delivery.spans.try_recv().is_ok() {
            waiting += 1;
        }
        assert_eq!(waiting, MOST_WAITING);
    }
}
