//! The pump of a store: splits pages into chunks and queues them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::pipeline::channel::PageStream;
use crate::pipeline::token::{Detail, Outcome, Page, Status, Token};
use crate::store::queue::{Chunk, Queue, StoreJob};

/// Maximum number of tokens per chunk.
const MAX_CHUNK: usize = 32;
/// How long the pump still waits for pages after an abort.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Splits pages into chunks and queues them until the pages end or nothing more may be sent.
///
/// Tokens that arrive after that are reported as not sent.
pub(in crate::store) async fn pump(
    queue: Arc<Queue>,
    job: Arc<StoreJob>,
    stop: CancellationToken,
    mut pages: PageStream<Error>,
) {
    if queue_pages(&queue, &job, &stop, &mut pages).await.is_some() {
        // All pages are queued. A weak reference can still stop the job without keeping it alive.
        let done = job.done.clone();
        let weak = Arc::downgrade(&job);
        drop(job);
        tokio::select! {
            biased;
            () = done.cancelled() => {}
            () = queue.interrupted(&stop) => {
                if let Some(job) = weak.upgrade() {
                    job.stop();
                }
                queue.clear_if_stopped();
            }
        }
        return;
    }
    job.stop();
    if let Some(end) = queue.end.get() {
        job.sender.fail(end.fault.clone());
    }
    queue.clear_if_stopped();
    pages.stop();
    let rest = async {
        while let Some(result) = pages.next().await {
            match result {
                Ok(page) => job.report_unsent(page.iter()),
                Err(fault) => job.sender.fail(fault),
            }
        }
    };
    let abort_grace = async {
        queue.shutdown.aborting().cancelled().await;
        queue
            .clock
            .sleep_until(queue.clock.now() + ABORT_GRACE)
            .await;
    };
    tokio::select! {
        biased;
        () = rest => {}
        () = abort_grace => {}
    }
}

/// Queues the pages; returns `None` if it was interrupted before they ended.
async fn queue_pages(
    queue: &Queue,
    job: &Arc<StoreJob>,
    stop: &CancellationToken,
    pages: &mut PageStream<Error>,
) -> Option<()> {
    let mut interrupted = pin!(queue.interrupted(stop));
    loop {
        let next = tokio::select! {
            biased;
            () = &mut interrupted => return None,
            next = pages.next() => next,
        };
        let mut page = match next {
            None => return Some(()),
            Some(Ok(page)) => page,
            Some(Err(fault)) => {
                job.sender.fail(fault);
                continue;
            }
        };
        if let Some(pages) = &job.pages {
            pages.begin(&page);
        }
        queue.pending.fetch_add(page.len(), Ordering::Relaxed);
        queue.page_arrived.notify_one();
        let size = (page.len() / (queue.connections * 2)).clamp(1, MAX_CHUNK);
        while !page.is_empty() {
            let size = size.min(page.len());
            tokio::select! {
                biased;
                () = &mut interrupted => {
                    pages.put_back(page);
                    return None;
                }
                () = job.sender.reserve(size) => {}
            }
            let Some(chunk) = next_chunk(queue, job, &mut page, size) else {
                continue;
            };
            // A chunk that is not sent reports its tokens when it is dropped.
            tokio::select! {
                biased;
                () = &mut interrupted => {
                    pages.put_back(page);
                    return None;
                }
                _ = queue.sender.send(chunk) => {}
            }
        }
    }
}

/// Takes `size` tokens from the page as a chunk; invalid tokens are rejected here.
fn next_chunk(queue: &Queue, job: &Arc<StoreJob>, page: &mut Page, size: usize) -> Option<Chunk> {
    let tokens = page.take(size);
    let (invalid, tokens): (Vec<Token>, Vec<Token>) = if tokens.iter().any(|t| t.defect().is_some())
    {
        tokens
            .into_iter()
            .partition(|token| token.defect().is_some())
    } else {
        (Vec::new(), tokens)
    };
    queue.pending.fetch_sub(invalid.len(), Ordering::Relaxed);
    job.send(
        invalid
            .into_iter()
            .map(|token| {
                let detail = token.defect().map(|defect| Detail::reason(defect.reason()));
                Outcome::unsent(token, Status::Rejected, detail)
            })
            .collect(),
    );
    (!tokens.is_empty()).then(|| Chunk {
        job: Arc::clone(job),
        tokens: tokens.into_iter(),
    })
}
