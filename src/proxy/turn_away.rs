//! A refusal told by a Close: the upgrade is accepted, and closed at once.

use std::any::Any;
use std::io;
use std::time::{Duration, Instant};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::ending::Side;
use crate::metrics::Received;
use crate::plan::Plan;
use crate::tunnel::meter::{Agreement, Flow, Meter, Then};
use crate::ws::head::HEADROOM;
use crate::ws::{CloseCode, ControlFrame};

/// Bytes that are read on behind the Close, so that they cause no reset that would destroy it.
const DISCARD: usize = 4 << 20;

/// Sends a Close with `code` once the answer is written, waits up to `patience` for the client's
/// own, and closes the connection. `hold` lives as long.
pub(super) async fn turn_away(
    on_upgrade: OnUpgrade,
    code: CloseCode,
    patience: Duration,
    hold: impl Any,
) {
    if let Ok(upgraded) = on_upgrade.await {
        let _ = timeout(patience, close(TokioIo::new(upgraded), code)).await;
    }
    drop(hold);
}

async fn close(mut stream: TokioIo<Upgraded>, code: CloseCode) -> io::Result<()> {
    let mut frame = Vec::new();
    ControlFrame::close(code, "").encode(None, &mut frame);
    stream.write_all(&frame).await?;
    await_close(&mut stream).await?;
    stream.shutdown().await
}

/// Reads until the client's Close or FIN.
async fn await_close(stream: &mut TokioIo<Upgraded>) -> io::Result<()> {
    let agreement = Agreement { sender: Side::Client, deflate: false, check_utf8: false };
    let (plan, tally, mut meter) = (Plan::default(), Received::default(), Meter::new(agreement));
    meter.restrict(Flow::Stopped);
    let mut buffer = vec![0; HEADROOM + 1024];
    let mut discarded = 0;
    while discarded < DISCARD {
        let read = stream.read(&mut buffer[HEADROOM..]).await?;
        let start = HEADROOM - meter.restore_head(&mut buffer[..HEADROOM]);
        let mut chunk = &buffer[start..HEADROOM + read];
        while !chunk.is_empty() {
            let scan = meter.scan(Instant::now(), chunk, &plan, &tally);
            chunk = &chunk[scan.used..];
            if matches!(scan.then, Then::Close(..)) {
                return Ok(());
            }
        }
        if read == 0 {
            return Ok(());
        }
        discarded += read;
    }
    Ok(())
}
