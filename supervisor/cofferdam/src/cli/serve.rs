//! `cofferdam serve`: a pool behind HTTP, until somebody asks it to end.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::Hash;
use cofferdam_worker::state::StateReader;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

use super::args::{self, ConnectionArgs, PoolArgs};
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
    /// The module, as .wasm or .wat [default: the bundled sample indexer].
    #[arg(value_name = "MODULE")]
    module: Option<PathBuf>,

    /// Where to serve HTTP: IP:PORT, NAME:PORT, or unix:PATH, a socket that its owner and group may use.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: Address,

    /// Where to serve the admin API: POST /admin/swap, POST /admin/drain, GET /admin/quarantine, POST /admin/quarantine/lift.
    /// Whoever reaches it decides what is run.
    #[arg(long, value_name = "ADDR")]
    admin: Option<Address>,

    /// Where to answer HAProxy's agent check.
    #[arg(long, value_name = "ADDR")]
    agent: Option<Address>,

    #[command(flatten)]
    pool: PoolArgs,

    /// Bytes that a body may have.
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    max_body_bytes: Bytes,

    /// The state that guests read: a store that `cofferdam run --db-path` has made of the same module with the same limits, and
    /// may go on writing.
    #[arg(long, value_name = "DIR")]
    db_path: Option<PathBuf>,

    /// Requests that may wait for a worker.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    queue: usize,

    /// How long one of them may wait.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    queue_wait: Duration,

    #[command(flatten)]
    connections: ConnectionArgs,

    /// After SIGTERM: how long requests are still taken while /readyz already says no.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    drain_delay: Duration,

    /// And then: how long requests that run may take.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
}

/// What somebody asks of the running server.
#[derive(Debug)]
enum Ask {
    Drain,
    Reload,
}

/// Runs the command.
pub(super) fn run(args: &ServeArgs) -> Result<CommandExit, CliError> {
    // What costs nothing to find out comes first.
    let module = args::read_module(args.module.as_deref())?;
    let profile = describe(args, module.clone()).profile()?;
    let _readable = args.db_path.as_deref().map(ReadAccess::check).transpose()?;
    let state = args.db_path.as_deref().map(StateReader::open).transpose()?;
    check_state(state.as_ref(), profile.hash())?;
    orphans::reap()?;
    let (asks, asked) = mpsc::unbounded_channel();
    listen_to_signals(&asks)?;
    let runtime = server::runtime(args.pool.workers().unwrap_or(1)).map_err(CliError::io("the runtime"))?;
    let exit = runtime.block_on(serve(args, module, state, asks, asked));
    // What still runs in a thread is a pool that was cut off.
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
    // Before the commit: probes have something to ask from the first moment, and requests where to wait.
    let server = listen(args, &service, &operator).await?;
    let mut starting = {
        let (args, service) = (args.clone(), service.clone());
        tokio::task::spawn_blocking(move || start(&args, module, &service))
    };
    let started = tokio::select! {
        started = &mut starting => started.map_err(|error| CliError::Io { what: "starting", source: error.into() })?,
        () = drain_asked(&mut asked) => {
            // The commit is broken off, and its workers are waited for; if it was over just then, this is a drain.
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

/// Answers whoever has waited for a pool that will not be.
async fn send_away(service: &Service, server: tokio::task::JoinHandle<usize>) {
    const LAST_WORDS: Duration = Duration::from_secs(1);
    service.close();
    // Whoever does not take an answer by then finds the connection closed.
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
        tokio::spawn(server::serve(listener, router, service.clone(), bounds.clone(), args.drain_timeout));
    }
    let router = cofferdam_http::job_router(service.clone());
    Ok(tokio::spawn(server::serve(main, router, service.clone(), bounds, args.drain_timeout)))
}

pub(super) async fn bind(address: &Address) -> Result<Listener, CliError> {
    let bound = Listener::bind(address).await;
    bound.map_err(|error| CliError::Usage(format!("{address} cannot be listened on: {error}")))
}

/// Commits the first pool and lets it serve.
fn start(args: &ServeArgs, module: Vec<u8>, service: &Service) -> Result<Arc<Pool>, CliError> {
    let is_asked = || service.phase() != Phase::Starting;
    start_pool(describe(args, module), service, &name_of(args), &is_asked)
}

/// Commits a pool and lets `service` run on it, unless somebody asks to end first.
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

fn name_of(args: &ServeArgs) -> String {
    args::module_name(args.module.as_deref())
}

fn describe(args: &ServeArgs, module: Vec<u8>) -> PoolBuilder {
    let builder = args.pool.builder(module, args.max_body_bytes);
    match &args.db_path {
        Some(path) => builder.state(path),
        None => builder,
    }
}

/// Refuses a module on the state of another: what it reads would be no state of its own.
fn check_state(state: Option<&StateReader>, wanted: Hash) -> Result<(), CliError> {
    let Some(state) = state else { return Ok(()) };
    let stored = state.profile()?;
    if stored == wanted {
        return Ok(());
    }
    Err(StoreError::Profile { path: state.path().to_owned(), stored, wanted }.into())
}

/// Waits until somebody asks to drain, or no worker is left; whether the latter.
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

/// Readiness falls, balancers get time to see it, what runs is finished, and the workers end.
async fn drain(
    args: &ServeArgs,
    service: &Service,
    server: tokio::task::JoinHandle<usize>,
    failed: bool,
) -> Result<CommandExit, CliError> {
    tell_systemd(&[NotifyState::Stopping]);
    service.drain();
    if failed {
        tracing::error!("no healthy worker is left: ending");
    } else {
        tracing::info!("draining: requests are taken for {:?} more", args.drain_delay);
        tokio::time::sleep(args.drain_delay).await;
    }
    service.close();
    let cut = server.await.unwrap_or(0);
    if let Some(pool) = service.pool() {
        // By now nothing runs, or it was given up.
        let ended = tokio::task::spawn_blocking(move || pool.drain(Duration::ZERO)).await;
        tracing::debug!("the pool has ended: {ended:?}");
    }
    if failed {
        return Err(PoolError::NoWorker.into());
    }
    if cut > 0 {
        tracing::error!("{cut} requests were cut off: they took longer than {:?}", args.drain_timeout);
        return Ok(CommandExit::Failure);
    }
    tracing::info!("drained");
    Ok(CommandExit::Success)
}

/// The first SIGINT or SIGTERM asks to drain, the second ends at once; SIGHUP asks to reload.
fn listen_to_signals(asks: &mpsc::UnboundedSender<Ask>) -> Result<(), CliError> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(CliError::io("signals"))?;
    let asks = asks.clone();
    let listen = move || {
        let mut draining = false;
        for signal in &mut signals {
            match signal {
                SIGHUP => drop(asks.send(Ask::Reload)),
                _ if draining => {
                    // Workers need no help: they die with their supervisor.
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

/// What operators ask for, by signal or by the admin API.
struct Control {
    args: ServeArgs,
    service: Service,
    state: Option<StateReader>,
    asks: mpsc::UnboundedSender<Ask>,
}

impl Control {
    fn reload(&self) {
        let mut reloading = vec![NotifyState::Reloading];
        // systemd tells this reload from others by the time (sd_notify(3)).
        reloading.extend(NotifyState::monotonic_usec_now().ok());
        tell_systemd(&reloading);
        match self.swap(None) {
            Ok(profile) => tracing::info!("reloaded: profile {profile}"),
            Err(reason) => tracing::error!("not reloaded, the old module serves on: {reason}"),
        }
        tell_systemd(&[NotifyState::Ready]);
    }
}

impl Operator for Control {
    fn swap(&self, module: Option<Vec<u8>>) -> Result<String, String> {
        let name = match &module {
            Some(_) => "module by POST /admin/swap".to_owned(),
            None => name_of(&self.args),
        };
        let module = match module {
            Some(module) => module,
            None => args::read_module(self.args.module.as_deref()).map_err(|error| error.to_string())?,
        };
        if self.state.is_some() {
            let profile =
                describe(&self.args, module.clone()).profile().map_err(|error| error.to_string())?;
            check_state(self.state.as_ref(), profile.hash()).map_err(|error| error.to_string())?;
        }
        let swapped = self.service.swap(&name, || describe(&self.args, module.clone()));
        swapped.map(|pool| pool.profile().hash().to_string()).map_err(|error| error.to_string())
    }

    fn drain(&self) {
        // It is received for as long as there is anything to drain.
        let _ = self.asks.send(Ask::Drain);
    }
}

/// Tells systemd, if it started this (`Type=notify`).
pub(super) fn tell_systemd(states: &[NotifyState<'_>]) {
    let told: io::Result<()> = sd_notify::notify(states);
    if let Err(error) = told {
        tracing::debug!("systemd was not told: {error}");
    }
}
