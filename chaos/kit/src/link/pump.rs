//! Moves the bytes of one direction: a reader that stamps what comes, and a writer that waits until it is due.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::{Faults, Lane};

/// How much may be on its way in one direction. More than a delayed link of a test ever fills, and bounded.
const IN_FLIGHT: usize = 4 << 20;
/// How much is read at once.
const CHUNK: usize = 32 << 10;
/// The unit in which a throttled direction is paced: the smaller the smoother.
const PACED: usize = 4 << 10;

struct Chunk {
    came: Instant,
    bytes: Bytes,
    /// Room in flight, given back when the bytes have been written.
    _room: OwnedSemaphorePermit,
}

/// Moves bytes until the source ends and everything has been delivered.
///
/// # Errors
/// When a side breaks, or when bytes had vanished and the fault is healed: what is left of such a stream makes no
/// sense to anyone.
pub(super) async fn pump(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    faults: watch::Receiver<Faults>,
    lane: fn(&Faults) -> Lane,
    delivered: &AtomicU64,
) -> io::Result<()> {
    let (queue, chunks) = mpsc::channel(1024);
    tokio::try_join!(read(from, queue, faults.clone(), lane), write(to, chunks, faults, lane, delivered))?;
    Ok(())
}

async fn read(
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<Chunk>,
    mut faults: watch::Receiver<Faults>,
    lane: fn(&Faults) -> Lane,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut buffer = vec![0; CHUNK];
    let mut damaged = false;
    loop {
        let now = lane(&faults.borrow_and_update());
        if now.stall {
            changed(&mut faults).await?;
            continue;
        }
        if damaged && !now.vanish {
            return Err(io::Error::other("bytes of this connection have vanished"));
        }
        let count = tokio::select! {
            read = from.read(&mut buffer) => read?,
            // Looked at again: a stall begins, a damaged connection ends.
            gone = changed(&mut faults) => { gone?; continue }
        };
        if now.vanish {
            if count == 0 {
                // The end of a stream vanishes like everything else.
                changed(&mut faults).await?;
            }
            damaged = true;
            continue;
        }
        if count == 0 {
            return Ok(());
        }
        let permits = u32::try_from(count).map_err(io::Error::other)?;
        let room = Arc::clone(&room).acquire_many_owned(permits).await.map_err(io::Error::other)?;
        let chunk =
            Chunk { came: Instant::now(), bytes: Bytes::copy_from_slice(&buffer[..count]), _room: room };
        queue.send(chunk).await.map_err(io::Error::other)?;
    }
}

async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut chunks: mpsc::Receiver<Chunk>,
    mut faults: watch::Receiver<Faults>,
    lane: fn(&Faults) -> Lane,
    delivered: &AtomicU64,
) -> io::Result<()> {
    let mut damaged = false;
    while let Some(mut chunk) = chunks.recv().await {
        while !chunk.bytes.is_empty() {
            let now = lane(&faults.borrow_and_update());
            if now.vanish {
                // What was on its way does not arrive either.
                damaged = true;
                break;
            }
            if damaged {
                return Err(io::Error::other("bytes of this connection have vanished"));
            }
            let due = chunk.came + Duration::from_millis(now.delay_ms);
            if now.stall {
                changed(&mut faults).await?;
            } else if due > Instant::now() {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    gone = changed(&mut faults) => gone?,
                }
            } else if let Some(rate) = now.bytes_per_s {
                let piece = chunk.bytes.split_to(chunk.bytes.len().min(PACED));
                to.write_all(&piece).await?;
                delivered.fetch_add(piece.len() as u64, Ordering::Relaxed);
                let took = Duration::from_secs_f64(piece.len() as f64 / rate.max(1) as f64);
                tokio::select! {
                    () = tokio::time::sleep_until(Instant::now() + took) => {}
                    gone = changed(&mut faults) => gone?,
                }
            } else {
                to.write_all(&chunk.bytes).await?;
                delivered.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
                chunk.bytes.clear();
            }
        }
    }
    to.shutdown().await
}

/// Waits for the switch to be moved.
async fn changed(faults: &mut watch::Receiver<Faults>) -> io::Result<()> {
    faults.changed().await.map_err(io::Error::other)
}
