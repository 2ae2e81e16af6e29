//! The same `Idempotency-Key` again gets the same answer, and never a second run beside the first
//! (draft-ietf-httpapi-idempotency-key-header).
//!
//! Only what a guest said is kept: an answer about this process at one moment is no answer to the same request a second
//! later.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use moka::sync::Cache;

use super::answer::Answer;
use super::problem::Problem;
use super::settings::Settings;

/// The most bytes of a key.
const MAX_KEY_BYTES: usize = 255;

type Outcome = Result<Arc<Answer>, Problem>;
type Running = Shared<BoxFuture<'static, Outcome>>;

/// A request's key, and what the request is, so that another request with the same key is found out.
#[derive(Clone, Debug)]
pub(super) struct Key {
    name: String,
    request: Hash,
}

/// Answers by key: those to come and those that were given.
#[derive(Debug)]
pub(super) struct Answers {
    running: Mutex<HashMap<String, (Hash, Running)>>,
    given: Cache<String, (Hash, Arc<Answer>)>,
}

impl Key {
    /// The key that a request's headers name, if they do. `request` says which request it is.
    pub(super) fn of(headers: &HeaderMap, request: impl FnOnce() -> Hash) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
        let name = value.to_str().unwrap_or_default();
        if name.is_empty() || name.len() > MAX_KEY_BYTES {
            return Err(Problem::Malformed(format!(
                "Idempotency-Key: expected 1 to {MAX_KEY_BYTES} printable ASCII characters"
            )));
        }
        Ok(Some(Self { name: name.to_owned(), request: request() }))
    }
}

impl Answers {
    pub(super) fn new(settings: &Settings) -> Self {
        let weigh = |name: &String, (_, answer): &(Hash, Arc<Answer>)| {
            u32::try_from(name.len() as u64 + answer.bytes()).unwrap_or(u32::MAX)
        };
        let given = Cache::builder()
            .max_capacity(settings.remembered_bytes)
            .time_to_live(settings.remembered_for)
            .weigher(weigh)
            .build();
        Self { running: Mutex::default(), given }
    }

    /// The answer to the request with this key: an earlier one, the one that is being made, or that of `work`.
    ///
    /// The work goes on if whoever asked goes away: another may have begun to wait for it. So it must know nothing of one
    /// client's deadline: whoever asks waits for as long as they like.
    pub(super) async fn get(
        self: &Arc<Self>,
        key: Key,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Outcome {
        let mut own = Some(work);
        loop {
            let (running, is_own) = {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((request, answer)) = self.given.get(&key.name) {
                    return if request == key.request { Ok(answer) } else { Err(Problem::KeyReused) };
                }
                match (running.get(&key.name), own.take()) {
                    (Some((request, _)), _) if *request != key.request => return Err(Problem::KeyReused),
                    (Some((_, running)), work) => {
                        let joined = running.clone();
                        own = work;
                        (joined, false)
                    }
                    (None, Some(work)) => {
                        let shared = self.begin(&key, work);
                        running.insert(key.name.clone(), (key.request, shared.clone()));
                        (shared, true)
                    }
                    (None, None) => return Err(Problem::Internal("the work was begun twice".to_owned())),
                }
            };
            match running.await {
                // The other one waited for a turn for as long as it may. This one came later.
                Err(Problem::NoTurn { .. }) if !is_own => {}
                outcome => return outcome,
            }
        }
    }

    fn begin(self: &Arc<Self>, key: &Key, work: impl Future<Output = Outcome> + Send + 'static) -> Running {
        let task = tokio::spawn(work);
        let (answers, key) = (Arc::clone(self), key.clone());
        // Its own task, too, so that it is taken out of the running ones though nobody waits any more.
        let finish = tokio::spawn(async move {
            let outcome = task.await.unwrap_or_else(|error| Err(Problem::Internal(error.to_string())));
            let mut running = answers.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(answer) = &outcome
                && matches!(answer.verdict, Verdict::Guest(_))
            {
                answers.given.insert(key.name.clone(), (key.request, Arc::clone(answer)));
            }
            running.remove(&key.name);
            outcome
        });
        let outcome =
            finish.map(|joined| joined.unwrap_or_else(|error| Err(Problem::Internal(error.to_string()))));
        outcome.boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::HeaderValue;
    use tokio::sync::Notify;

    use super::*;

    fn key(name: &str, request: &[u8]) -> Key {
        let headers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("idempotency-key"),
            HeaderValue::from_str(name).unwrap(),
        )]);
        Key::of(&headers, || Hash::of(request)).unwrap().unwrap()
    }

    #[tokio::test]
    async fn two_at_once_are_run_once_and_what_failed_for_the_host_is_run_again() {
        let answers = Arc::new(Answers::new(&Settings::default()));
        let (runs, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let work = || {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            async move {
                runs.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Err(Problem::Draining)
            }
        };
        let ask = |answers: &Arc<Answers>, request: &'static [u8]| {
            let (answers, work) = (Arc::clone(answers), work());
            tokio::spawn(async move { answers.get(key("one", request), work).await.map(drop) })
        };
        let (first, second) = (ask(&answers, b"a"), ask(&answers, b"a"));
        while runs.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(&answers, b"b").await.unwrap(), Err(Problem::KeyReused));
        // One permit: a second run would wait for ever.
        go.notify_one();
        assert_eq!(first.await.unwrap(), Err(Problem::Draining));
        assert_eq!(second.await.unwrap(), Err(Problem::Draining));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        go.notify_one();
        assert_eq!(ask(&answers, b"a").await.unwrap(), Err(Problem::Draining));
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn keys_are_short_and_printable() {
        let of = |value: &[u8]| {
            let name = axum::http::HeaderName::from_static("idempotency-key");
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).unwrap())]);
            Key::of(&headers, || Hash::of(b"")).is_err()
        };
        assert!(of(b"") && of(&[b'k'; 256]) && of("ü".as_bytes()));
        assert!(!of(&[b'k'; 255]));
    }
}
