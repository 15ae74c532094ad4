//! The pump of a store under way: it cuts pages into chunks and queues them.

use crate::error::Fault;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::pipeline::channel::PageStream;
use crate::pipeline::token::{Detail, Outcome, Page, Status, Token};
use crate::store::queue::{Chunk, Queue, StoreJob};

/// The most tokens in a chunk.
const LARGEST_CHUNK: usize = 32;
/// How long pages are waited for once nothing may be waited for.
const LAST_PAGES: Duration = Duration::from_secs(1);

/// Cuts the pages of `pages` into chunks and queues them, until the pages end or nothing more may
/// be sent; then reports what still comes as not sent.
pub(in crate::store) async fn pump(
    queue: Arc<Queue>,
    job: Arc<StoreJob>,
    stop: CancellationToken,
    mut pages: PageStream<Fault>,
) {
    if feed(&queue, &job, &stop, &mut pages).await.is_some() {
        // All is queued. What is not sent yet can still be stopped, without keeping the job alive.
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
                queue.clear_if_halted();
            }
        }
        return;
    }
    job.stop();
    if let Some(verdict) = queue.verdict.get() {
        job.sender.fail(verdict.fault.clone());
    }
    queue.clear_if_halted();
    pages.stop();
    let rest = async {
        while let Some(result) = pages.next().await {
            match result {
                Ok(page) => job.refuse(page.iter()),
                Err(fault) => job.sender.fail(fault),
            }
        }
    };
    let patience = async {
        queue.shutdown.aborting().cancelled().await;
        queue.clock.at(queue.clock.now() + LAST_PAGES).await;
    };
    tokio::select! {
        biased;
        () = rest => {}
        () = patience => {}
    }
}

/// `None` where it was interrupted before the pages ended.
async fn feed(
    queue: &Queue,
    job: &Arc<StoreJob>,
    stop: &CancellationToken,
    pages: &mut PageStream<Fault>,
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
        queue.more.notify_one();
        let size = (page.len() / (queue.connections * 2)).clamp(1, LARGEST_CHUNK);
        while !page.is_empty() {
            let size = size.min(page.len());
            tokio::select! {
                biased;
                () = &mut interrupted => {
                    pages.put_back(page);
                    return None;
                }
                () = job.sender.book(size) => {}
            }
            let Some(chunk) = cut(queue, job, &mut page, size) else {
                continue;
            };
            // A chunk that is not sent reports its tokens when it is dropped.
            tokio::select! {
                biased;
                () = &mut interrupted => {
                    pages.put_back(page);
                    return None;
                }
                _ = queue.feed.send(chunk) => {}
            }
        }
    }
}

/// Takes `size` tokens off the page; those that no database needs to judge are rejected here.
fn cut(queue: &Queue, job: &Arc<StoreJob>, page: &mut Page, size: usize) -> Option<Chunk> {
    let tokens = page.take(size);
    let (flawed, tokens): (Vec<Token>, Vec<Token>) = if tokens.iter().any(|t| t.flaw().is_some()) {
        tokens.into_iter().partition(|token| token.flaw().is_some())
    } else {
        (Vec::new(), tokens)
    };
    queue.pending.fetch_sub(flawed.len(), Ordering::Relaxed);
    job.send(
        flawed
            .into_iter()
            .map(|token| {
                let detail = token.flaw().map(|flaw| Detail::reason(flaw.reason()));
                Outcome::unsent(token, Status::Rejected, detail)
            })
            .collect(),
    );
    (!tokens.is_empty()).then(|| Chunk {
        job: Arc::clone(job),
        tokens: tokens.into_iter(),
    })
}
