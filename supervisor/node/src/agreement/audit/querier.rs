//! Queries several sources in parallel. No source is queried twice for the same height.

use std::collections::BTreeMap;
use std::thread;

use super::error::AuditError;
use super::source::{ChainDigest, DigestSource, SourceError, SourceInfo};

/// The answer of a source about one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The digest at the height.
    Digest(ChainDigest),
    /// The chain of the source begins at this height, above the requested one.
    BeginsAt(u32),
}

/// The sources, and the answers that they have given.
pub(super) struct Querier<'a> {
    sources: &'a [&'a dyn DigestSource],
    /// The answers of each source, by height.
    answers: Vec<BTreeMap<u32, Answer>>,
}

impl<'a> Querier<'a> {
    pub(super) fn new(sources: &'a [&'a dyn DigestSource]) -> Self {
        Self { sources, answers: vec![BTreeMap::new(); sources.len()] }
    }

    /// What every source says about itself.
    pub(super) fn info(&self) -> Result<Vec<SourceInfo>, AuditError> {
        let all: Vec<_> = (0..self.sources.len()).collect();
        self.ask(&all, |source| source.info())
    }

    /// The answers about `height` of the sources with the indices `of`.
    pub(super) fn digests(&mut self, height: u32, of: &[usize]) -> Result<Vec<Answer>, AuditError> {
        let unknown: Vec<_> =
            of.iter().copied().filter(|source| !self.answers[*source].contains_key(&height)).collect();
        let answers = self.ask(&unknown, |source| match source.digest(height) {
            Ok(digest) => Ok(Answer::Digest(digest)),
            Err(SourceError::BeforeStart { start, .. }) => Ok(Answer::BeginsAt(start)),
            Err(error) => Err(error),
        })?;
        for (source, answer) in unknown.into_iter().zip(answers) {
            self.answers[source].insert(height, answer);
        }
        Ok(of.iter().map(|source| self.answers[*source][&height]).collect())
    }

    /// The answers of two sources about `height`.
    pub(super) fn pair(&mut self, height: u32, of: [usize; 2]) -> Result<[Answer; 2], AuditError> {
        let answers = self.digests(height, &of)?;
        Ok([answers[0], answers[1]])
    }

    /// Queries the sources with the indices `of` in parallel, each source on a thread of its own.
    fn ask<T: Send>(
        &self,
        of: &[usize],
        query: impl Fn(&dyn DigestSource) -> Result<T, SourceError> + Sync,
    ) -> Result<Vec<T>, AuditError> {
        let query = &query;
        let answers = thread::scope(|scope| {
            let mut asked = Vec::new();
            for source in of.iter().map(|source| self.sources[*source]) {
                let thread = thread::Builder::new().name("cofferdam-audit".to_owned());
                let handle = thread.spawn_scoped(scope, move || query(source)).map_err(AuditError::Thread)?;
                asked.push((source.name(), handle));
            }
            let joined = asked
                .into_iter()
                .map(|(name, handle)| Ok((name, handle.join().map_err(|_| AuditError::Panicked)?)));
            joined.collect::<Result<Vec<_>, AuditError>>()
        })?;
        let (mut given, mut missing) = (Vec::new(), Vec::new());
        for (name, answer) in answers {
            match answer {
                Ok(answer) => given.push(answer),
                Err(error) => missing.push((name.to_owned(), error)),
            }
        }
        if missing.is_empty() { Ok(given) } else { Err(AuditError::NotAnswered(missing)) }
    }
}
