//! `cofferdam node`: indexes a chain on committed workers, and answers the clients of a metashrew node.

mod args;
mod replaced;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::Hash;
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use self::args::ExitAt;
pub(super) use self::args::NodeArgs;
use super::args as shared;
use super::error::CliError;
use super::orphans;
use super::serve::{bind, start_pool, tell_systemd};
use super::signals::Stop;
use cofferdam_chain::blocks::{BlockHash, Network, Options};
use cofferdam_chain::{Pipeline, PipelineSettings};
use cofferdam_http::server;
use cofferdam_http::{Service, Settings};
use cofferdam_node::daemon::Follower;
use cofferdam_node::feed::{FeedError, FileFeed, LookupError};
use cofferdam_node::rpc::{self, Cors, RpcSettings};
use cofferdam_node::{IndexError, Indexer, NodeBackend, NodeState, ReadinessLimits, StopReason, Tip};
use cofferdam_pool::{Pool, PoolBuilder};
use cofferdam_store::snapshot::Snapshots;
use cofferdam_store::{Durability, Store};

/// The most bytes of writes that are not committed yet. Workers hold these writes for the blocks and views that read them.
const LAYER_BYTES: u64 = 256 << 20;

/// What every step of the command needs.
struct Parts {
    args: NodeArgs,
    stop: Stop,
    store: Arc<Store>,
    state: Arc<NodeState>,
    service: Service,
}

/// Runs the command.
pub(super) fn run(args: &NodeArgs) -> Result<CommandExit, CliError> {
    let stop = Stop::listen()?;
    orphans::reap()?;
    // Cheap checks come first: a misspelt path is reported before 4 GiB are committed.
    args.check()?;
    let module = args.module.read()?;
    let builder = describe(args, module);
    let profile = builder.profile()?;
    let network = args.network.map(|network| network.to_string());
    let store = Store::open_with_profile(&args.db_path, &profile, network, Durability::Block)?;
    let store = if args.state_tree { store.with_tree()? } else { store };
    check_start(&store, args.asked_start())?;
    let store = Arc::new(store.with_undo(args.max_reorg_depth));
    let tip = store.tip()?.map(|record| Tip::of(&record));
    let freshness = ReadinessLimits { max_lag: args.max_lag, max_silence: args.max_silence };
    let state = NodeState::new(tip, args.label.clone(), freshness, args.daemon_rpc_url.is_some());
    let settings = Settings {
        queue: args.queue,
        queue_wait: args.queue_wait,
        buffered_bytes: args.connections.buffered.0,
        body_timeout: args.connections.body_timeout,
        // Blocks of the chain do not wait in this queue, but they need a worker.
        reserved: usize::from(args.redundancy),
        ..Settings::default()
    };
    let service = Service::starting(settings, args.max_block_bytes.0);
    let parts = Parts { args: args.clone(), stop, store, state: Arc::new(state), service };
    // By default, one worker for blocks and one for views.
    let runtime = server::runtime(args.pool.workers().unwrap_or(2)).map_err(CliError::io("the runtime"))?;
    let exit = runtime.block_on(serve(Arc::new(parts), builder, profile.module));
    runtime.shutdown_timeout(Duration::from_millis(100));
    exit
}

/// Refuses a start height that differs from the first height of the store. A store cannot begin at another height.
fn check_start(store: &Store, asked: Option<u32>) -> Result<(), CliError> {
    match (store.first_height()?, asked) {
        (Some(first), Some(asked)) if first != asked => {
            Err(CliError::Start { path: store.path().to_owned(), first, option: "--start-block", asked })
        }
        _ => Ok(()),
    }
}

fn describe(args: &NodeArgs, module: Vec<u8>) -> PoolBuilder {
    let least = usize::from(args.redundancy);
    // At most one worker more than the blocks need: it is for views.
    let builder = args.pool.builder_within(module, args.max_block_bytes, least, least + 1);
    builder.layer_bytes(LAYER_BYTES).faults(args.plant_fault.clone())
}

/// What the indexing thread needs and what may fail to open. It is opened before memory is committed.
struct Opened {
    files: Option<FileFeed>,
    snapshots: Option<Snapshots>,
}

impl Opened {
    /// Opens the files to index first, and the directory of the snapshots of `module`.
    fn open(parts: &Parts, module: Hash) -> Result<Self, CliError> {
        let schedule = parts.args.snapshots(module);
        let snapshots =
            schedule.map(|schedule| Snapshots::start(Arc::clone(&parts.store), schedule)).transpose();
        Ok(Self { snapshots: snapshots?, files: open_files(parts)? })
    }
}

/// Serves while blocks are indexed, until indexing ends or a signal comes. `module` is the hash of the module.
async fn serve(parts: Arc<Parts>, builder: PoolBuilder, module: Hash) -> Result<CommandExit, CliError> {
    parts.service.set_application(Arc::clone(&parts.state) as Arc<dyn cofferdam_http::Application>);
    let server = listen(&parts).await?;
    let starting = |error: tokio::task::JoinError| CliError::Io { what: "starting", source: error.into() };
    let opened = {
        let parts = Arc::clone(&parts);
        tokio::task::spawn_blocking(move || Opened::open(&parts, module))
    };
    let opened = opened.await.map_err(starting)??;
    let builder = shared::reading(builder, &parts.store);
    let started = {
        let parts = Arc::clone(&parts);
        let name = parts.args.module.name();
        tokio::task::spawn_blocking(move || {
            start_pool(builder, &parts.service, &name, &|| parts.stop.is_asked())
        })
    };
    let pool = started.await.map_err(starting)?;
    let pool = match pool {
        Ok(pool) => pool,
        Err(_) if parts.stop.is_asked() => return Ok(CommandExit::Failure),
        Err(error) => return Err(error),
    };
    tracing::info!("serving on {}: profile {}", parts.args.listen()?, pool.profile().hash());
    tell_systemd(&[NotifyState::Ready]);
    let ended = index_beside(&parts, &pool, opened)?;
    let ended = watch(&parts, &pool, ended).await;
    drain(&parts, pool, server).await;
    match ended {
        None => Ok(CommandExit::Success),
        Some(ended) => ended.map(|ended| exit_of(&ended)),
    }
}

/// The exit code for the way in which indexing ended.
fn exit_of(ended: &StopReason) -> CommandExit {
    match ended {
        StopReason::Requested | StopReason::Reached(_) | StopReason::FeedEnded => CommandExit::Success,
        StopReason::BlockFailed(_) => CommandExit::Failure,
    }
}

/// Binds the listeners, and begins to answer requests.
async fn listen(parts: &Arc<Parts>) -> Result<tokio::task::JoinHandle<usize>, CliError> {
    let args = &parts.args;
    let node = NodeBackend {
        service: parts.service.clone(),
        store: Arc::clone(&parts.store),
        state: Arc::clone(&parts.state),
        start_height: args.start(),
        network: noted_network(parts)?,
    };
    let settings = RpcSettings {
        cors: args.cors.clone().unwrap_or(Cors::Off),
        buffered_bytes: args.connections.buffered.0,
        body_timeout: args.connections.body_timeout,
        ..RpcSettings::default()
    };
    let router =
        cofferdam_http::application_router(parts.service.clone(), rpc::router(Arc::new(node), settings));
    if let Some(address) = &args.agent {
        tokio::spawn(cofferdam_http::agent(bind(address).await?, parts.service.clone()));
    }
    let listener = bind(&args.listen()?).await?;
    let bounds = args.connections.bounds();
    let served = server::serve(listener, router, parts.service.clone(), bounds, args.drain.timeout);
    Ok(tokio::spawn(served))
}

/// The network that the operator or the store names.
fn noted_network(parts: &Parts) -> Result<Option<Network>, CliError> {
    let noted = parts.store.network()?;
    Ok(parts.args.network.or_else(|| noted?.parse().ok()))
}

type Outcome = Result<StopReason, CliError>;

/// Indexes in a thread of its own.
fn index_beside(
    parts: &Arc<Parts>,
    pool: &Arc<Pool>,
    opened: Opened,
) -> Result<oneshot::Receiver<Outcome>, CliError> {
    let (sender, ended) = oneshot::channel();
    let (parts, pool) = (Arc::clone(parts), Arc::clone(pool));
    let index = move || {
        let outcome = index(&parts, &pool, opened);
        if let Err(error) = &outcome {
            parts.state.record_end(error.to_string());
        }
        // If the process is ending, nothing receives the outcome.
        drop(sender.send(outcome));
    };
    let thread = thread::Builder::new().name("cofferdam-index".to_owned()).spawn(index);
    thread.map(|_| ended).map_err(CliError::io("a thread to index"))
}

fn index(parts: &Parts, pool: &Arc<Pool>, opened: Opened) -> Outcome {
    let Opened { files, snapshots } = opened;
    let Parts { args, stop, store, state, service } = parts;
    let settings = PipelineSettings {
        policy: args.on_guest_failure.into(),
        batch: args.durability.batch(),
        redundant: args.redundancy > 1,
        ..PipelineSettings::default()
    };
    let observer = {
        let (state, service) = (Arc::clone(state), service.clone());
        Box::new(move |outcome: &cofferdam_chain::Outcome| {
            state.record_commit(outcome);
            service.record_block(outcome.height, outcome.digest, &outcome.result);
            if let Some(snapshots) = &snapshots {
                snapshots.committed(outcome.height);
            }
        })
    };
    let mut pipeline = Pipeline::resume(Arc::clone(pool), Arc::clone(store), settings, observer)?;
    state.watch_commits(pipeline.watch());
    index_sources(parts, &mut pipeline, files, &|| stop.is_asked())
}

/// Indexes files, if there are any, and then follows the daemon, if there is one.
fn index_sources(
    parts: &Parts,
    pipeline: &mut Pipeline,
    files: Option<FileFeed>,
    is_asked: &(dyn Fn() -> bool + Sync),
) -> Outcome {
    let Parts { args, store, state, .. } = parts;
    let exit_at = match args.exit_at {
        Some(ExitAt::Height(height)) => Some(height),
        _ => None,
    };
    let exit_at_tip = args.exit_at == Some(ExitAt::Tip);
    let mut indexer = Indexer::new(pipeline, store, state, args.max_reorg_depth, is_asked);
    indexer.stop_height = exit_at;
    indexer.stop_at_tip = exit_at_tip;
    let mut ended = StopReason::FeedEnded;
    if let Some(mut files) = files {
        if let Some(network) = files.network() {
            indexer.pipeline.write(|store| store.set_network(&network.to_string()))?;
        }
        let keeps_on = args.daemon_rpc_url.is_some();
        indexer.stop_at_tip = exit_at_tip && !keeps_on;
        ended = match indexer.run(&mut files) {
            // The Bitcoin node has the blocks that are missing in the files, or are not written yet.
            Err(IndexError::Feed(FeedError::Blocks(error))) if keeps_on && error.is_incomplete() => {
                tracing::warn!("{error}. The Bitcoin node is asked for the blocks from here on");
                StopReason::FeedEnded
            }
            ended => ended.map_err(error_of)?,
        };
        indexer.stop_at_tip = exit_at_tip;
    }
    let Some(settings) = args.daemon(noted_network(parts)?)? else { return Ok(ended) };
    if !matches!(ended, StopReason::FeedEnded) {
        return Ok(ended);
    }
    let tip = store.tip()?.map(|record| Tip::of(&record));
    let indexed = Arc::clone(store);
    let committed_hash = move |height| hash_in(&indexed, height);
    let follower = Follower::start(settings, tip.map(|tip| (tip.height, tip.hash)), committed_hash);
    let mut follower = follower.map_err(|error| error_of(IndexError::Feed(error.into())))?;
    indexer.run(&mut follower).map_err(error_of)
}

/// The hash of the block that is indexed at a height; none below the first height.
fn hash_in(store: &Store, height: u32) -> Result<Option<BlockHash>, LookupError> {
    Ok(store.indexed(height)?.map(|record| Tip::of(&record).hash))
}

/// Opens the files to index first, if there are any.
fn open_files(parts: &Parts) -> Result<Option<FileFeed>, CliError> {
    let Parts { args, store, .. } = parts;
    let inputs = args.inputs()?;
    if inputs.is_empty() {
        return Ok(None);
    }
    let options = Options {
        start_height: args.asked_start(),
        max_block_bytes: args.max_block_bytes.0,
        ..Options::default()
    };
    let tip = store.tip()?.map(|record| Tip::of(&record));
    let bar = super::logging::bar(None, "scanning blocks {bar:40} {bytes}/{total_bytes} {eta}");
    let feed = FileFeed::open(
        &inputs,
        &options,
        tip.map(|tip| (tip.height, tip.hash)),
        |height| hash_in(store, height),
        args.max_reorg_depth,
        &mut |scanned, total| {
            bar.set_length(total);
            bar.set_position(scanned);
        },
    );
    bar.finish_and_clear();
    feed.map(Some).map_err(|error| error_of(error.into()))
}

fn error_of(error: IndexError) -> CliError {
    match error {
        IndexError::Chain(error) => error.into(),
        IndexError::Store(error) => error.into(),
        IndexError::Feed(error) => CliError::Feed(error),
    }
}

/// Waits until indexing has ended for good, a signal comes, or no worker is left. Returns how indexing ended, if it did.
async fn watch(parts: &Parts, pool: &Arc<Pool>, mut ended: oneshot::Receiver<Outcome>) -> Option<Outcome> {
    const LOOK: Duration = Duration::from_millis(100);
    let mut look = tokio::time::interval(LOOK);
    let (mut indexed, mut asked) = (None, None);
    loop {
        tokio::select! {
            outcome = &mut ended, if indexed.is_none() => {
                let outcome = outcome.unwrap_or(Err(CliError::Indexer));
                // Without a Bitcoin node, the state that was indexed from files is still served.
                let serves_on = matches!(outcome, Ok(StopReason::FeedEnded)) && parts.args.exit_at.is_none();
                if !serves_on {
                    return Some(outcome);
                }
                tracing::info!("every block is indexed: serving views");
                indexed = Some(outcome);
            }
            _ = look.tick() => {
                tell_systemd(&[NotifyState::Watchdog]);
                if parts.stop.is_asked() && indexed.is_some() {
                    return indexed;
                }
                if pool.is_lost() && indexed.is_some() {
                    return Some(Err(cofferdam_pool::PoolError::NoWorker.into()));
                }
                if parts.stop.is_asked() {
                    // The indexing thread commits the blocks that it has taken, and then ends.
                    parts.service.drain();
                    parts.state.give_up_commits();
                    let since = *asked.get_or_insert_with(Instant::now);
                    if since.elapsed() > parts.args.drain.timeout {
                        // A block that takes too long is ended. The next start of the node runs it again.
                        let pool = Arc::clone(pool);
                        drop(tokio::task::spawn_blocking(move || pool.drain(Duration::ZERO)).await);
                    }
                }
            }
        }
    }
}

/// Ends the node: readiness fails first, load balancers get time to notice, running requests finish, and the workers end.
async fn drain(parts: &Parts, pool: Arc<Pool>, server: tokio::task::JoinHandle<usize>) {
    tell_systemd(&[NotifyState::Stopping]);
    parts.service.drain();
    // A node that ends by itself, at --exit-at or by a failure, does not wait for load balancers.
    if parts.stop.is_asked() {
        tokio::time::sleep(parts.args.drain.delay).await;
    }
    parts.service.close();
    let cut = server.await.unwrap_or(0);
    if cut > 0 {
        let timeout = parts.args.drain.timeout;
        tracing::error!("{cut} requests were cut off: they ran for longer than --drain-timeout {timeout:?}");
    }
    let ended = tokio::task::spawn_blocking(move || pool.drain(Duration::ZERO)).await;
    tracing::debug!("the pool has ended; every job finished: {}", ended.unwrap_or(false));
    match parts.state.tip() {
        Some(tip) => tracing::info!("ended: the newest block is {}", tip.height),
        None => tracing::info!("ended: no block was indexed"),
    }
}
