//! Exports spans to the collector in batches. Spans are queued while the run goes on, and dropped if
//! the queue is full, so that the run never waits.

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

// These three are the defaults of OpenTelemetry's batch span processor.
/// Capacity of the queue.
const QUEUE_CAPACITY: usize = 2048;
/// Largest number of spans per export.
const BATCH: usize = 512;
/// Time after which an incomplete batch is exported.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// The sender of the queue: takes spans that have ended.
#[derive(Debug)]
pub(crate) struct SpanQueue {
    spans: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
}

/// The receiver of the queue: exports spans in batches.
pub(crate) struct SpanExporter {
    spans: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
}

/// Creates a span queue and its exporter.
pub(crate) fn span_channel() -> (SpanQueue, SpanExporter) {
    let (sender, spans) = mpsc::channel(QUEUE_CAPACITY);
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
    /// Exports batches until `ending` is cancelled, then the rest.
    pub(crate) async fn run(
        mut self,
        collector: Arc<Collector>,
        endpoint: OtlpEndpoint,
        resource: Arc<ResourceAttributesWithSchema>,
        ending: CancellationToken,
    ) {
        let mut due = tokio::time::interval_at(Instant::now() + FLUSH_INTERVAL, FLUSH_INTERVAL);
        let mut batch = Vec::new();
        loop {
            let capacity = BATCH - batch.len();
            let is_flush_due = tokio::select! {
                _ = self.spans.recv_many(&mut batch, capacity) => false,
                _ = due.tick() => true,
                () = ending.cancelled() => break,
            };
            if batch.len() == BATCH || (is_flush_due && !batch.is_empty()) {
                export(&collector, &endpoint, &resource, std::mem::take(&mut batch)).await;
            }
        }
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            export(&collector, &endpoint, &resource, batch).await;
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            collector.warn_dropped(dropped);
        }
    }
}

async fn export(
    collector: &Collector,
    endpoint: &OtlpEndpoint,
    resource: &ResourceAttributesWithSchema,
    spans: Vec<SpanData>,
) {
    let resource_spans = group_spans_by_resource_and_scope(spans, resource);
    let message = ExportTraceServiceRequest { resource_spans };
    collector.export(endpoint, "spans", &message).await;
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[test]
    fn spans_are_dropped_and_counted_when_the_queue_is_full() {
        let (span_queue, mut exporter) = span_channel();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(span_queue)
            .build();
        let tracer = provider.tracer("test");
        for _ in 0..QUEUE_CAPACITY + 3 {
            tracer.start("x").end();
        }
        assert_eq!(exporter.dropped.load(Ordering::Relaxed), 3);
        let mut waiting = 0;
        while exporter.spans.try_recv().is_ok() {
            waiting += 1;
        }
        assert_eq!(waiting, QUEUE_CAPACITY);
    }
}
