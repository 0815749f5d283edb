//! The life of a supervisor, and of a command that starts one in the background.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal as listen};

use super::control::{ControlSocket, Request, ask};
use super::deployment::Deployment;
use super::layout::Layout;
use super::lock::Lock;
use super::programs::in_path;
use super::status::{Phase, Report};
use super::{FirstStart, Options, start};

/// Between two looks at a deployment that starts or stops in the background.
const WATCH_POLL: Duration = Duration::from_millis(50);
/// Stopping is bounded by the graces of all programs, one rank after the other.
const DOWN_LIMIT: Duration = Duration::from_mins(1);

/// Runs a deployment until a signal or `entrepot down` stops it. `show` gets lines for the terminal.
pub(crate) async fn run(options: &Options, show: fn(&str)) -> anyhow::Result<()> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let mut signal = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    };
    let (deployment, lock) = tokio::select! {
        opened = start::open(options, show) => opened?,
        () = signal() => anyhow::bail!("stopped before anything was started"),
    };
    let deployment = Arc::new(deployment);
    let control = ControlSocket::bind(&deployment.layout)?;
    let down = tokio::sync::Notify::new();
    let answers = control.serve(async |request| answer(&deployment, &down, request).await);
    tokio::pin!(answers);
    let life = async {
        deployment.start_all().await?;
        welcome(&deployment.layout, options.first_start, show).await;
        deployment.set_phase(Phase::Started);
        show(&format!("\n{}", deployment.report().await?.table()));
        show("Ctrl-C stops everything.");
        std::future::pending::<anyhow::Result<()>>().await
    };
    let ended = tokio::select! {
        failed = life => failed,
        () = signal() => Ok(()),
        () = down.notified() => Ok(()),
        never = &mut answers => match never {},
    };
    show("stopping; a second Ctrl-C kills");
    let stop = async {
        tokio::select! {
            () = deployment.stop() => {}
            never = answers => match never {},
        }
    };
    tokio::select! {
        () = stop => show("stopped"),
        () = signal() => {
            deployment.kill().await;
            show("killed; the databases recover at the next start");
        }
    }
    drop(lock);
    ended
}

/// Once for a data directory. Without it everything works all the same, so a failure only shows.
async fn welcome(layout: &Layout, first_start: FirstStart, show: fn(&str)) {
    let done = layout.welcome_file();
    if done.exists() {
        return;
    }
    let welcomed = first_start(layout.data_dir().to_owned()).await;
    match welcomed.and_then(|()| Ok(std::fs::write(&done, "")?)) {
        Ok(()) => show("sample    one product, with stock in every region"),
        Err(error) => {
            show(&format!("sample    not there ({error:#}); `entrepot seed` makes a catalogue"));
        }
    }
}

async fn answer(
    deployment: &Deployment,
    down: &tokio::sync::Notify,
    request: Request,
) -> anyhow::Result<serde_json::Value> {
    match request {
        Request::Status => {}
        Request::Down => down.notify_one(),
        Request::Link { .. } | Request::Component { .. } => deployment.inflict(request).await?,
    }
    Ok(serde_json::to_value(deployment.report().await?)?)
}

/// What a running deployment says about itself.
pub(crate) async fn report(data_dir: &Path) -> anyhow::Result<Report> {
    request(data_dir, &Request::Status).await
}

/// Asks a running deployment for something; its answer is its state afterwards.
pub(crate) async fn request(data_dir: &Path, request: &Request) -> anyhow::Result<Report> {
    let layout = Layout::new(std::path::absolute(data_dir)?);
    Ok(serde_json::from_value(ask(&layout, request).await?)?)
}

/// Starts a supervisor in the background and returns when everything has come up.
pub(crate) async fn detach(options: &Options, show: fn(&str)) -> anyhow::Result<()> {
    let layout = Layout::new(std::path::absolute(&options.data_dir)?);
    std::fs::create_dir_all(layout.logs_dir())
        .with_context(|| format!("cannot create {}", layout.data_dir().display()))?;
    let log = layout.log_file("supervisor");
    let file =
        std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let setsid = in_path("setsid").context("setsid (util-linux) was not found; install it")?;
    let mut supervisor = Command::new(setsid)
        .arg(std::env::current_exe()?)
        .args(options.arguments())
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    let pid = i32::try_from(supervisor.id())?;
    let mut shown = 0;
    let watch = async {
        loop {
            if supervisor.try_wait()?.is_some() {
                let said = std::fs::read_to_string(&log)?;
                let error = said.split_once("error: ").map_or(said.as_str(), |(_, error)| error);
                anyhow::bail!("{}", error.trim_end());
            }
            // Until the control socket is there, there is nobody to ask.
            if Lock::holder(&layout.lock_file()) == Some(pid)
                && let Ok(report) = report(layout.data_dir()).await
            {
                for line in report.progress.get(shown..).unwrap_or_default() {
                    show(line);
                }
                shown = report.progress.len();
                if report.has_started() {
                    show(&format!("\n{}", report.table()));
                    show("`entrepot down` stops everything.");
                    return Ok(());
                }
            }
            tokio::time::sleep(WATCH_POLL).await;
        }
    };
    tokio::select! {
        ready = watch => ready,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            signal::kill(Pid::from_raw(pid), Signal::SIGTERM)?;
            anyhow::bail!("interrupted; what was started is being stopped")
        }
    }
}

/// Stops a deployment and waits until it is gone. False when none was running.
pub(crate) async fn down(data_dir: &Path) -> anyhow::Result<bool> {
    let layout = Layout::new(std::path::absolute(data_dir)?);
    let Some(pid) = Lock::holder(&layout.lock_file()) else { return Ok(false) };
    if ask(&layout, &Request::Down).await.is_err() {
        // It does not answer yet, or no more.
        signal::kill(Pid::from_raw(pid), Signal::SIGTERM)
            .with_context(|| format!("cannot stop the supervisor (pid {pid})"))?;
    }
    let gone = async {
        while Lock::holder(&layout.lock_file()).is_some() {
            tokio::time::sleep(WATCH_POLL).await;
        }
    };
    tokio::time::timeout(DOWN_LIMIT, gone).await.with_context(|| {
        format!(
            "the deployment does not stop; `kill -9 {pid}` ends it and everything it started; the \
             databases recover at the next start"
        )
    })?;
    Ok(true)
}
