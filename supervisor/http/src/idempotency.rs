//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request with the key of an earlier request gets the answer
//! of the earlier request. Two requests with the same key never run at the same time.
//!
//! Only answers with a verdict of the guest are kept. An answer about this process, for example "no worker is ready", may
//! be different a second later.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use moka::sync::Cache;

use crate::answer::Answer;
use crate::problem::Problem;
use crate::settings::Settings;

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

type Outcome = Result<Arc<Answer>, Problem>;
type Running = Shared<BoxFuture<'static, Outcome>>;

/// The key of a request, and the fingerprint of the request: a different request with the same key is refused.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    name: String,
    fingerprint: Hash,
}

/// The answers to requests with a key: future answers of running requests, and kept answers of earlier requests.
#[derive(Debug)]
pub(crate) struct KeyedAnswers {
    running: Mutex<HashMap<String, (Hash, Running)>>,
    kept: Cache<String, (Hash, Arc<Answer>)>,
}

impl Key {
    /// The key in `headers`, if there is one. `fingerprint` computes the fingerprint of the request.
    pub(crate) fn of(
        headers: &HeaderMap,
        fingerprint: impl FnOnce() -> Hash,
    ) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
        let name = value.to_str().unwrap_or_default();
        if name.is_empty() || name.len() > MAX_KEY_BYTES {
            return Err(Problem::Malformed(format!(
                "Idempotency-Key: expected 1 to {MAX_KEY_BYTES} printable ASCII characters"
            )));
        }
        Ok(Some(Self { name: name.to_owned(), fingerprint: fingerprint() }))
    }
}

impl KeyedAnswers {
    pub(crate) fn new(settings: &Settings) -> Self {
        let weigh = |name: &String, (_, answer): &(Hash, Arc<Answer>)| {
            u32::try_from(name.len() as u64 + answer.retained_bytes()).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder()
            .max_capacity(settings.remembered_bytes)
            .time_to_live(settings.remembered_for)
            .weigher(weigh)
            .build();
        Self { running: Mutex::default(), kept }
    }

    /// The answer for `key`: a kept answer, the answer of a request with this key that runs now, or the answer that `work` gives.
    ///
    /// `work` continues if this future is dropped, because other requests may wait for the same answer. It must therefore
    /// not contain the deadline of one client: put the deadline around this future.
    pub(crate) async fn get(
        self: &Arc<Self>,
        key: Key,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Outcome {
        let mut own = Some(work);
        loop {
            let (running, is_own) = {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((fingerprint, answer)) = self.kept.get(&key.name) {
                    return if fingerprint == key.fingerprint { Ok(answer) } else { Err(Problem::KeyReused) };
                }
                match (running.get(&key.name), own.take()) {
                    (Some((fingerprint, _)), _) if *fingerprint != key.fingerprint => {
                        return Err(Problem::KeyReused);
                    }
                    (Some((_, running)), work) => {
                        let joined = running.clone();
                        own = work;
                        (joined, false)
                    }
                    (None, Some(work)) => {
                        let shared = self.begin(&key, work);
                        running.insert(key.name.clone(), (key.fingerprint, shared.clone()));
                        (shared, true)
                    }
                    (None, None) => {
                        return Err(Problem::Internal(
                            "a request with an Idempotency-Key was started twice".to_owned(),
                        ));
                    }
                }
            };
            match running.await {
                // The other request has used up its time in the queue. This request arrived later and may still wait.
                Err(Problem::WaitTimedOut { .. }) if !is_own => {}
                outcome => return outcome,
            }
        }
    }

    fn begin(self: &Arc<Self>, key: &Key, work: impl Future<Output = Outcome> + Send + 'static) -> Running {
        let task = tokio::spawn(work);
        let (answers, key) = (Arc::clone(self), key.clone());
        // This is a separate task, so that the key is removed from `running` even if no request waits any more.
        let finish = tokio::spawn(async move {
            let outcome = task.await.unwrap_or_else(|error| Err(Problem::Internal(error.to_string())));
            let mut running = answers.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(answer) = &outcome
                && matches!(answer.verdict, Verdict::Guest(_))
            {
                answers.kept.insert(key.name.clone(), (key.fingerprint, Arc::clone(answer)));
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
    async fn two_requests_at_once_run_once_and_a_failure_of_the_host_is_not_kept() {
        let answers = Arc::new(KeyedAnswers::new(&Settings::default()));
        let (runs, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let work = || {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            async move {
                runs.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Err(Problem::Draining)
            }
        };
        let ask = |answers: &Arc<KeyedAnswers>, request: &'static [u8]| {
            let (answers, work) = (Arc::clone(answers), work());
            tokio::spawn(async move { answers.get(key("one", request), work).await.map(drop) })
        };
        let (first, second) = (ask(&answers, b"a"), ask(&answers, b"a"));
        while runs.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(&answers, b"b").await.unwrap(), Err(Problem::KeyReused));
        // One notification: a second run would wait for ever.
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
