//! `cofferdam serve`: a pool behind HTTP, until a signal or an operator ends it.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::Profile;
use cofferdam_worker::state::StateReader;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

use super::args::{ConnectionArgs, DrainArgs, ModuleArgs, PoolArgs};
use super::error::CliError;
use super::logging;
use super::orphans;
use cofferdam_base::size::Bytes;
use cofferdam_http::server::{self, Address, Listener};
use cofferdam_http::{Operator, Phase, Service, Settings};
use cofferdam_pool::{Pool, PoolBuilder, PoolError};
use cofferdam_store::{ReadAccess, StoreError};

/// Arguments of `cofferdam serve`.
#[derive(Clone, Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) module: ModuleArgs,

    /// Where to serve HTTP: IP:PORT, NAME:PORT, or unix:PATH. A socket can be used by its owner and group.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: Address,

    /// Where to serve the admin API: POST /admin/swap, POST /admin/drain, GET /admin/quarantine, POST /admin/quarantine/lift.
    /// Everyone who can reach this address decides which module runs.
    #[arg(long, value_name = "ADDR")]
    admin: Option<Address>,

    /// Where to answer the agent check of HAProxy.
    #[arg(long, value_name = "ADDR")]
    agent: Option<Address>,

    #[command(flatten)]
    pool: PoolArgs,

    /// The largest request body that is accepted.
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    max_body_bytes: Bytes,

    /// The store that guests read. `cofferdam run --db-path` with the same module and limits makes it, and may still be writing
    /// to it.
    #[arg(long, value_name = "DIR")]
    db_path: Option<PathBuf>,

    /// Requests that may wait for a worker.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    queue: usize,

    /// How long one request may wait.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    queue_wait: Duration,

    #[command(flatten)]
    connections: ConnectionArgs,

    #[command(flatten)]
    drain: DrainArgs,
}

/// What an operator asks of the running server.
#[derive(Debug)]
enum Ask {
    Drain,
    Reload,
}

/// Runs the command.
pub(super) fn run(args: &ServeArgs) -> Result<CommandExit, CliError> {
    // Cheap checks come first: a misspelt path is reported before 4 GiB are committed.
    let module = args.module.read()?;
    let profile = describe(args, module.clone()).profile()?;
    let _readable = args.db_path.as_deref().map(ReadAccess::check).transpose()?;
    let state = args.db_path.as_deref().map(StateReader::open).transpose()?;
    check_state(state.as_ref(), &profile)?;
    orphans::reap()?;
    let (asks, asked) = mpsc::unbounded_channel();
    listen_to_signals(&asks)?;
    let runtime = server::runtime(args.pool.workers().unwrap_or(1)).map_err(CliError::io("the runtime"))?;
    let exit = runtime.block_on(serve(args, module, state, asks, asked));
    // A pool that did not end in time may still run in a thread.
    runtime.shutdown_timeout(Duration::from_millis(100));
    exit
}

async fn serve(
    args: &ServeArgs,
    module: Vec<u8>,
    state: Option<StateReader>,
    asks: mpsc::UnboundedSender<Ask>,
    mut asked: mpsc::UnboundedReceiver<Ask>,
) -> Result<CommandExit, CliError> {
    let settings = Settings {
        queue: args.queue,
        queue_wait: args.queue_wait,
        buffered_bytes: args.connections.buffered.0,
        body_timeout: args.connections.body_timeout,
        ..Settings::default()
    };
    let service = Service::starting(settings, args.max_body_bytes.0);
    if let Some(state) = &state {
        service.set_state(state.clone());
    }
    let operator = Arc::new(Control { args: args.clone(), service: service.clone(), state, asks });
    // The server listens before memory is committed, so that probes are answered from the start and requests can wait.
    let server = listen(args, &service, &operator).await?;
    let mut starting = {
        let (args, service) = (args.clone(), service.clone());
        tokio::task::spawn_blocking(move || start(&args, module, &service))
    };
    let started = tokio::select! {
        started = &mut starting => started.map_err(|error| CliError::Io { what: "starting", source: error.into() })?,
        () = drain_asked(&mut asked) => {
            // `drain` cancels the commit, and this waits until the workers have ended. If the pool became ready meanwhile, it is
            // drained.
            service.drain();
            return match starting.await {
                Ok(Ok(_)) => drain(args, &service, server, false).await,
                _ => {
                    send_away(&service, server).await;
                    Ok(CommandExit::Failure)
                }
            };
        }
    };
    let pool = match started {
        Ok(pool) => pool,
        Err(error) => {
            send_away(&service, server).await;
            return Err(error);
        }
    };
    tracing::info!("serving on {}: profile {}", args.listen, pool.profile().hash());
    drop(pool);
    tell_systemd(&[NotifyState::Ready]);
    let failed = serve_until_asked(&service, &operator, &mut asked).await;
    drain(args, &service, server, failed).await
}

/// Answers the requests that have waited for a pool that was not built.
async fn send_away(service: &Service, server: tokio::task::JoinHandle<usize>) {
    const LAST_WORDS: Duration = Duration::from_secs(1);
    service.close();
    // If a client has not read its answer after this time, its connection is closed.
    let _ = tokio::time::timeout(LAST_WORDS, server).await;
}

/// Binds every listener, and begins to answer. The handle ends with the number of connections that were cut off.
async fn listen(
    args: &ServeArgs,
    service: &Service,
    operator: &Arc<Control>,
) -> Result<tokio::task::JoinHandle<usize>, CliError> {
    let bounds = args.connections.bounds();
    let main = bind(&args.listen).await?;
    if let Some(address) = &args.agent {
        tokio::spawn(cofferdam_http::agent(bind(address).await?, service.clone()));
    }
    if let Some(address) = &args.admin {
        let router = cofferdam_http::admin_router(service.clone(), Arc::clone(operator) as Arc<dyn Operator>);
        let listener = bind(address).await?;
        tokio::spawn(server::serve(listener, router, service.clone(), bounds.clone(), args.drain.timeout));
    }
    let router = cofferdam_http::job_router(service.clone());
    Ok(tokio::spawn(server::serve(main, router, service.clone(), bounds, args.drain.timeout)))
}

pub(super) async fn bind(address: &Address) -> Result<Listener, CliError> {
    let bound = Listener::bind(address).await;
    bound.map_err(|error| CliError::Usage(format!("cannot listen on {address}: {error}")))
}

/// Builds the first pool, and installs it in the service.
fn start(args: &ServeArgs, module: Vec<u8>, service: &Service) -> Result<Arc<Pool>, CliError> {
    let is_asked = || service.phase() != Phase::Starting;
    start_pool(describe(args, module), service, &args.module.name(), &is_asked)
}

/// Builds a pool and installs it in `service`, unless `is_asked` says that the process is to end.
pub(super) fn start_pool(
    builder: PoolBuilder,
    service: &Service,
    module: &str,
    is_asked: &dyn Fn() -> bool,
) -> Result<Arc<Pool>, CliError> {
    let bar = logging::bar(None, "committing memory {bar:40} {bytes}/{total_bytes}");
    let built = builder.build_with(&mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.committed_bytes);
        service.report_start_progress(progress);
        if is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let pool = Arc::new(built?);
    service.install(&pool, module);
    Ok(pool)
}

fn describe(args: &ServeArgs, module: Vec<u8>) -> PoolBuilder {
    let builder = args.pool.builder(module, args.max_body_bytes);
    match &args.db_path {
        Some(path) => builder.state(path),
        None => builder,
    }
}

/// Refuses a module if the state belongs to another profile: the module would read values that it did not write.
fn check_state(state: Option<&StateReader>, profile: &Profile) -> Result<(), CliError> {
    let Some(state) = state else { return Ok(()) };
    let (stored, wanted) = (state.profile()?, profile.hash());
    if stored == wanted {
        return Ok(());
    }
    let parts = state.profile_parts()?.map(|parts| Box::new([parts, profile.clone()]));
    Err(StoreError::Profile { path: state.path().to_owned(), stored, wanted, parts }.into())
}

/// Waits until an operator asks to drain (false), or no worker is left (true).
async fn serve_until_asked(
    service: &Service,
    operator: &Arc<Control>,
    asked: &mut mpsc::UnboundedReceiver<Ask>,
) -> bool {
    const LOOK: Duration = Duration::from_millis(200);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            ask = asked.recv() => match ask {
                Some(Ask::Reload) => {
                    let operator = Arc::clone(operator);
                    tokio::task::spawn_blocking(move || operator.reload());
                }
                Some(Ask::Drain) | None => return false,
            },
            _ = look.tick() => {
                tell_systemd(&[NotifyState::Watchdog]);
                if !service.is_swapping() && service.pool().is_some_and(|pool| pool.is_lost()) {
                    return true;
                }
            }
        }
    }
}

async fn drain_asked(asked: &mut mpsc::UnboundedReceiver<Ask>) {
    while let Some(ask) = asked.recv().await {
        if matches!(ask, Ask::Drain) {
            return;
        }
    }
}

/// Ends the server: readiness fails first, load balancers get time to notice, running requests finish, and the workers end.
async fn drain(
    args: &ServeArgs,
    service: &Service,
    server: tokio::task::JoinHandle<usize>,
    failed: bool,
) -> Result<CommandExit, CliError> {
    tell_systemd(&[NotifyState::Stopping]);
    service.drain();
    if failed {
        tracing::error!("no healthy worker is left: the server ends");
    } else {
        tracing::info!("draining: requests are accepted for another {:?}", args.drain.delay);
        tokio::time::sleep(args.drain.delay).await;
    }
    service.close();
    let cut = server.await.unwrap_or(0);
    if let Some(pool) = service.pool() {
        // No request runs any more: the requests have finished or were cut off.
        let ended = tokio::task::spawn_blocking(move || pool.drain(Duration::ZERO)).await;
        tracing::debug!("the pool has ended; every job finished: {}", ended.unwrap_or(false));
    }
    if failed {
        return Err(PoolError::NoWorker.into());
    }
    if cut > 0 {
        tracing::error!(
            "{cut} requests were cut off: they ran for longer than --drain-timeout {:?}",
            args.drain.timeout
        );
        return Ok(CommandExit::Failure);
    }
    tracing::info!("drained");
    Ok(CommandExit::Success)
}

/// The first SIGINT or SIGTERM asks to drain, and the second ends the process at once. SIGHUP asks to reload.
fn listen_to_signals(asks: &mpsc::UnboundedSender<Ask>) -> Result<(), CliError> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(CliError::io("signals"))?;
    let asks = asks.clone();
    let listen = move || {
        let mut draining = false;
        for signal in &mut signals {
            match signal {
                SIGHUP => drop(asks.send(Ask::Reload)),
                _ if draining => {
                    // The kernel ends the workers with their supervisor.
                    signal_hook::low_level::exit(128 + signal);
                }
                _ => {
                    draining = true;
                    drop(asks.send(Ask::Drain));
                }
            }
        }
    };
    let thread = thread::Builder::new().name("cofferdam-signals".to_owned()).spawn(listen);
    thread.map(drop).map_err(CliError::io("a thread for signals"))
}

/// What operators can ask for, by signal or by the admin API.
struct Control {
    args: ServeArgs,
    service: Service,
    state: Option<StateReader>,
    asks: mpsc::UnboundedSender<Ask>,
}

impl Control {
    fn reload(&self) {
        let mut reloading = vec![NotifyState::Reloading];
        // systemd tells reloads apart by their time (sd_notify(3)).
        reloading.extend(NotifyState::monotonic_usec_now().ok());
        tell_systemd(&reloading);
        match self.swap(None) {
            Ok(profile) => tracing::info!("reloaded: profile {profile}"),
            Err(reason) => tracing::error!("not reloaded, the old module still serves: {reason}"),
        }
        tell_systemd(&[NotifyState::Ready]);
    }
}

impl Operator for Control {
    fn swap(&self, module: Option<Vec<u8>>) -> Result<String, String> {
        let name = match &module {
            Some(_) => "module by POST /admin/swap".to_owned(),
            None => self.args.module.name(),
        };
        let module = match module {
            Some(module) => module,
            None => self.args.module.read().map_err(|error| error.to_string())?,
        };
        if self.state.is_some() {
            let profile =
                describe(&self.args, module.clone()).profile().map_err(|error| error.to_string())?;
            check_state(self.state.as_ref(), &profile).map_err(|error| error.to_string())?;
        }
        let swapped = self.service.swap(&name, || describe(&self.args, module.clone()));
        swapped.map(|pool| pool.profile().hash().to_string()).map_err(|error| error.to_string())
    }

    fn drain(&self) {
        // If nothing receives the message, the server has ended already.
        let _ = self.asks.send(Ask::Drain);
    }
}

/// Notifies systemd, if systemd started this process (`Type=notify`).
pub(super) fn tell_systemd(states: &[NotifyState<'_>]) {
    let told: io::Result<()> = sd_notify::notify(states);
    if let Err(error) = told {
        tracing::debug!("systemd was not told: {error}");
    }
}
