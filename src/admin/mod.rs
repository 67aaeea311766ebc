//! What operators see and do: metrics, probes, connections, upstreams, configuration, drain.
//!
//! It runs on the control thread. What is counted it reads where it is counted; what is to be done
//! it asks of the workers and of the control thread by commands, and calls nothing above. A
//! request is routed by `route`, judged by `guard` (both pure) and answered by `api`; `listen`
//! keeps the sockets, `exposition` writes the metrics, `live` tells the dashboard what happens; the
//! page itself is the three files `dashboard.*`.

mod answer;
mod api;
mod exposition;
mod guard;
mod listen;
mod live;
mod process;
mod route;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tracing::info;

use self::exposition::Exposition;
use self::guard::{Guard, Reach};
pub use self::listen::ListenFault;
use self::listen::Listening;
use self::live::{Audience, Gathering};
use self::process::Figures;
use crate::config::{self, TokenFault, read_token};
use crate::control::{Request, Workers};
use crate::metrics::Tallies;
use crate::policy::Banned;
use crate::snapshot::Snapshot;

/// The process that is looked at.
#[derive(Clone)]
pub struct Process {
    pub published: Arc<ArcSwap<Snapshot>>,
    pub tallies: Arc<Tallies>,
    pub banned: Arc<Banned>,
    pub workers: Workers,
    /// To the control thread.
    pub requests: mpsc::Sender<Request>,
    /// Log lines that could not be written.
    pub lost_lines: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// Sockets that are bound, and who may come to them.
pub struct Admin {
    sockets: Vec<(Listening, Guard)>,
    token: Token,
}

#[derive(Debug, thiserror::Error)]
pub enum AdminFault {
    #[error("admin: {0}")]
    Listen(#[from] ListenFault),
    #[error("admin token: {0}")]
    Token(#[from] TokenFault),
}

impl Admin {
    /// Binds its sockets and reads its token.
    pub fn bind(config: &config::Admin) -> Result<Admin, AdminFault> {
        let token = Token::new(config.token_file.clone())?;
        let mut sockets = Vec::new();
        for (address, reach) in [(&config.listen, Reach::All), (&config.probes, Reach::Probes)] {
            if let Some(address) = address {
                let listening = Listening::bind(address)?;
                let guard = Guard {
                    reach,
                    peers: listening.peers(),
                    hosts: config.hosts.clone(),
                    has_token: config.token_file.is_some(),
                };
                sockets.push((listening, guard));
            }
        }
        Ok(Admin { sockets, token })
    }

    /// Serves on this thread's runtime for as long as that lives.
    pub fn serve(self, process: Process) {
        let (figures, audience) = (Arc::new(Figures::new()), Arc::<Audience>::default());
        let gathering = Gathering::new(process.clone(), figures.clone(), audience.clone());
        tokio::spawn(gathering.run());
        let exposition = Exposition::new(process.clone(), figures);
        let common = Arc::new(api::Api { process, exposition, audience, token: self.token });
        for (listening, guard) in self.sockets {
            let probes = guard.reach == Reach::Probes;
            info!(address = %listening.address(), probes, "admin listening");
            let api = common.clone();
            let answer = move |request| {
                let (api, guard) = (api.clone(), guard.clone());
                async move { api.answer(&guard, request).await }
            };
            tokio::spawn(listening.serve(answer));
        }
    }
}

/// The token, read anew whenever somebody shows one, so that a file that was replaced binds at
/// once; where it cannot be read, as it was last.
struct Token {
    file: Option<PathBuf>,
    last: Mutex<Option<String>>,
}

impl Token {
    fn new(file: Option<PathBuf>) -> Result<Token, TokenFault> {
        let last = file.as_deref().map(read_token).transpose()?;
        Ok(Token { file, last: Mutex::new(last) })
    }

    fn now(&self) -> Option<String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(token)) = self.file.as_deref().map(read_token) {
            *last = Some(token);
        }
        last.clone()
    }
}
