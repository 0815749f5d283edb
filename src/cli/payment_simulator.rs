//! `entrepot payment-simulator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::gateways::simulator::{Options, Simulator};
use crate::gateways::webhook::Secret;
use crate::runtime::{RandomIds, SystemClock};

/// The payment provider simulator: authorizes, captures, voids and refunds, and writes it all down.
///
/// What it answers depends on the payment token: `tok_ok`, `tok_declined`, `tok_insufficient_funds`,
/// `tok_fraud`, `tok_timeout_charged`, `tok_timeout_lost`, `tok_slow_<ms>`, `tok_flaky_<n>`, `tok_async`.
/// GET /ledger lists everything that ever happened.
///
/// Example: entrepot payment-simulator --listen 127.0.0.1:8090 --ledger payments.jsonl
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The address to serve on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// The ledger: a file of JSON lines, created if it isn't there.
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Who is told about `tok_async` authorizations; may be given several times.
    #[arg(long, value_name = "URL", requires = "webhook_secret_file")]
    webhook_url: Vec<hyper::Uri>,
    /// The file with the secret that signs webhooks: `whsec_` and base64.
    #[arg(long, value_name = "FILE")]
    webhook_secret_file: Option<PathBuf>,
}

impl Args {
    fn options(self) -> anyhow::Result<Options> {
        let secret = self.webhook_secret_file.map(|path| {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read the webhook secret {}", path.display()))?;
            text.parse::<Secret>().with_context(|| path.display().to_string())
        });
        let secret = secret.transpose()?;
        for url in &self.webhook_url {
            let plain = url.scheme_str() == Some("http") && url.authority().is_some();
            anyhow::ensure!(plain, "--webhook-url {url}: must be http://HOST:PORT/PATH");
        }
        let webhooks = self.webhook_url.into_iter().zip(std::iter::repeat(secret));
        let webhooks = webhooks.filter_map(|(url, secret)| Some((url, secret?))).collect();
        Ok(Options { listen: self.listen, ledger: self.ledger, webhooks })
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options = args.options()?;
    // One thread is enough for ten thousand payments a second, and cheapest: no task ever moves.
    tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve(options))
    })
    .await
    .context("the payment simulator panicked; its ledger is safe")?
}

async fn serve(options: Options) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let ledger = options.ledger.clone();
    let clock = SystemClock::new();
    let ids = Arc::new(RandomIds::new(clock));
    let simulator = Simulator::start(options, Arc::new(clock), ids).await?;
    if simulator.cut_bytes > 0 {
        super::output::note(&format!(
            "{}: cut off {} bytes of a record that a crash had torn; nobody was answered about it",
            ledger.display(),
            simulator.cut_bytes
        ));
    }
    super::output::line(&format!(
        "payment simulator on http://{}, ledger {}",
        simulator.address,
        ledger.display()
    ));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = simulator.broken() => {
            anyhow::bail!(
                "the payment ledger {} cannot be written (disk full?). Everything answered is in it; make room and start again",
                ledger.display()
            );
        }
    }
    simulator.stop().await;
    Ok(ExitCode::SUCCESS)
}
