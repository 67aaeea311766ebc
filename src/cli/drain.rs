//! `wsgate drain`: has a running process drain, and waits for it: for a sidecar's preStop, where
//! there is no shell and no curl.

use std::time::Duration;

use anyhow::Context;
use http::{Method, StatusCode};
use tokio::time::sleep;

use super::asking::{Door, Gone, Whom};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);

/// Whom to ask, and what to wait for.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    whom: Whom,
    /// Return only when no connection is left
    #[arg(long)]
    wait: bool,
}

/// Begins the drain; with `--wait` goes on until nobody is left, or the process is gone.
pub fn drain(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { whom, wait } = arguments;
    let door = Door::of(whom)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut left = ask(&door).await?;
        while wait && left > 0 {
            sleep(PAUSE).await;
            left = match ask(&door).await {
                Ok(left) => left,
                // It has drained and gone.
                Err(fault) if fault.downcast_ref::<Gone>().is_some() => 0,
                Err(fault) => return Err(fault),
            };
        }
        Ok(())
    })
}

/// Asks for the drain; gives how many connections are left.
async fn ask(door: &Door) -> anyhow::Result<u64> {
    let body = door.ask(Method::POST, "/api/v1/drain", StatusCode::ACCEPTED).await?;
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    answer["connections"].as_u64().with_context(|| format!("{} is not wsgate", door.address))
}
